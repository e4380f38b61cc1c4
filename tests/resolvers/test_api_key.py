"""API keys: hashed with a key, and never shown."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import HTTPConnection
from werkzeug.wrappers import Request

from tests.driver import environ_of, scope_of
from usercontext.exceptions import ConfigurationError
from usercontext.privacy import hash_id
from usercontext.resolvers import ApiKey

KEY = b"sixteen bytes or more"
HASHED = hash_id("sk_live_1", key=KEY)


@pytest.mark.parametrize(
    "request_with",
    [
        lambda **headers: HTTPConnection(scope_of(**headers)),
        lambda **headers: Request(environ_of(**headers)),
    ],
    ids=["asgi", "wsgi"],
)
def test_the_id_is_a_hash(request_with: Any) -> None:
    """The same key is the same id, which `hash_id` gives as well."""
    resolver = ApiKey(hash_key=KEY)
    assert resolver(request_with(x_api_key="sk_live_1")) == {"id": HASHED}
    assert resolver(request_with(x_api_key="sk_live_2")) != {"id": HASHED}
    assert "sk_live_1" not in HASHED


@pytest.mark.parametrize("headers", [{}, {"x_api_key": ""}, {"x_api_key": "x" * 20_000}])
def test_no_key_is_nobody(headers: Any) -> None:
    """Neither is one that is empty, or longer than any is."""
    assert ApiKey(hash_key=KEY)(HTTPConnection(scope_of(**headers))) is None


def test_a_scheme_or_a_cookie() -> None:
    """The key may stand elsewhere."""
    in_header = ApiKey("authorization", scheme="ApiKey", hash_key=KEY)
    in_cookie = ApiKey(cookie="key", hash_key=KEY)
    assert in_header(HTTPConnection(scope_of(authorization="apikey sk_live_1"))) == {"id": HASHED}
    assert in_header(HTTPConnection(scope_of(authorization="Basic sk_live_1"))) is None
    assert in_cookie(HTTPConnection(scope_of(cookie="key=sk_live_1"))) == {"id": HASHED}


def test_a_lookup_finds_the_user() -> None:
    """It is given the hash, and what it finds is the user; what it does not know is nobody."""
    resolver = ApiKey(hash_key=KEY, lookup={HASHED: {"id": 1}}.get)
    assert resolver(HTTPConnection(scope_of(x_api_key="sk_live_1"))) == {"id": 1}
    assert resolver(HTTPConnection(scope_of(x_api_key="sk_live_2"))) is None


async def find(_hashed: str) -> None:
    """Find nobody."""


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"hash_key": b"short"}, "at least 16"),
        ({"hash_key": None}, "hash_key must be bytes"),
        ({"hash_key": KEY, "lookup": find}, "async def"),
        ({"hash_key": KEY, "lookup": "x"}, "lookup must be a function"),
        ({"hash_key": KEY, "header": " x"}, "header must be a name"),
    ],
)
def test_what_is_refused(options: Any, fix: str) -> None:
    """Wrong options say what to write instead."""
    with pytest.raises(ConfigurationError, match=fix):
        ApiKey(**options)


def test_the_hash_key_is_not_shown() -> None:
    """Nor in the repr, which logs may hold."""
    assert "sixteen" not in repr(ApiKey(hash_key=KEY))
