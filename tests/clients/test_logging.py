"""The standard library's logging: a filter on handlers."""

from __future__ import annotations

import logging
import logging.config
import queue
from logging.handlers import QueueHandler, QueueListener
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.serving import BOTH, serve
from usercontext import ConfigurationError, RequestData, get_user, isolation_scope, set_user
from usercontext.clients.logging import LoggingClient, UserFilter

if TYPE_CHECKING:
    from collections.abc import Iterator

ADA = {"id": 1, "username": "ada", "email": "ada@shop.example"}
log = logging.getLogger("shop.orders")


class Lines(logging.Handler):
    """Keeps the records that it handles."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Add a handler to the root logger."""
    handler = Lines()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


@BOTH
def test_a_line_names_the_known_user(interface: str, lines: Lines) -> None:
    """A record of any logger carries the user's fields as attributes."""

    def handler() -> None:
        set_user(ADA)
        log.info("paid")

    client = LoggingClient([lines])
    serve(interface, handler, client, request_data=RequestData(include_ip=True))
    (record,) = lines.records
    assert (record.user_id, record.user_name) == ("1", "ada")
    assert (record.user_email, record.client_address) == ("ada@shop.example", "203.0.113.9")


@BOTH
def test_a_line_does_not_resolve_by_itself(interface: str, lines: Lines) -> None:
    """By default a line only peeks, so that logging costs no look-up."""
    calls: list[object] = []
    serve(interface, lambda: log.info("paid"), LoggingClient([lines]), resolver=calls.append)
    assert (calls, lines.records[0].user_id) == ([], None)


@BOTH
def test_a_line_resolves_if_asked(interface: str, lines: Lines) -> None:
    """resolve=True asks for the user of every line."""
    client = LoggingClient([lines], resolve=True)
    serve(interface, lambda: log.info("paid"), client, resolver=lambda _: ADA)
    assert lines.records[0].user_id == "1"


def test_a_resolver_that_logs_does_not_recurse(lines: Lines) -> None:
    """Lines that the resolver writes name nobody; the one after it names the user."""

    def resolver(_request: object) -> Any:
        log.info("looking up")
        return ADA

    client = LoggingClient([lines], resolve=True)
    serve("wsgi", lambda: log.info("paid"), client, resolver=resolver)
    assert [(record.msg, record.user_id) for record in lines.records] == [
        ("looking up", None),
        ("paid", "1"),
    ]


def test_a_line_that_names_a_user_itself_is_left_alone(lines: Lines) -> None:
    """The app's own `extra` wins whole: nobody's id stands beside another one's name."""
    LoggingClient([lines]).setup(lambda *_, **__: {"id": "1", "username": "ada"})
    log.info("impersonated", extra={"user_id": 5})
    (record,) = lines.records
    assert record.user_id == 5
    assert not hasattr(record, "user_name")


def test_an_error_that_left_its_request_names_its_user(lines: Lines) -> None:
    """A server logs an error when the request is over: the exception leads to its user."""

    def fail() -> None:
        set_user(ADA)
        raise LookupError("no such order")

    try:
        serve("wsgi", fail, LoggingClient([lines]))
    except LookupError:
        log.exception("Exception in ASGI application")
    assert lines.records[0].user_id == "1"


def test_a_filter_that_fails_loses_no_line(lines: Lines, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong, the line is written and the app goes on; the failure is logged once."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    LoggingClient([lines]).setup(fail)
    log.info("one")
    log.info("two")
    assert [record.msg for record in lines.records if record.name == "shop.orders"] == [
        "one",
        "two",
    ]
    assert len([record for record in caplog.records if record.name == "usercontext"]) == 1


def test_a_format_never_loses_a_line(lines: Lines) -> None:
    """A field that the user lacks is None: a format that names it still works."""
    LoggingClient([lines]).setup(lambda *_, **__: {"id": "1"})
    log.info("paid")
    format_ = logging.Formatter("%(user_id)s %(user_email)s %(message)s")
    assert format_.format(lines.records[0]) == "1 None paid"


def test_behind_a_queue_the_filter_belongs_on_the_queue_handler(lines: Lines) -> None:
    """The listener's thread knows no request: what the queue's own handler has added stays."""
    passing: queue.SimpleQueue[Any] = queue.SimpleQueue()
    entrance = QueueHandler(passing)
    exit_ = Lines()
    exit_.addFilter(UserFilter())
    listener = QueueListener(passing, exit_)
    logging.getLogger().addHandler(entrance)
    try:
        listener.start()
        with isolation_scope(user=ADA):
            LoggingClient([entrance]).setup(lambda *_, **__: get_user_dict())
            log.info("paid")
        listener.stop()
    finally:
        logging.getLogger().removeHandler(entrance)
    assert exit_.records[0].user_id == "1"


def get_user_dict() -> dict[str, Any] | None:
    """Return the current user as a dict."""
    user = get_user()
    return None if user is None else user.to_dict()


def test_dict_config_makes_the_filter() -> None:
    """Named in dictConfig the filter pulls by itself, without any client."""
    name = "tests.clients.configured"
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"user": {"()": "usercontext.clients.logging.UserFilter", "resolve": True}},
            "handlers": {"lines": {"()": Lines, "filters": ["user"]}},
            "loggers": {name: {"handlers": ["lines"], "level": "INFO", "propagate": False}},
        }
    )
    logger = logging.getLogger(name)
    with isolation_scope(resolver=lambda _: ADA):
        logger.info("paid")
    (handler,) = logger.handlers
    assert handler.records[0].user_id == "1"  # type: ignore[attr-defined]


def test_by_default_the_root_loggers_handlers_are_meant(lines: Lines) -> None:
    """LoggingClient() covers what logging.basicConfig() has configured."""
    client = LoggingClient()
    client.setup(lambda *_, **__: {"id": "1"})
    log.info("paid")
    for handler in logging.getLogger().handlers:
        handler.removeFilter(client._filter)
    assert lines.records[0].user_id == "1"


def test_extra_keys_can_be_logged_too(lines: Lines) -> None:
    """`fields` chooses what a line gets, extra keys included, and what it is called."""
    LoggingClient([lines], fields={"id": "who", "plan": "plan"}).setup(
        lambda *_, **__: {"id": "1", "plan": "pro", "email": "ada@shop.example"}
    )
    log.info("paid")
    record = lines.records[0]
    assert (record.who, record.plan, hasattr(record, "user_email")) == ("1", "pro", False)


@pytest.mark.parametrize(
    "fields", [{"id": "name"}, {"id": "message"}, {"id": ""}, {1: "x"}, ["id"]]
)
def test_names_that_cannot_work_are_refused(fields: Any) -> None:
    """A name that every record has, or none at all, is a ConfigurationError."""
    with pytest.raises(ConfigurationError, match="fields"):
        UserFilter(fields=fields)


FORGED = "ada\nCRITICAL user=root\r\x1b[2K\u2028\u202e\x85"
SHOWN = r"ada\nCRITICAL user=root\r\x1b[2K\u2028\u202e\x85"


def test_no_line_is_forged(lines: Lines) -> None:
    """What ends a line, or writes over it, is escaped in a user's fields, nested ones too."""
    client = LoggingClient([lines], fields={"username": "user_name", "teams": "user_teams"})
    client.setup(lambda *_, **__: {"username": FORGED, "teams": [FORGED, {FORGED: "\u00e9"}]})
    log.info("paid")
    (record,) = lines.records
    assert record.user_name == SHOWN
    assert record.user_teams == [SHOWN, {SHOWN: "\u00e9"}]
