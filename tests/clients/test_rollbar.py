"""rollbar: a payload handler behind all others."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
import rollbar
from rollbar.contrib.asgi import ReporterMiddleware
from rollbar.lib import events

from tests.clients.serving import BOTH, serve
from tests.driver import asgi_request, plain_asgi_app, scope_of
from usercontext import RequestData, asgi, init, set_user
from usercontext.clients.rollbar import RollbarClient
from usercontext.testing import client_conformance

if TYPE_CHECKING:
    from collections.abc import Iterator

ADA = {"id": 1, "username": "ada", "email": "ada@shop.example", "plan": "pro"}
SPOOFED = "6.6.6.6"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Keep what rollbar would send, with everything captured."""
    kept: list[Any] = []
    monkeypatch.setattr(rollbar, "_initialized", False)
    rollbar.init("token", handler="blocking", capture_email=True, capture_username=True)
    events.add_payload_handler(lambda payload: kept.append(payload["data"]) or payload)
    monkeypatch.setattr(rollbar, "_send_payload", lambda *_: None)
    yield kept
    events.reset()


def person(sent: list[Any]) -> list[Any]:
    """Return the person of each item."""
    return [item.get("person") for item in sent]


def report() -> None:
    """Report a message."""
    rollbar.report_message("hello")


def test_it_conforms(sent: list[Any]) -> None:
    """Rollbar passes the suite that every client does; its address stands elsewhere."""

    def users() -> list[Any]:
        named = person(sent)
        sent.clear()
        return named

    def make_client() -> RollbarClient:
        events.reset()
        client = RollbarClient()
        events.add_payload_handler(
            lambda payload: client.fill(payload) and (sent.append(payload["data"]) or payload)
        )
        return client

    client_conformance(make_client, report=report, users=users, takes_address=False)


@BOTH
def test_an_item_names_the_user(interface: str, sent: list[Any]) -> None:
    """The person is the resolved user, extra keys included."""
    seen: list[Any] = []
    client = RollbarClient()
    handler = lambda: (report(), seen.append(1))  # noqa: E731
    serve(interface, handler, client, resolver=lambda _: ADA)
    assert person(sent) == [{**ADA, "id": "1"}]


def test_an_error_reported_outside_names_its_user(sent: list[Any]) -> None:
    """Rollbar's middleware outside of ours finds the user on the exception."""

    def fail() -> None:
        set_user(ADA)
        raise LookupError("no such order")

    inner = asgi.UserContextMiddleware(plain_asgi_app(fail), clients=[RollbarClient()])
    with pytest.raises(LookupError):
        asgi_request(ReporterMiddleware(inner), scope_of(x_forwarded_for=SPOOFED))
    assert [one["id"] for one in person(sent)] == ["1"]


def test_an_error_does_not_name_the_next_item(sent: list[Any]) -> None:
    """An error that a handler filtered out leaves nobody behind for the message after it."""
    init(None, clients=[RollbarClient()])
    events.add_exception_info_handler(lambda *_, **__: False, pos=sys.maxsize)

    def fail() -> None:
        set_user(ADA)
        raise LookupError("no such order")

    try:
        serve("wsgi", fail)
    except LookupError:
        rollbar.report_exc_info()
    report()
    assert person(sent) == [None]


@pytest.mark.parametrize("field", ["email", "username"])
def test_rollbars_own_settings_are_kept(
    field: str, sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without capture_email and capture_username these fields are not sent."""
    monkeypatch.setitem(rollbar.SETTINGS, f"capture_{field}", False)
    serve("wsgi", report, RollbarClient(), resolver=lambda _: ADA)
    assert field not in person(sent)[0]


@pytest.mark.parametrize(
    ("setting", "include", "expected"),
    [
        (True, True, "203.0.113.9"),
        ("anonymize", True, "203.0.113.0"),
        (False, True, None),
        (True, False, None),
    ],
    ids=["asked", "anonymized", "rollbar says no", "unasked"],
)
def test_the_address_is_ours(
    setting: Any,
    include: bool,
    expected: Any,
    sent: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rollbar takes the first X-Forwarded-For; ours is sent instead, or none."""
    monkeypatch.setitem(rollbar.SETTINGS, "capture_ip", setting)

    def handler() -> None:
        events.on_payload({"data": made})

    made: Any = {"request": {"user_ip": SPOOFED, "headers": {"X-Forwarded-For": SPOOFED}}}
    serve("wsgi", handler, RollbarClient(), request_data=RequestData(include_ip=include))
    assert made["request"].get("user_ip") == expected
    assert ("X-Forwarded-For" in made["request"]["headers"]) is include


def test_handlers_survive_an_initialisation_that_comes_later(
    sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """rollbar.init() forgets all of them, and its integrations call it late: they are put back."""
    init(None, clients=[RollbarClient()])
    monkeypatch.setattr(rollbar, "_initialized", False)
    rollbar.init("token", handler="blocking")
    kept: list[Any] = []
    events.add_payload_handler(lambda payload: kept.append(payload["data"]) or payload, pos=99)
    serve("wsgi", lambda: (set_user({"id": 1}), report()))
    assert person(kept) == [{"id": "1"}]
    assert len(events._event_handlers[events.PAYLOAD]) == 2


def test_outside_of_requests_nothing_is_changed(sent: list[Any]) -> None:
    """A job's own person stays."""
    init(None, clients=[RollbarClient()])
    rollbar.report_message("hello", payload_data={"person": {"id": "worker"}})
    assert person(sent) == [{"id": "worker"}]


@pytest.mark.parametrize("user", [None, {"id": 1}])
def test_the_person_of_the_app_is_replaced(user: Any, sent: list[Any]) -> None:
    """Inside a request ours is the whole truth, also where it is nobody."""

    def handler() -> None:
        set_user(user)
        rollbar.report_message("hello", payload_data={"person": {"id": "9", "plan": "pro"}})

    serve("wsgi", handler, RollbarClient())
    assert person(sent) == [None if user is None else {"id": "1"}]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, False),
        ({"request_data": RequestData(include_ip=True)}, True),
        ({"request_data": RequestData(include_ip=True), "never_store_ip": True}, False),
    ],
    ids=["unasked", "asked", "never"],
)
def test_local_variables_hold_no_withheld_address(
    options: Any, kept: bool, sent: list[Any]
) -> None:
    """Frames of frameworks hold the environ; what else is in there stays."""

    def fail() -> None:
        environ = {"REMOTE_ADDR": "203.0.113.9", "PATH_INFO": "/cart"}
        try:
            raise LookupError(environ["PATH_INFO"])
        except LookupError:
            rollbar.report_exc_info()

    serve("wsgi", fail, RollbarClient(), **options)
    variables = sent[0]["body"]["trace"]["frames"][-1]["locals"]
    assert "/cart" in str(variables)
    assert ("203.0.113.9" in str(sent)) is kept


def test_rules_hold_for_local_variables(sent: list[Any]) -> None:
    """They overrule what rollbar collects."""

    def fail() -> None:
        mail, cart = "ada@shop.example", 3
        try:
            raise LookupError
        except LookupError:
            rollbar.report_exc_info()
        del mail, cart

    serve("wsgi", fail, RollbarClient(), scrub=["@email"])
    assert "ada@shop.example" not in str(sent)
    assert sent[0]["body"]["trace"]["frames"][-1]["locals"]["cart"] == 3
