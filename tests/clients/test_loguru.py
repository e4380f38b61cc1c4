"""loguru: a patcher, chained behind the app's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from loguru import logger

from tests.clients.serving import BOTH, serve
from usercontext import init, isolation_scope, set_user
from usercontext.clients.loguru import LoguruClient

if TYPE_CHECKING:
    from collections.abc import Iterator

ADA = {"id": 1, "username": "ada"}


@pytest.fixture
def extras() -> Iterator[list[dict[str, Any]]]:
    """Keep the `extra` of every record."""
    kept: list[dict[str, Any]] = []
    logger.remove()
    sink = logger.add(lambda message: kept.append(dict(message.record["extra"])))  # type: ignore[attr-defined]
    yield kept
    logger.remove(sink)
    logger._core.patcher = None  # type: ignore[attr-defined]


@BOTH
def test_a_record_names_the_known_user(interface: str, extras: list[Any]) -> None:
    """The user's fields stand in `record["extra"]`, beside the app's own."""

    def handler() -> None:
        set_user(ADA)
        logger.info("paid", amount=3)

    serve(interface, handler, LoguruClient())
    assert extras == [{"amount": 3, "user_id": "1", "user_name": "ada"}]


@BOTH
@pytest.mark.parametrize("resolve", [False, True])
def test_a_record_resolves_only_if_asked(interface: str, extras: list[Any], resolve: bool) -> None:
    """By default a record peeks; with resolve=True it asks the resolver."""
    client = LoguruClient(resolve=resolve)
    serve(interface, lambda: logger.info("paid"), client, resolver=lambda _: ADA)
    assert ("user_id" in extras[0]) is resolve


def test_the_apps_patcher_still_runs_and_wins(extras: list[Any]) -> None:
    """The patcher configured before runs first; a user that it names is left alone."""
    logger.configure(patcher=lambda record: record["extra"].update(user_id=5, host="web-1"))
    LoguruClient().setup(lambda *_, **__: {"id": "1", "username": "ada"})
    logger.info("paid")
    assert extras == [{"user_id": 5, "host": "web-1"}]


def test_a_patcher_configured_later_can_call_the_client(extras: list[Any]) -> None:
    """Loguru has one patcher: where the app's replaces ours, it calls the client itself."""
    client = LoguruClient()
    client.setup(lambda *_, **__: {"id": "1"})

    def patcher(record: Any) -> None:
        record["extra"]["host"] = "web-1"
        client(record)

    logger.configure(patcher=patcher)
    logger.info("paid")
    assert extras == [{"host": "web-1", "user_id": "1"}]


def test_contextualized_and_bound_fields_are_left_alone(extras: list[Any]) -> None:
    """A user named by contextualize() or bind() wins whole."""
    LoguruClient().setup(lambda *_, **__: {"id": "1", "username": "ada"})
    with logger.contextualize(user_id=5):
        logger.info("one")
    logger.bind(user_name="bob").info("two")
    assert extras == [{"user_id": 5}, {"user_name": "bob"}]


def test_an_error_that_left_its_request_names_its_user(extras: list[Any]) -> None:
    """An error logged when the request is over leads to its user."""

    def fail() -> None:
        set_user(ADA)
        raise LookupError("no such order")

    try:
        serve("wsgi", fail, LoguruClient())
    except LookupError as error:
        logger.opt(exception=error).error("failed")
    assert extras[0]["user_id"] == "1"


def test_a_patcher_that_fails_loses_no_record(extras: list[Any]) -> None:
    """What goes wrong in the client breaks neither the app nor the record."""
    LoguruClient().setup(lambda *_, **__: 1 / 0)  # type: ignore[arg-type]
    logger.info("paid")
    assert extras == [{}]


def test_no_line_is_forged(extras: list[Any]) -> None:
    """What ends a line is escaped in a user's fields."""
    LoguruClient().setup(lambda *_, **__: {"username": "ada\nCRITICAL"})
    logger.info("paid")
    assert extras == [{"user_name": r"ada\nCRITICAL"}]


def test_a_patcher_that_is_configured_later_is_kept(extras: list[Any]) -> None:
    """The first request looks again, and ours runs behind the app's own."""
    client = LoguruClient()
    init(None, clients=[client])
    logger.configure(patcher=lambda record: record["extra"].update(app="shop"))
    for _ in range(2):
        with isolation_scope(user=ADA):
            logger.info("paid")
    assert extras[0]["app"] == "shop"
    assert extras[0]["user_id"] == "1"
    assert extras[1] == extras[0]
