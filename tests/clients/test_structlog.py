"""structlog: a processor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import structlog

from tests.clients.serving import BOTH, serve
from tests.driver import plain_wsgi_app, wsgi_request
from usercontext import RequestData, init, isolation_scope, set_user, wsgi
from usercontext.clients.structlog import StructlogClient
from usercontext.core.context import pull_user

if TYPE_CHECKING:
    from collections.abc import Iterator

ADA = {"id": 1, "username": "ada"}


class Events(list[Any]):
    """The last processor: keeps each event and drops it."""

    def __call__(self, _logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        self.append(dict(event))
        raise structlog.DropEvent


@pytest.fixture
def events() -> Iterator[Events]:
    """Configure structlog as an app does, with the context variables merged first."""
    kept = Events()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, kept], cache_logger_on_first_use=False
    )
    yield kept
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


@BOTH
def test_an_event_names_the_known_user(interface: str, events: Events) -> None:
    """The client alone puts itself among the configured processors."""

    def handler() -> None:
        set_user(ADA)
        structlog.get_logger().info("paid", amount=3)

    serve(interface, handler, StructlogClient(), request_data=RequestData(include_ip=True))
    assert events == [
        {
            "event": "paid",
            "amount": 3,
            "user_id": "1",
            "user_name": "ada",
            "client_address": "203.0.113.9",
        }
    ]


@BOTH
@pytest.mark.parametrize("resolve", [False, True])
def test_an_event_resolves_only_if_asked(interface: str, events: Events, resolve: bool) -> None:
    """By default an event peeks; with resolve=True it asks the resolver."""
    log = structlog.get_logger()
    client = StructlogClient(resolve=resolve)
    serve(interface, lambda: log.info("paid"), client, resolver=lambda _: ADA)
    assert ("user_id" in events[0]) is resolve


def test_what_the_app_has_bound_is_left_alone(events: Events) -> None:
    """A user bound by bind(), by context variables or by the call wins whole."""
    StructlogClient().setup(lambda *_, **__: {"id": "1", "username": "ada"})
    log = structlog.get_logger()
    log.info("one", user_id=5)
    log.bind(user_id=6).info("two")
    structlog.contextvars.bind_contextvars(user_id=7)
    log.info("three")
    assert events == [
        {"event": "one", "user_id": 5},
        {"event": "two", "user_id": 6},
        {"event": "three", "user_id": 7},
    ]


def test_a_logger_bound_before_is_covered(events: Events) -> None:
    """A logger that was bound, and so cached, before init() names the user too."""
    log = structlog.get_logger().bind()
    StructlogClient().setup(lambda *_, **__: {"id": "1"})
    log.info("paid")
    assert events == [{"event": "paid", "user_id": "1"}]


def test_a_processor_that_the_app_has_placed_stays_there() -> None:
    """The client is the processor, and is not inserted a second time."""
    client = StructlogClient()
    kept = Events()
    structlog.configure(processors=[client, kept])
    client.setup(lambda *_, **__: {"id": "1"})
    assert structlog.get_config()["processors"] == [client, kept]
    structlog.reset_defaults()


@pytest.mark.parametrize("form", ["exception", "tuple", "true"])
def test_an_error_that_left_its_request_names_its_user(form: str, events: Events) -> None:
    """An error logged when the request is over leads to its user, however it is given."""

    def fail() -> None:
        set_user(ADA)
        raise LookupError("no such order")

    try:
        serve("asgi", fail, StructlogClient())
    except LookupError as error:
        exc_info = {"exception": error, "tuple": (LookupError, error, None), "true": True}[form]
        structlog.get_logger().error("failed", exc_info=exc_info)
    assert events[0]["user_id"] == "1"


def test_a_processor_that_fails_loses_no_event(events: Events) -> None:
    """What goes wrong in the client breaks neither the app nor the event."""
    StructlogClient().setup(lambda *_, **__: 1 / 0)  # type: ignore[arg-type]
    structlog.get_logger().info("paid")
    assert events == [{"event": "paid"}]


def test_a_resolver_that_logs_does_not_recurse(events: Events) -> None:
    """The resolver's own events name nobody."""
    log = structlog.get_logger()

    def resolver(_request: object) -> Any:
        log.info("looking up")
        return ADA

    StructlogClient(resolve=True).setup(pull_user)
    with isolation_scope(resolver=resolver):
        log.info("paid")
    assert [event.get("user_id") for event in events] == [None, "1"]


def test_no_line_is_forged(events: Events) -> None:
    """What ends a line is escaped in a user's fields."""
    StructlogClient().setup(lambda *_, **__: {"username": "ada\nCRITICAL"})
    structlog.get_logger().info("paid")
    assert events[0]["user_name"] == r"ada\nCRITICAL"


def test_processors_that_are_configured_later_are_found(events: Events) -> None:
    """The first request looks again."""
    structlog.reset_defaults()
    app = wsgi.UserContextMiddleware(plain_wsgi_app(lambda: structlog.get_logger().info("paid")))
    init(None, clients=[StructlogClient(resolve=True)], resolver=lambda _: ADA)
    structlog.configure(processors=[events])
    wsgi_request(app)
    wsgi_request(app)
    assert [event["user_id"] for event in events] == ["1", "1"]
