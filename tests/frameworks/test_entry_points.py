"""Every framework's entry point has one name; the names it had before still work."""

from __future__ import annotations

from importlib import import_module

import pytest

EARLIER = {
    "aiohttp": "UserContextMiddleware",
    "channels": "UserContextMiddleware",
    "falcon": "wrap",
}


@pytest.mark.parametrize("name", EARLIER)
def test_the_entry_point_has_both_names(name: str) -> None:
    """What was imported by an earlier name is what `UserContext` is."""
    pytest.importorskip(name)
    module = import_module(f"usercontext.frameworks.{name}")
    assert module.UserContext is getattr(module, EARLIER[name])
    assert {"UserContext", EARLIER[name]} <= set(module.__all__)
