"""Several reporting clients at once: one resolver call, and the same user everywhere."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import warnings
from threading import current_thread
from typing import TYPE_CHECKING, Any

import bugsnag
import pytest
import sentry_sdk
import structlog
from bugsnag.configuration import RequestConfiguration
from honeybadger import honeybadger
from loguru import logger
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from raygun4py.raygunprovider import RaygunSender

from tests.clients.serving import BOTH, serve
from tests.driver import asgi_call, plain_asgi_app, scope_of
from usercontext import RequestData, asgi, init, set_user
from usercontext.clients import BaseClient
from usercontext.clients.bugsnag import BugsnagClient
from usercontext.clients.honeybadger import HoneybadgerClient
from usercontext.clients.logging import LoggingClient
from usercontext.clients.loguru import LoguruClient
from usercontext.clients.opentelemetry import OpenTelemetryClient
from usercontext.clients.raygun import RaygunClient
from usercontext.clients.sentry_sdk import SentrySdkClient
from usercontext.clients.structlog import StructlogClient
from usercontext.privacy import hash_id
from usercontext.testing import RecordingClient

if TYPE_CHECKING:
    from collections.abc import Iterator

ADA = {"id": 1, "username": "ada"}


class Six:
    """Six libraries with their clients, and what each said of the user: id and address."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any, Any]] = []
        self.log = logging.Logger("shop")  # noqa: LOG001 - known to nobody else
        handler = logging.Handler()
        handler.emit = lambda one: self.say("logging", vars(one))  # type: ignore[method-assign]
        self.log.addHandler(handler)
        provider = TracerProvider()
        provider.add_span_processor(Ended(self))
        self.tracer = provider.get_tracer("shop")
        self.clients = [
            LoggingClient([handler], resolve=True),
            StructlogClient(resolve=True),
            LoguruClient(resolve=True),
            SentrySdkClient(),
            OpenTelemetryClient(tracer_provider=provider),
            HoneybadgerClient(),
        ]

    def say(self, library: str, fields: Any) -> None:
        """Take what a library's report says of the user."""
        ids = [fields.get(name) for name in ("user_id", "id", "user.id")]
        addresses = [fields.get(n) for n in ("client_address", "ip_address", "client.address")]
        self.said.append((library, max(filter(None, ids), default=None), any(addresses)))

    def report(self) -> None:
        """Have all six report something."""
        self.log.info("x")
        structlog.get_logger().info("x")
        logger.info("x")
        sentry_sdk.capture_message("x")
        with self.tracer.start_as_current_span("x"):
            pass
        honeybadger.notify(LookupError())

    def rounds(self) -> list[set[Any]]:
        """Return, for each round of reports, the different things that the six said."""
        said = [one[1:] for one in self.said]
        return [set(said[start : start + 6]) for start in range(0, len(said), 6)]


class Ended(SpanProcessor):
    """Says what a span says as it ends."""

    def __init__(self, six: Six) -> None:
        self.six = six

    def on_end(self, span: Any) -> None:
        self.six.say("opentelemetry", span.attributes)


@pytest.fixture
def six(monkeypatch: pytest.MonkeyPatch) -> Iterator[Six]:
    """Configure all six libraries, and undo that afterwards."""
    made = Six()

    def drop(_logger: object, _method: str, event: Any) -> Any:
        made.say("structlog", event)
        raise structlog.DropEvent

    class Connection:
        @staticmethod
        def send_notice(_config: Any, notice: Any) -> None:
            made.say("honeybadger", notice.context)

    structlog.configure(processors=[drop])
    logger.remove()
    logger.add(lambda message: made.say("loguru", message.record["extra"]))  # type: ignore[attr-defined]
    hook = honeybadger.config.before_notify
    monkeypatch.setattr(type(honeybadger), "_connection", lambda _self: Connection)
    processors = list(sentry_sdk.scope.global_event_processors)
    before = sentry_sdk.get_global_scope().client
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        sentry_sdk.init(
            "https://key@sentry.example/1",
            default_integrations=False,
            auto_enabling_integrations=False,
            send_default_pii=True,
            before_send=lambda event, _hint: made.say("sentry", event.get("user") or {}),
        )
    yield made
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(before)
    sentry_sdk.scope.global_event_processors[:] = processors
    honeybadger.configure(before_notify=hook)
    logger.remove()
    logger._core.patcher = None  # type: ignore[attr-defined]
    structlog.reset_defaults()


