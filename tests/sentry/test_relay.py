"""Events of ours as Sentry's own Relay reads them: unchanged, and without errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

import usercontext
from tests.driver import asgi_request, plain_asgi_app, scope_of
from usercontext import RequestData, User, asgi
from usercontext.exceptions import ConfigurationError
from usercontext.request.description import explain
from usercontext.sentry import encode_event
from usercontext.testing import RecordingClient

relay = pytest.importorskip("sentry_relay.processing")

#: What Relay adds to every event, or moves.
ADDED = {"errors", "_meta", "logger", "project", "received", "tags", "type", "version"}


def normalized(event: dict[str, Any]) -> Any:
    """Return what Relay makes of an event."""
    payload = encode_event(event)
    assert payload is not None
    normalizer = relay.StoreNormalizer(project_id=1, protocol_version="7", enable_trimming=True)
    return normalizer.normalize_event(raw_event=payload)


def report(**options: Any) -> dict[str, Any]:
    """Return the event of an exception, with options of the client."""
    recorder = RecordingClient(**options)
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ExceptionGroup("outer", [ValueError("a"), OSError("b")]) from error
    except ExceptionGroup as error:
        event = recorder.build_exception(error, handled=False)
    assert event is not None
    recorder.send(event)
    return recorder.events[0]


def with_user(user: object) -> Any:
    """Return what Relay makes of the user of a report."""
    taken = User.of(user)
    assert taken is not None
    event = {**report(), "user": taken.to_dict()}
    out = normalized(event)
    assert "errors" not in out
    return out["user"]


def test_no_errors() -> None:
    """Relay finds nothing wrong with a report, local variables included."""
    out = normalized(report(release="shop@1.0", environment="test", include_local_variables=True))

    assert "errors" not in out
    assert "_meta" not in out


def test_exceptions_are_unchanged() -> None:
    """Exceptions, with frames, mechanisms and variables, come out as they went in."""
    event = report(include_local_variables=True)

    assert normalized(event)["exception"] == event["exception"]


def test_the_rest_is_unchanged() -> None:
    """So does everything else, but for what Relay moves or adds."""
    event = report(release="shop@1.0", server_name="web-1")
    out = normalized(event)

    for key in event.keys() - {"server_name", "contexts"}:
        assert out[key] == event[key], key
    assert out["tags"] == [["server_name", "web-1"]]
    assert out["contexts"]["runtime"].items() >= event["contexts"]["runtime"].items()
    assert out.keys() - event.keys() <= ADDED


def test_message() -> None:
    """The text of a message comes out as it went in."""
    recorder = RecordingClient()
    event = recorder.build_message("100 % of\n%s {0} ünï", level="warning")
    assert event is not None
    out = normalized(event)

    assert out["logentry"] == {"formatted": "100 % of\n%s {0} ünï"}
    assert out["level"] == "warning"
    assert "errors" not in out


USERS: dict[str, Any] = {
    "id": {"id": 42},
    "zero": {"id": 0},
    "every field": {
        "id": "1",
        "username": "al",
        "email": "al@example.com",
        "name": "Al",
        "ip_address": "203.0.113.7",
    },
    "mapped address": {"ip_address": "::ffff:203.0.113.7"},
    "IPv6": {"id": "1", "ip_address": "2001:DB8:0::7"},
    "control characters": {"id": "a\nb", "username": "\x00"},
    "not ASCII": {"username": "Åsa 🐍"},
}


@pytest.mark.parametrize("user", USERS.values(), ids=USERS)
def test_user_is_unchanged(user: dict[str, Any]) -> None:
    """A user comes out as it went in, and counts as who it was."""
    out = with_user(user)
    taken = User.of(user)
    assert taken is not None

    assert out.pop("sentry_user") == taken.identity
    assert out == taken.to_dict()


def test_extras_move_into_data() -> None:
    """What stands beside the fields is moved into `data`, and is otherwise unchanged."""
    out = with_user({"id": "1", "plan": "pro", "roles": ["a"], "limits": {"a": 1.5}})

    assert out["data"] == {"plan": "pro", "roles": ["a"], "limits": {"a": 1.5}}


def test_no_address_is_inferred() -> None:
    """An address in `request.env` makes no user of nobody."""
    event = {**report(), "request": {"env": {"REMOTE_ADDR": "203.0.113.7"}}}

    assert "user" not in normalized(event)


def test_auto_means_the_resolved_address() -> None:
    """`{{auto}}` that the app asked for becomes the address in `request.env`."""
    recorder = RecordingClient()
    event = recorder.build_message("x")
    assert event is not None
    event["user"] = {"id": "1", "ip_address": "{{auto}}"}
    event["request"] = {"env": {"REMOTE_ADDR": "203.0.113.7"}}
    recorder.send(event)

    assert normalized(recorder.events[0])["user"]["ip_address"] == "203.0.113.7"


@pytest.mark.parametrize("include_ip", [True, False])
def test_auto_of_a_request(include_ip: bool) -> None:
    """The collected address is sent for it; without one it is sent as it is."""
    recorder = RecordingClient()
    usercontext.init(client=recorder, request_data=RequestData(include_ip=include_ip))

    def handler() -> None:
        usercontext.set_user({"id": "1", "ip_address": "{{auto}}"})
        usercontext.capture_message("hello")

    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(handler)), scope_of())
    (event,) = recorder.events
    expected = "203.0.113.9" if include_ip else "{{auto}}"
    assert (event["user"]["ip_address"], "203.0.113.9" in str(event)) == (expected, include_ip)
    assert normalized(event)["user"]["ip_address"] == expected


def test_whole_reports() -> None:
    """A report of a scope, as it is sent, is taken without errors."""
    recorder = RecordingClient()
    usercontext.init(client=recorder)
    with usercontext.isolation_scope({"id": "7", "plan": "pro"}):
        usercontext.capture_exception(ValueError("x"))
    out = normalized(json.loads(json.dumps(recorder.events[0])))

    assert "errors" not in out
    assert out["user"] == {"id": "7", "data": {"plan": "pro"}, "sentry_user": "id:7"}


NAMES = ["a", "a b", "a@1.0+7", "ü", "x" * 64, "x" * 65, "x" * 200, "x" * 201, "a/b",
         "a\\b", "a\nb", "a\tb", ".", "..", "none", "None", "latest", "LATEST", "", " a",
         "a\x00b"]  # fmt: skip


@pytest.mark.parametrize("option", ["release", "environment"])
@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_names_are_checked_as_relay_does(option: str, name: str) -> None:
    """A release or environment that we take is one that Relay keeps as it is."""
    try:
        RecordingClient(**{option: name})
    except ConfigurationError:
        return
    out = normalized({"platform": "python", option: name})

    assert out[option] == name
    assert "errors" not in out


def test_what_is_told_of_the_request_is_unchanged() -> None:
    """How the address was found, and what was kept back, comes out as it went in."""
    told = explain(
        usercontext.RequestData(include_ip=True),
        {"type": "http", "query_string": b"a=1", "client": ("203.0.113.7", 1)},
    )
    out = normalized({**report(), "contexts": {"usercontext": told}})

    assert "errors" not in out
    assert out["contexts"]["usercontext"].items() >= told.items()
