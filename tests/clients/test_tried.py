"""A library's version outside of what was tried is said once at `init()`, by name and number."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest

from usercontext import clients, init
from usercontext.clients.structlog import StructlogClient
from usercontext.clients.tried import TRIED, Tried, say_untried

ROOT = Path(__file__).parent.parent.parent


class Client:
    """A client as the one of a module is."""


@pytest.mark.parametrize(
    ("version", "is_said"),
    [
        ("2.54.0", False),
        ("2.75.1", False),
        ("3.0.0b2", False),
        ("3.4", False),
        ("2.53.9", True),
        ("1.45", True),
        ("4.0.0a1", True),
        ("10.0", True),
        ("unknown", True),
    ],
)
def test_versions(
    version: str, is_said: bool, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """One is outside if it is older than our extra asks for, or newer by its first number."""
    monkeypatch.setattr(metadata, "version", lambda _: version)
    monkeypatch.setattr(Client, "__module__", f"{clients.__name__}.sentry_sdk")
    say_untried(Client)
    said = [record.getMessage() for record in caplog.records]
    text = f"sentry-sdk {version} is outside of what Client was tried with, 2.54 to 3.0"
    assert [one.partition(":")[0] for one in said] == [text] * is_said


def test_below_1_the_second_number_counts(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """A version 0.8 may break whatever it likes."""
    monkeypatch.setattr(metadata, "version", lambda _: "0.8.0")
    monkeypatch.setattr(Client, "__module__", f"{clients.__name__}.loguru")
    say_untried(Client)
    assert "loguru 0.8.0" in caplog.text


def test_it_is_said_at_init_once(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """And the client works as far as it can."""
    structlog = pytest.importorskip("structlog")
    monkeypatch.setattr(metadata, "version", lambda _: "99.1")
    try:
        for _ in range(2):
            init(None, clients=[StructlogClient()])
    finally:
        structlog.reset_defaults()
    (record,) = caplog.records
    assert record.getMessage() == (
        "structlog 99.1 is outside of what StructlogClient was tried with, 24.1 to 26.1: it works "
        "as far as that version lets it"
    )


def test_what_is_installed_without_a_version_is_not_spoken_of(
    monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """A copy of a library on the path has none."""
    monkeypatch.setattr(Client, "__module__", f"{clients.__name__}.rollbar")
    monkeypatch.setattr(metadata, "version", _absent)
    say_untried(Client)
    assert caplog.text == ""


def _absent(name: str) -> str:
    raise metadata.PackageNotFoundError(name)


def test_every_client_of_a_library_is_known() -> None:
    """One that is added says which versions it is tried with; logging is Python's own."""
    made = {
        path.stem
        for path in Path(clients.__file__).parent.glob("*.py")
        if re.search(r"^class \w+Client\(", path.read_text("utf-8"), re.MULTILINE)
    }
    shared = {"hooks", "log_fields", "logging", "payload", "transaction"}
    assert made - shared == TRIED.keys()


@pytest.mark.parametrize("tried", TRIED.values(), ids=TRIED)
def test_the_oldest_is_what_our_extra_asks_for(tried: Tried) -> None:
    """The two are one claim."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {one for each in project["optional-dependencies"].values() for one in each}
    assert f"{tried.package}>={tried.oldest}" in extras


@pytest.mark.parametrize("module", TRIED)
def test_what_the_tests_run_with_is_tried(module: str, caplog: Any) -> None:
    """A new release of the first number is seen here, before it is said to anybody."""
    kinds = [
        kind
        for kind in vars(import_module(f"usercontext.clients.{module}")).values()
        if isinstance(kind, type) and kind.__module__.endswith(f".{module}")
    ]
    for kind in kinds:
        say_untried(kind)
    assert caplog.text == ""
