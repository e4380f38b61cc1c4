"""Reports that are finished on the worker: the same as those that are built at once."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from typing import TYPE_CHECKING, Any

import pytest

import usercontext
from usercontext import RequestData, asgi
from usercontext.request import withheld
from usercontext.sentry import SentryClient
from usercontext.testing import reset
from usercontext.wsgi import UserContextMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.sentry.server import SentryServer

ENVIRON: dict[str, Any] = {
    "REQUEST_METHOD": "POST",
    "SCRIPT_NAME": "/shop",
    "PATH_INFO": "/orders/17",
    "QUERY_STRING": "page=2&token=hunter2&from=198.51.100.7",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": 8000,
    "REMOTE_ADDR": "10.0.0.2",
    "HTTP_HOST": "shop.example",
    "HTTP_X_FORWARDED_FOR": "198.51.100.7",
    "HTTP_AUTHORIZATION": "Bearer hunter2",
    "HTTP_COOKIE": "session=hunter2; theme=dark",
    "CONTENT_TYPE": "text/plain",
    "wsgi.url_scheme": "https",
    "wsgi.input": object(),
    "werkzeug.proxy_fix.orig": {"REMOTE_ADDR": "10.0.0.3", "wsgi.url_scheme": "http"},
}
ALL = RequestData(
    include_ip=True,
    include_query_string=True,
    include_headers=True,
    include_cookies=True,
    include_data=True,
    trusted_proxies=["10.0.0.0/8"],
)


class Kept:
    """A transport of the app's own: it is given finished events."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def has_room(self) -> bool:
        return True

    def submit(self, event: Any) -> bool:
        self.events.append(event)
        return True

    def discard(self, reason: str) -> None:
        raise AssertionError(reason)

    def flush(self, timeout: float = 2.0) -> bool:
        return True

    close = flush

    def stats(self) -> dict[str, Any]:
        return {}


@pytest.fixture(autouse=True)
def _reset() -> Iterator[None]:
    yield
    reset()


def chained() -> None:
    """Raise an exception that has a cause, with a note."""
    try:
        raise KeyError("first")
    except KeyError as error:
        error.add_note("of the first")
        raise ValueError("second") from error


def grouped() -> None:
    """Raise a group, of which one member was raised."""
    try:
        chained()
    except ValueError as error:
        raise ExceptionGroup("both", [error, TypeError("never raised")]) from None


def reported(options: dict[str, Any], client: SentryClient, fail: Callable[[], None]) -> None:
    """Report an exception in a request, and one without frames."""
    usercontext.init(client=client, **options)

    def app(_environ: Any, _start_response: Any) -> list[bytes]:
        usercontext.set_user({"id": "42", "email": "ada@shop.example"})
        usercontext.set_request_data({"note": "ada@shop.example"})
        try:
            fail()
        except Exception as error:
            usercontext.capture_exception(error)
        usercontext.capture_exception(OSError("never raised"))
        return []

    UserContextMiddleware(app)(dict(ENVIRON), lambda *_: None)  # type: ignore[arg-type,return-value]


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "all": {"request_data": ALL},
    "no URL": {"request_data": RequestData(include_url=False)},
    "scrubbed": {"request_data": ALL, "scrub": ["$request.headers.*", ("$user.email", "mask")]},
    "no address": {"request_data": ALL, "never_store_ip": True},
}


@pytest.mark.parametrize("fail", [chained, grouped])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("settings", [{}, {"include_local_variables": True}], ids=["", "locals"])
def test_same_report(
    server: SentryServer,
    make_client: Callable[..., SentryClient],
    options: dict[str, Any],
    settings: dict[str, Any],
    fail: Callable[[], None],
) -> None:
    """A report is the same, key by key, whoever finishes it; but for its id and time."""
    kept = Kept()
    reported(options, SentryClient(transport=kept, **settings), fail)
    client = make_client(server.dsn, **settings)
    reported(options, client, fail)
    assert client.flush(10.0)
    texts = []
    for events in (kept.events, server.events):
        for event in events:
            del event["event_id"], event["timestamp"]
        texts.append(re.sub("0x[0-9a-f]+", "0x7", json.dumps(events)))  # of objects

    assert texts[0] == texts[1]