@BOTH
def test_one_resolver_call_names_the_user_everywhere(interface: str, six: Six) -> None:
    """Six libraries report, and the resolver is asked once."""
    calls: list[object] = []

    def resolver(request: object) -> Any:
        calls.append(request)
        return ADA

    with_ip = RequestData(include_ip=True)
    serve(interface, six.report, *six.clients, resolver=resolver, request_data=with_ip)
    assert [library for library, *_ in six.said] == [
        "logging",
        "structlog",
        "loguru",
        "sentry",
        "opentelemetry",
        "honeybadger",
    ]
    assert six.rounds() == [{("1", True)}]
    assert len(calls) == 1


@BOTH
def test_a_change_reaches_all(interface: str, six: Six) -> None:
    """set_user() in the middle of a request changes all six, and None clears all."""

    def handler() -> None:
        for user in (ADA, {"id": 2}, None):
            set_user(user)
            six.report()

    serve(interface, handler, *six.clients)
    assert six.rounds() == [{("1", False)}, {("2", False)}, {(None, False)}]


@BOTH
def test_scrub_rules_hold_for_all(interface: str, six: Six) -> None:
    """What a rule removes leaves through none of them; no address does unasked."""
    serve(interface, six.report, *six.clients, resolver=lambda _: ADA, scrub=["$user.id"])
    assert six.rounds() == [{(None, False)}]


def test_concurrent_requests_stay_apart_in_all(six: Six) -> None:
    """Each of the requests in flight is named by all six as its own user."""

    async def handler() -> None:
        set_user({"id": next(numbers)})
        await asyncio.sleep(0)
        six.report()

    async def run() -> None:
        app = asgi.UserContextMiddleware(plain_asgi_app(handler), clients=six.clients)
        await asyncio.gather(*(asgi_call(app, scope_of()) for _ in range(5)))

    numbers = iter(range(5))
    asyncio.run(run())
    assert six.rounds() == [{(str(number), False)} for number in range(5)]


@BOTH
def test_rules_and_addresses_hold_for_all(interface: str, six: Six) -> None:
    """A hashed id is the same pseudonym in all six, beside our address."""
    rule, key = ("$user.id", "hash"), "sixteen bytes at least"
    options: Any = {"scrub": [rule], "hash_key": key, "request_data": RequestData(include_ip=True)}
    serve(interface, six.report, *six.clients, resolver=lambda _: ADA, **options)
    assert six.rounds() == [{(hash_id("1", key=key), True)}]


