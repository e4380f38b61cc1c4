"""Scopes and environs have one reader, which takes both for what they say of a request."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import usercontext
from tests.requests_of import environ_of, scope_of
from usercontext import source
from usercontext.source import without_addresses

ROOT = Path(usercontext.__file__).parent
KEYS = re.compile(r'"REQUEST_METHOD"|["\']HTTP_|"werkzeug\.proxy_fix')
#: The suite for clients makes an environ, and reads none.
MAKES_ONE = {"source.py", "testing/conformance.py"}
BUILDERS = pytest.mark.parametrize("build", [scope_of, environ_of])
HEADERS = [("Host", "shop.example:8000"), ("Accept", "a"), ("Accept", "b")]


def test_nobody_else_knows_the_keys() -> None:
    """A key that one reader knows and another forgets is how an address leaves."""
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if KEYS.search(path.read_text(encoding="utf-8"))
    }
    assert readers == MAKES_ONE


def test_the_two_interfaces_are_told_apart() -> None:
    """An environ always has a method under its own key, and a scope never."""
    assert source.is_environ(environ_of())
    assert not source.is_environ(scope_of())


@BUILDERS
def test_both_say_the_same(build: Any) -> None:
    """Whichever interface a request came through."""
    made = build("203.0.113.9", HEADERS)
    assert (source.method(made), source.scheme(made)) == ("GET", "http")
    assert (source.path(made), source.query(made)) == (b"/", "")
    assert source.host(made) == "shop.example:8000"
    assert source.server(made) == ("198.51.100.1", "80")
    assert source.headers(made) == {"host": "shop.example:8000", "accept": "a,b"}
    assert "203.0.113.9" in list(source.peers(made))


@pytest.mark.parametrize("broken", [{"headers": 7, "client": 7, "server": 7}, {"headers": [7]}])
def test_a_broken_scope_says_nothing(broken: dict[str, Any]) -> None:
    """What is of no use is passed over, and nothing raises."""
    assert source.headers(broken) == {}
    assert source.host(broken) == ""
    assert source.server(broken) == ("", "")
    assert not source.has_remote_address(broken)


def test_the_peer_that_proxy_fix_replaced_is_known() -> None:
    """It stands beside what the proxy said."""
    fixed = environ_of("6.6.6.6") | {"werkzeug.proxy_fix.orig": {"REMOTE_ADDR": "10.0.0.7"}}
    assert source.has_proxy_fix(fixed)
    assert list(source.peers(fixed)) == ["6.6.6.6", "10.0.0.7"]


@BUILDERS
def test_a_copy_without_addresses(build: Any) -> None:
    """No key is left that holds one, and the source itself stays whole."""
    made = build("203.0.113.9", [("X-Peer", "6.6.6.6"), ("Accept", "a")])
    kept = without_addresses(made, lambda name: name.lower().replace("_", "-") == "x-peer")
    assert source.headers(kept) == {"accept": "a"}
    assert "203.0.113.9" not in str(kept)
    assert "203.0.113.9" in str(made)