def test_request_that_goes_on(
    server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """What the app changes when it has captured is not in the report."""
    client = make_client(server.dsn)
    usercontext.init(client=client, request_data=ALL)
    server.answering.clear()
    client.capture_message("the worker waits for its answer")
    assert server.arrived.acquire(timeout=10)
    scope: dict[str, Any] = {
        "type": "http", "method": "GET", "path": "/before", "query_string": b"",
        "headers": [(b"host", b"shop.example"), (b"x-part", b"before")],
        "client": ("203.0.113.7", 1),
    }  # fmt: skip

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        usercontext.capture_exception(ValueError("x"))
        scope["path"] = "/after"
        scope["headers"][1] = (b"x-part", b"after")
        scope["client"] = ("203.0.113.8", 1)

    asyncio.run(asgi.UserContextMiddleware(app)(scope, None, None))  # type: ignore[arg-type]
    server.answering.set()

    assert client.flush(10.0)
    assert server.events[1]["request"]["url"].endswith("/before")
    assert server.events[1]["request"]["headers"]["X-Part"] == "before"
    assert server.events[1]["request"]["env"] == {"REMOTE_ADDR": "203.0.113.7"}


def test_event_that_the_app_holds(
    server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """Nor is what it changes in an event that its `before_send` has seen."""
    held: list[Any] = []

    def before_send(event: Any) -> Any:
        held.append(event)
        return event

    client = make_client(server.dsn, before_send=before_send)
    server.answering.clear()
    client.capture_message("the worker waits for its answer")
    assert server.arrived.acquire(timeout=10)
    client.capture_exception(ValueError("x"))
    held[1]["exception"]["values"][0]["value"] = "changed"
    held[1]["extra"] = {"changed": True}
    server.answering.set()

    assert client.flush(10.0)
    assert server.events[1]["exception"]["values"][0]["value"] == "x"
    assert "extra" not in server.events[1]


def test_scrubbing_fails_on_the_worker(
    server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """A report that cannot be scrubbed is dropped there, and counted."""
    client = make_client(server.dsn)
    event = client.draft_exception(ValueError("x"))
    assert event is not None

    assert client.send(event, scrub=lambda event: event["no such part"])
    assert client.flush(10.0)
    assert server.received == []
    assert client.stats() == {
        "captured": 1, "sent": 0, "queued": 0, "discarded": {"event_processor": 1}
    }  # fmt: skip


def test_finishing_fails(
    server: SentryServer, make_client: Callable[..., SentryClient], caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of ours there costs that report alone."""
    client = make_client(server.dsn)
    event: Any = client.draft_exception(ValueError("x"))
    event.later(lambda event: event["no such part"])
    client.send(event)
    client.capture_exception(ValueError("y"))

    assert client.flush(10.0)
    assert [each["exception"]["values"][0]["value"] for each in server.events] == ["y"]
    assert client.stats()["discarded"] == {"internal_sdk_error": 1}
    assert caplog.text.count("could not build a report") == 1


def test_an_error_that_changes(
    server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """A report tells what an error said when it was captured, whatever the app makes of it."""
    client = make_client(server.dsn)
    error = ValueError("before")
    error.add_note("noted")
    event = client.draft_exception(error)
    error.args = ("after",)
    error.__notes__[0] = "changed"
    assert event is not None

    client.send(event)
    assert client.flush(10.0)
    assert server.events[0]["exception"]["values"][0]["value"] == "before\nnoted"


@pytest.mark.parametrize(
    "options", [{}, {"before_send": lambda event: event}], ids=["worker", "caller"]
)
def test_hiding_fails(
    options: dict[str, Any],
    server: SentryServer,
    make_client: Callable[..., SentryClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A report in which nothing could be hidden is not sent, and counted, wherever that failed."""
    monkeypatch.setattr(withheld, "hider", lambda *_, **__: {}["no such part"])
    client = make_client(server.dsn, **options)
    reported({}, client, chained)

    assert client.flush(10.0)
    assert server.received == []
    assert client.stats() == {
        "captured": 2, "sent": 0, "queued": 0, "discarded": {"internal_sdk_error": 2}
    }  # fmt: skip


def test_client_of_the_app(server: SentryServer) -> None:
    """A class of the app's own that changes what is sent gets to see whole reports."""
    pytest.importorskip("httpx")
    seen: list[Any] = []

    class Own(SentryClient):
        def send(self, event: Any, **options: Any) -> str | None:
            seen.append(event)
            return super().send(event, **options)

    client = Own(server.dsn)
    reported({}, client, chained)
    client.close(10.0)

    assert type(seen[0]) is dict
    assert seen[0]["exception"]["values"][1]["stacktrace"]["frames"]
    assert seen[0]["request"]["method"] == "POST"


def test_queue_of_drafts_is_bounded_by_bytes(
    server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """Reports that are not finished yet take their part of the queue's memory."""
    client = make_client(server.dsn, max_queue_bytes=30_000)
    server.answering.clear()
    client.capture_message("the worker waits for its answer")
    assert server.arrived.acquire(timeout=10)
    errors = []
    for _ in range(10):
        try:
            chained()
        except ValueError as error:
            errors.append(error)
    for error in errors:
        client.capture_exception(error)

    assert 4 <= client.stats()["queued"] < 9


def test_captured_by_many_threads(
    server: SentryServer, make_client: Callable[..., SentryClient]
) -> None:
    """Each report is whole, whichever threads capture at once."""
    client = make_client(server.dsn, max_queue=1000)
    barrier = threading.Barrier(4)

    def run() -> None:
        barrier.wait()
        for _ in range(50):
            try:
                chained()
            except ValueError as error:
                client.capture_exception(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert client.flush(20.0)
    assert len(server.events) == 200
    assert all(
        value["stacktrace"]["frames"]
        for event in server.events
        for value in event["exception"]["values"]
    )