def test_requests_in_threads_stay_apart_in_all(six: Six) -> None:
    """Over WSGI each thread's requests, one after the other, are named as their own users."""
    both = threading.Barrier(2, timeout=10)

    def handler() -> None:
        set_user({"id": current_thread().name})
        both.wait()
        with reporting:
            six.report()
        set_user(None)
        both.wait()
        with reporting:
            six.report()

    def requests() -> None:
        for _ in range(2):
            serve("wsgi", handler, *six.clients)

    reporting = threading.Lock()
    threads = [threading.Thread(target=requests, name=name) for name in ("1", "2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = [min(one, key=str) for one in six.rounds() if len(one) == 1]
    assert sorted(map(str, seen)) == sorted(
        map(str, [("1", False), ("2", False)] * 2 + [(None, False)] * 4)
    )


class Shared:
    """Libraries that keep a user for the whole process or in a scope that tasks share."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []
        self.sender = RaygunSender("key")
        self.sender.on_before_send(lambda details: self.say("raygun", details["user"]))
        self.clients = [
            SentrySdkClient(),
            BugsnagClient(),
            HoneybadgerClient(),
            RaygunClient(self.sender),
        ]

    def say(self, library: str, user: Any) -> None:
        """Take what a library's report says of the user."""
        user = user or {}
        ids = [user.get(name) for name in ("id", "user_id", "identifier")]
        self.said.append((library, next(filter(None, ids), None)))

    def deliver(self, _config: Any, payload: Any, options: Any = None) -> None:
        """Take bugsnag's payload."""
        for event in json.loads(payload)["events"]:
            self.say("bugsnag", event["user"])

    def tell(self) -> None:
        """Tell each library a user outside of any request, as a worker does at its start."""
        sentry_sdk.set_user({"id": "worker"})
        bugsnag.configure_request(user={"id": "worker"})
        honeybadger.set_context(user_id="worker")
        self.sender.set_user({"identifier": "worker"})

    def report(self) -> None:
        """Have all of them report something."""
        sentry_sdk.capture_message("x")
        try:
            raise LookupError
        except LookupError as error:
            bugsnag.notify(error)
            honeybadger.notify(error)
            self.sender.send_exception()


@pytest.fixture
def shared(six: Six) -> Iterator[Shared]:
    """Configure these libraries, two of them as those of the six are."""
    made = Shared()
    six.say = made.say  # type: ignore[method-assign]
    bugsnag.configure(
        api_key="0" * 32, delivery=made, asynchronous=False, auto_capture_sessions=False
    )
    stack = bugsnag.configure().middleware
    callbacks = list(stack.stack)
    with sentry_sdk.isolation_scope():
        yield made
    stack.stack[:] = callbacks
    RequestConfiguration.clear()
    honeybadger.reset_context()


@BOTH
def test_a_user_of_the_process_reaches_no_request(interface: str, shared: Shared) -> None:
    """Neither one whose user is known nor one of nobody; outside of requests it stays."""
    init(None, clients=shared.clients)
    shared.tell()
    for user in (ADA, None):
        serve(interface, lambda user=user: (set_user(user), shared.report()))  # type: ignore[misc]
    assert [one for _, one in shared.said] == ["1"] * 4 + [None] * 4
    shared.said.clear()
    shared.report()
    assert {one for _, one in shared.said} == {"worker"}


def test_requests_at_once_stay_apart_beside_a_user_of_the_process(shared: Shared) -> None:
    """The scope that was made before the tasks is shared by none of them."""

    async def handler() -> None:
        number = next(numbers)
        set_user({"id": number} if number % 2 else None)
        await asyncio.sleep(0)
        shared.report()

    async def run() -> None:
        app = asgi.UserContextMiddleware(plain_asgi_app(handler), clients=shared.clients)
        await asyncio.gather(*(asgi_call(app, scope_of()) for _ in range(4)))

    numbers = iter(range(4))
    shared.tell()
    asyncio.run(run())
    assert [one for _, one in shared.said] == [None] * 4 + ["1"] * 4 + [None] * 4 + ["3"] * 4


class Broken(BaseClient):
    """Fails wherever it is called."""

    def setup(self, *_: Any) -> None:
        raise LookupError("setup")

    def request_scope(self, *_: Any) -> Any:
        raise LookupError("request_scope")

    def is_recording(self) -> bool:
        raise LookupError("is_recording")

    def set_user(self, *_: Any) -> None:
        raise LookupError("set_user")


@BOTH
def test_a_client_that_fails_harms_no_other(
    interface: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The request is served, the next client gets its user, and each failure is logged once."""
    recorder = RecordingClient(recording=True)
    for _ in range(3):
        serve(interface, lambda: None, Broken(), recorder, resolver=lambda _: ADA)
    assert recorder.users == [{"id": "1", "username": "ada"}] * 3
    logged = [record.getMessage() for record in caplog.records if record.name == "usercontext"]
    assert sorted(logged) == [
        f"reporting client Broken failed in {name}()"
        for name in ("is_recording", "request_scope", "set_user", "setup")
    ]
