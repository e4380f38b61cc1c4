"""What a DSN means, and what an error about one tells."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usercontext.exceptions import InvalidDsnError
from usercontext.sentry import Dsn
from usercontext.sentry.dsn import sqlite_path

ENDPOINTS = {
    "plain": ("https://key@sentry.example/1", "https://sentry.example/api/1/envelope/"),
    "secret": ("https://key:s3cret@sentry.example/1", "https://sentry.example/api/1/envelope/"),
    "port": ("http://key@localhost:8000/42", "http://localhost:8000/api/42/envelope/"),
    "path": ("https://key@host/a/b/7", "https://host/a/b/api/7/envelope/"),
    "closing slash": ("https://key@host/7/", "https://host/api/7/envelope/"),
    "ipv4": ("http://key@127.0.0.1:9/1", "http://127.0.0.1:9/api/1/envelope/"),
    "ipv6": ("http://key@[::1]:9/1", "http://[::1]:9/api/1/envelope/"),
    "named project": ("https://key@host/shop-eu", "https://host/api/shop-eu/envelope/"),
    "upper case": ("HTTPS://Key@Sentry.Example/1", "https://sentry.example/api/1/envelope/"),
}

BAD = {
    "no scheme": "hunter2@host/1",
    "other scheme": "ftp://hunter2@host/1",
    "no key": "https://host/hunter2/1",
    "no host": "https://hunter2@/1",
    "no project": "https://hunter2@host",
    "no project after a path": "https://hunter2@host/",
    "empty project": "https://hunter2@host//",
    "port beyond all": "https://hunter2@host:99999/1",
    "port of zero": "https://hunter2@host:0/1",
    "port of letters": "https://key@host:hunter2/1",
    "secret with an @ and a slash": "https://key:hunter2@x/@host/1 ",
    "blank": "https://hunter2@ho st/1",
    "newline": "https://hunter2@host/1\nX: y",
    "options": "https://hunter2@host/1?timeout=1",
    "empty options": "https://hunter2@host/1?",
    "fragment": "https://hunter2@host/1#x",
    "key with a comma": "https://hunter2,x=1@host/1",
    "unclosed bracket": "https://hunter2@[::1/1",
    "no IPv6 in brackets": "https://hunter2@[hunter2]/1",
    "address of the future": "https://hunter2@[v1.x]/1",
    "host with a comma": "https://hunter2@a,b/1",
    "letters beyond ASCII": "https://hunter2@höst/1",
    "path with a quote": 'https://hunter2@host/a"b/1',
}


@pytest.mark.parametrize(("text", "endpoint"), ENDPOINTS.values(), ids=ENDPOINTS)
def test_endpoint(text: str, endpoint: str) -> None:
    """A DSN says where envelopes are posted."""
    assert Dsn(text).endpoint == endpoint


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_bad_dsn(text: str) -> None:
    """A wrong DSN is refused, without telling a part of it, saying what to write."""
    with pytest.raises(InvalidDsnError) as caught:
        Dsn(text)

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    "value", [b"https://hunter2@host/1", 7, ["x"]], ids=["bytes", "int", "list"]
)
def test_not_a_str(value: object) -> None:
    """What is not a str is refused by its type alone."""
    with pytest.raises(InvalidDsnError, match=type(value).__name__) as caught:
        Dsn(value)  # type: ignore[arg-type]

    assert "hunter2" not in str(caught.value)


def test_keys_are_not_shown() -> None:
    """Neither repr nor str of a DSN shows a key."""
    dsn = Dsn("https://publickey:hunter2@host:1/a/1")

    assert str(dsn) == "https://***@host:1/a/1"
    assert "publickey" not in repr(dsn) + str(dsn)


def test_secret_is_not_kept() -> None:
    """What goes into an envelope's header holds the public key and not the secret."""
    assert Dsn("https://key:hunter2@[::1]:1/a/1").public == "https://key@[::1]:1/a/1"


def test_equal_by_value() -> None:
    """Two DSNs of the same project are equal."""
    one, other = Dsn("https://key:a@host/1"), Dsn("https://key@host/1/")

    assert one == other
    assert hash(one) == hash(other)
    assert one != Dsn("https://key@host/2")
    assert one != "https://key@host/1"


@given(st.text() | st.from_regex(r"https?://[ -~]*@[ -~]*/[ -~]*", fullmatch=True))
def test_any_text(text: str) -> None:
    """Any text is a DSN or an InvalidDsnError, nothing else."""
    with contextlib.suppress(InvalidDsnError):
        assert Dsn(text).endpoint.isprintable()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sqlite:///reports.db", "reports.db"),
        ("sqlite:///a/b c.db", "a/b c.db"),
        ("sqlite:////var/lib/reports.db", "/var/lib/reports.db"),
        ("https://key@host/1", None),
        (None, None),
    ],
)
def test_sqlite_path(text: str | None, path: str | None) -> None:
    """Three slashes begin a relative path, four an absolute one."""
    assert sqlite_path(text) == path


@pytest.mark.parametrize(
    "text",
    ["sqlite:", "sqlite://", "sqlite:///", "sqlite:////", "sqlite://x.db", "sqlite:x.db",
     "sqlite:///:memory:", "sqlite:///x.db?mode=ro"],
)  # fmt: skip
def test_bad_sqlite_dsn(text: str) -> None:
    """An SQLite DSN that names no file says how to write one."""
    with pytest.raises(InvalidDsnError, match=r"sqlite:///relative\.db"):
        sqlite_path(text)
