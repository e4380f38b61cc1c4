"""What of a frame's variables is told."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usercontext.sentry.event.local_variables import describe_locals


def describe(**variables: Any) -> dict[str, Any]:
    """Return how variables of these names are told."""
    namespace: dict[str, Any] = dict(variables)
    exec("frame = __import__('sys')._getframe()", {}, namespace)
    return describe_locals(namespace.pop("frame"))


class Thing:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Raises:
    def __repr__(self) -> str:
        raise RuntimeError("no")


SHOWN = {
    "int": (7, "7"),
    "str": ("a'b", '"a\'b"'),
    "none": (None, "None"),
    "bytes": (b"x", "b'x'"),
    "list": ([1, "a"], ["1", "'a'"]),
    "dict": ({"a": {"b": 1}}, {"a": {"b": "1"}}),
    "object": (Thing("<thing>"), "<thing>"),
    "raising": (Raises(), f"<{__name__}.Raises: __repr__ raised RuntimeError>"),
    "int beyond all": (10**5000, "<int>"),
    "deep": ([[[[1]]]], [[["[…]"]]]),
    "deep dict": ({"a": {"b": {"c": {"d": 1}}}}, {"a": {"b": {"c": "{…}"}}}),
    "ASGI scope": ({"type": "http", "asgi": {}, "client": ("6.6.6.6", 1)}, "<ASGI scope>"),
    "WSGI environ": ({"wsgi.input": 1, "REMOTE_ADDR": "6.6.6.6"}, "<WSGI environ>"),
    "mapping": (UserDict(client="6.6.6.6"), "<collections.UserDict>"),
    "header": ([("X-Real-IP", "6.6.6.6")], [["'X-Real-IP'", "[Filtered]"]]),
    "raw header": ([(b"cookie", b"a=b")], [["b'cookie'", "[Filtered]"]]),
    "pair": (("a", 1), ["'a'", "1"]),
    "secret key": ({"api_key": "x", "b": 1}, {"api_key": "[Filtered]", "b": "1"}),
    "secret bytes key": ({b"Authorization": "x"}, {"b'Authorization'": "[Filtered]"}),
    "address key": ({"REMOTE_ADDR": "6.6.6.6"}, {"REMOTE_ADDR": "[Filtered]"}),
    "repr with a secret": (
        Thing("Login(name='al', password='hunter2')"), "Login(name='al', password=[Filtered])",
    ),
    "error": (
        ValueError("could not convert string to float: 'hunter2'"),
        "<builtins.ValueError: could not convert string to float: '[Filtered]'>",
    ),
    "error with all that was read": (
        UnicodeDecodeError("utf-8", b"hunter2\xff", 7, 8, "bad"),
        "<builtins.UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff in position 7: bad>",
    ),
    "text of a URL": (
        "postgresql://ada:hunter2@db.example/shop", "'postgresql://[Filtered]@db.example/shop'",
    ),
    "text of a query": ("/v1?api_token=hunter2&b=1", "'/v1?api_token=[Filtered]&b=1'"),
    "text of JSON": ('{"password": "hunter2"}', "'{\"password\": \"[Filtered]\"}'"),
    "bytes of a form": (b"a=1&password=hunter2", "b'a=1&password=[Filtered]'"),
    "secret beyond the cut": ("a://" + "b" * 505 + ":hunter2@c", "'a://[Filtered]@c'"),
    "repr of a header": (
        Thing("<Request Authorization: Bearer hunter2>"), "<Request Authorization: [Filtered]>",
    ),
    "repr of a dict": (Thing("D({'token': 'hunter2'})"), "D({'token': [Filtered]})"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "shown"), SHOWN.values(), ids=SHOWN)
def test_shown(value: object, shown: object) -> None:
    """Each kind of value is told as text, without what nobody asked for."""
    assert describe(value=value)["value"] == shown


SECRETS = ["password", "db_PASSWORD", "auth_header", "api_key", "jwt", "sessionid",
           "csrfmiddleware", "remote_addr", "x_forwarded_for", "client_ip", "client", "ip",
           "ip_address"]  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_secret_names(name: str) -> None:
    """A name that looks secret, or like an address, keeps its value for itself."""
    assert describe(**{name: "hunter2"}) == {name: "[Filtered]"}


@pytest.mark.parametrize("name", ["script", "zip_code", "description", "clients", "shipping"])
def test_harmless_names(name: str) -> None:
    """Names that only resemble those are told."""
    assert describe(**{name: "x"}) == {name: "'x'"}


def test_many_variables() -> None:
    """A frame tells 40 variables at most."""
    assert len(describe(**{f"v{n}": n for n in range(100)})) == 40


def test_many_items() -> None:
    """A list or dict tells 20 items, and how many more there are."""
    shown = describe(items=list(range(100)), table={str(n): n for n in range(100)})

    assert shown["items"][20:] == ["… 80 more"]
    assert len(shown["table"]) == 21
    assert shown["table"]["…"] == "80 more"


def test_long_text() -> None:
    """A text tells 512 characters."""
    shown = describe(text="x" * 10_000_000, thing=Thing("y" * 10_000))

    assert len(shown["text"]) == 512
    assert len(shown["thing"]) == 512


def test_namespace_that_raises() -> None:
    """A class body may run in a mapping of the app's own, which may raise."""

    class Namespace(UserDict[str, Any]):
        def keys(self) -> Any:
            raise RuntimeError("no")

    namespace = Namespace()
    exec("frame = __import__('sys')._getframe()", {}, namespace)

    assert describe_locals(namespace["frame"]) == {}


def test_module_names() -> None:
    """A module's own names are left out."""
    assert describe(__file__="x", a=1) == {"a": "1"}


@given(
    st.recursive(
        st.none() | st.text() | st.binary() | st.floats() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.binary(), inner),
        max_leaves=10,
    )
)
def test_any_value(value: Any) -> None:
    """No value raises."""
    assert describe(value=value)


def test_many_values_of_a_frame() -> None:
    """All variables of a frame share one bound: whoever captures waits for them."""
    cube = [[list(range(20))] * 20] * 20
    shown = describe(**{f"v{number}": cube for number in range(40)})

    assert len(shown) == 40
    assert len(str(shown)) < 20_000


def test_few_values_after_many() -> None:
    """What there is no room for is marked, never silently left out."""
    cube = [[list(range(20))] * 20] * 20
    shown = describe(first=cube, then="x", last=[1, 2])

    assert shown["then"] == "…"
    assert shown["last"] == "…"
