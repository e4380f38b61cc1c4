"""sentry-sdk's logs, metrics, streamed spans and sessions: what no event processor sees."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest
import sentry_sdk
import sentry_sdk.logger
import sentry_sdk.metrics
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware

from tests.clients.sentry_sdk_kept import IS_3, VERSION
from tests.clients.serving import BOTH, serve
from tests.driver import (
    asgi_call,
    asgi_request,
    environ_of,
    plain_asgi_app,
    plain_wsgi_app,
    scope_of,
    wsgi_request,
)
from usercontext import (
    RequestData,
    asgi,
    bind,
    init,
    isolation_scope,
    set_reporting,
    set_user,
    use_user,
    wsgi,
)
from usercontext.clients.sentry_sdk import SentrySdkClient
from usercontext.clients.sentry_telemetry import clean_attributes
from usercontext.core.record import current

pytestmark = pytest.mark.filterwarnings("ignore:The send_default_pii option is deprecated")

STREAMS = pytest.mark.skipif(VERSION < (2, 66), reason="sentry-sdk streams spans from 2.66 on")

ADA = {"id": 1, "username": "ada"}
SPOOFED = "6.6.6.6"
PEER = "203.0.113.9"
WITH_IP = RequestData(include_ip=True)
LOGS: dict[str, Any] = {"enable_logs": True, "send_default_pii": True}
STREAM: dict[str, Any] = {
    "trace_lifecycle": "stream",
    "traces_sample_rate": 1.0,
    "send_default_pii": True,
}


def say(text: str = "paid") -> None:
    """Log a line and count a metric."""
    sentry_sdk.logger.info(text)
    sentry_sdk.metrics.count("orders", 1)


def users(kept: Any, *kinds: str) -> list[Any]:
    """Return whom the logs name, or other kinds: ids."""
    return [one.get("user.id") for kind in kinds or ("log",) for one in kept.telemetry(kind)]


# --- jobs, blocks and threads -------------------------------------------------------------------


def test_a_jobs_logs_and_metrics_name_its_user(sentry: Any) -> None:
    """In a script there is no middleware that opens a scope: isolation_scope does."""
    kept = sentry(**LOGS)
    init(None, clients=[SentrySdkClient()])
    with isolation_scope(ADA):
        say()
        with isolation_scope():
            set_user({"id": 2})
            say()
        say()
    say()
    assert users(kept, "log", "trace_metric") == ["1", "2", "1", None] * 2


def test_a_job_takes_no_tags_out_of_its_scope(sentry: Any) -> None:
    """Sentry's scopes are forked: an error inside leaves nothing behind."""
    kept = sentry(**LOGS)
    init(None, clients=[SentrySdkClient()])

    def fail() -> None:
        sentry_sdk.set_tag("order", "12")
        sentry_sdk.capture_message("inside")
        raise LookupError

    sentry_sdk.set_tag("worker", "7")
    with pytest.raises(LookupError), isolation_scope(ADA):
        fail()
    sentry_sdk.capture_message("outside")
    assert [event["tags"] for event in kept.of("event")] == [
        {"worker": "7", "order": "12"},
        {"worker": "7"},
    ]
    assert kept.users() == [{"id": "1", "username": "ada"}, None]


def test_jobs_in_tasks_stay_apart(sentry: Any) -> None:
    """Tasks of one script that run at once each log their own user."""
    kept = sentry(**LOGS)
    init(None, clients=[SentrySdkClient()])

    async def job(number: int) -> None:
        with isolation_scope({"id": number}):
            await asyncio.sleep(0)
            sentry_sdk.logger.info(str(number))

    async def run() -> None:
        await asyncio.gather(*(job(number) for number in range(5)))

    asyncio.run(run())
    assert users(kept) == [str(number) for number in range(5)]


@BOTH
@pytest.mark.parametrize("configured", ["middleware", "process"])
def test_blocks_inside_a_request_log_their_own_user(
    interface: str, configured: str, sentry: Any
) -> None:
    """use_user and isolation_scope speak for themselves, and leave the request's user alone."""
    kept = sentry(**LOGS)
    clients = [SentrySdkClient()]
    if configured == "process":
        init(None, clients=clients)

    def handler() -> None:
        set_user(ADA)
        with use_user({"id": 2}):
            say()
        with isolation_scope({"id": 3}):
            say()
        say()

    serve(interface, handler, *(clients if configured == "middleware" else []))
    assert users(kept) == ["2", "3", "1"]


def test_a_bound_threads_logs_name_its_user(sentry: Any) -> None:
    """The thread has none of Sentry's scopes: the record that bind() carries is enough."""
    kept = sentry(**LOGS)

    def handler() -> None:
        set_user(ADA)
        contextvars.Context().run(bind(say))

    serve("wsgi", handler, SentrySdkClient())
    assert users(kept) == ["1"]


@pytest.mark.skipif(IS_3, reason="version 3 has spans alone")
def test_a_jobs_spans_stay_in_their_transaction(sentry: Any) -> None:
    """A job inside a traced request is a part of that request's transaction."""
    kept = sentry(traces_sample_rate=1.0)
    init(None, clients=[SentrySdkClient()])

    def handler() -> None:
        with isolation_scope({"id": 2}), sentry_sdk.start_span(op="job", name="job"):
            pass

    wsgi_request(SentryWsgiMiddleware(wsgi.UserContextMiddleware(plain_wsgi_app(handler))))
    (transaction,) = kept.of("transaction")
    assert [span["op"] for span in transaction["spans"]] == ["job"]
    assert transaction.get("user") is None


@STREAMS
def test_a_jobs_streamed_spans_stay_in_their_trace(sentry: Any) -> None:
    """A job inside a traced request is a part of that request's trace."""
    kept = sentry(**STREAM)
    init(None, clients=[SentrySdkClient()])

    def handler() -> None:
        with isolation_scope({"id": 2}), sentry_sdk.traces.start_span(name="job"):
            pass

    wsgi_request(SentryWsgiMiddleware(wsgi.UserContextMiddleware(plain_wsgi_app(handler))))
    sentry_sdk.flush()
    spans = [span for one in kept.of("span") for span in one["items"]]
    assert [span["is_segment"] for span in spans] == [False, True]
    assert len({span["trace_id"] for span in spans}) == 1


# --- what the SDK's integrations write there ----------------------------------------------------


@BOTH
def test_what_an_integration_tells_the_scope_is_replaced(interface: str, sentry: Any) -> None:
    """Starlette's, Quart's and Litestar's write their user and the header's address there."""
    kept = sentry(**LOGS)

    def handler() -> None:
        sentry_sdk.get_isolation_scope().set_user({"id": "9", "ip_address": SPOOFED})
        say()

    serve(interface, handler, SentrySdkClient(), resolver=lambda _: ADA)
    assert users(kept, "log", "trace_metric") == [None, None]
    assert SPOOFED not in str(kept.items)


def test_the_hooks_of_the_app_still_run(sentry: Any) -> None:
    """Its before_send_log is given what names the user, and may drop it."""
    seen: list[Any] = []

    def drop(log: Any, _hint: object) -> None:
        seen.append(log["attributes"].get("user.id"))

    kept = sentry(before_send_log=drop, **LOGS)
    for _ in range(2):
        serve("wsgi", lambda: (set_user(ADA), say()), SentrySdkClient())
    assert seen == ["1", "1"]
    assert users(kept) == []


def test_without_the_sdks_setting_logs_name_nobody(sentry: Any) -> None:
    """The SDK's own setting decides about it; what the app gives a line itself is left alone."""
    kept = sentry(enable_logs=True)

    def handler() -> None:
        set_user(ADA)
        say()
        sentry_sdk.logger.info("paid", attributes={"user.id": "9"})

    serve("wsgi", handler, SentrySdkClient())
    assert users(kept) == [None, "9"]


def test_without_consent_logs_name_nobody(sentry: Any) -> None:
    """set_reporting(False) holds for logs and metrics, too."""
    kept = sentry(**LOGS)

    def handler() -> None:
        sentry_sdk.set_user({"id": "9", "ip_address": SPOOFED})
        set_user(ADA)
        set_reporting(False)
        say()

    serve("wsgi", handler, SentrySdkClient(), request_data=WITH_IP)
    assert users(kept, "log", "trace_metric") == [None, None]
    assert PEER not in str(kept.items)


@STREAMS
@BOTH
@pytest.mark.parametrize("place", ["outside", "inside"])
@pytest.mark.parametrize("include_ip", [True, False])
def test_nothing_streamed_tells_the_header(
    interface: str, place: str, include_ip: bool, sentry: Any
) -> None:
    """Spans and logs before the user is known have no address but ours, if asked for."""
    kept = sentry(enable_logs=True, **STREAM)

    def handler() -> None:
        with sentry_sdk.traces.start_span(name="query"):
            sentry_sdk.logger.info("before")
        set_user(ADA)
        with sentry_sdk.traces.start_span(name="query"):
            say()

    over_asgi = interface == "asgi"
    theirs: Any = SentryAsgiMiddleware if over_asgi else SentryWsgiMiddleware
    ours: Any = (asgi if over_asgi else wsgi).UserContextMiddleware
    app: Any = plain_asgi_app(handler) if over_asgi else plain_wsgi_app(handler)
    options: Any = {
        "clients": [SentrySdkClient()],
        "request_data": RequestData(include_ip=include_ip),
    }
    app = ours(theirs(app), **options) if place == "inside" else theirs(ours(app, **options))
    if over_asgi:
        asgi_request(app, scope_of(x_forwarded_for=SPOOFED))
    else:
        wsgi_request(app, environ_of(x_forwarded_for=SPOOFED))
    told = kept.telemetry("span") + kept.telemetry("log")
    shown = [{n: v for n, v in one.items() if not n.startswith("http.request")} for one in told]
    assert len(told) == 5
    assert SPOOFED not in str(shown)
    assert (PEER in str(shown)) is include_ip
    if not include_ip:
        assert SPOOFED not in str(told)


@STREAMS
@BOTH
@pytest.mark.parametrize("place", ["outside", "inside"])
def test_the_span_of_a_failing_request_names_its_user(
    interface: str, place: str, sentry: Any
) -> None:
    """There is no response to ask at: the segment itself asks, or the error that passes."""
    kept = sentry(**STREAM)

    def fail() -> None:
        raise LookupError

    over_asgi = interface == "asgi"
    theirs: Any = SentryAsgiMiddleware if over_asgi else SentryWsgiMiddleware
    ours: Any = (asgi if over_asgi else wsgi).UserContextMiddleware
    app: Any = plain_asgi_app(fail) if over_asgi else plain_wsgi_app(fail)
    options: Any = {"clients": [SentrySdkClient()], "resolver": lambda _: ADA}
    app = ours(theirs(app), **options) if place == "inside" else theirs(ours(app, **options))
    with pytest.raises(LookupError):
        asgi_request(app) if over_asgi else wsgi_request(app)
    assert users(kept, "span") == ["1"]


# --- sessions -----------------------------------------------------------------------------------


def sessions(kept: Any) -> list[Any]:
    """Return whom the sessions name, and their addresses."""
    sentry_sdk.flush()
    return [(one.get("did"), one.get("attrs", {}).get("ip_address")) for one in kept.of("session")]


@BOTH
def test_a_session_names_the_user(interface: str, sentry: Any) -> None:
    """One that the app begins in a request is the user's, with our address."""
    kept = sentry(release="1", send_default_pii=True)

    def handler() -> None:
        sentry_sdk.start_session()
        sentry_sdk.set_user({"id": "9", "ip_address": SPOOFED})
        set_user(ADA)
        sentry_sdk.end_session()

    serve(interface, handler, SentrySdkClient(), request_data=WITH_IP)
    assert sessions(kept) == [("1", PEER)]


def test_a_sessions_user_is_replaced_whole(sentry: Any) -> None:
    """The SDK only ever adds to what a session knows: ours removes what the new user lacks."""
    kept = sentry(release="1")

    def session(*users: Any) -> None:
        sentry_sdk.start_session()
        for user in users:
            set_user(user)
        sentry_sdk.end_session()

    def handler() -> None:
        session({"id": 1, "ip_address": "198.51.100.7"}, {"id": 2})
        session(ADA, None)

    serve("wsgi", handler, SentrySdkClient())
    assert sessions(kept) == [("2", None), (None, None)]


def test_a_jobs_session_names_its_user(sentry: Any) -> None:
    """As in a request."""
    kept = sentry(release="1")
    init(None, clients=[SentrySdkClient()])
    with isolation_scope(ADA):
        sentry_sdk.start_session()
        sentry_sdk.end_session()
    assert sessions(kept) == [("1", None)]


def test_a_session_of_the_process_is_nobodys(sentry: Any) -> None:
    """Requests and jobs count in it; it does not take their users."""
    kept = sentry(release="1")
    init(None, clients=[SentrySdkClient()])
    sentry_sdk.start_session()
    with isolation_scope(ADA):
        sentry_sdk.capture_exception(LookupError())
    sentry_sdk.end_session()
    assert sessions(kept) == [(None, None)]
    assert kept.of("session")[0]["errors"] == 1


@BOTH
def test_the_sessions_of_requests_are_only_counted(interface: str, sentry: Any) -> None:
    """Those that Sentry's middleware begins are sums, and name nobody."""
    kept = sentry(release="1", auto_session_tracking=True, send_default_pii=True)
    over_asgi = interface == "asgi"
    options: Any = {"clients": [SentrySdkClient()], "request_data": WITH_IP}
    if over_asgi:
        ours: Any = asgi.UserContextMiddleware(plain_asgi_app(lambda: set_user(ADA)), **options)
        asyncio.run(asgi_call(SentryAsgiMiddleware(ours), scope_of(x_forwarded_for=SPOOFED)))
    else:
        ours = wsgi.UserContextMiddleware(plain_wsgi_app(lambda: set_user(ADA)), **options)
        wsgi_request(SentryWsgiMiddleware(ours), environ_of(x_forwarded_for=SPOOFED))
    sentry_sdk.flush()
    (counted,) = kept.of("sessions")
    assert [one["exited"] for one in counted["aggregates"]] == [1]
    assert "did" not in str(counted)
    assert SPOOFED not in str(counted)


@pytest.mark.parametrize("value", [f"{SPOOFED}, 10.0.0.1", [SPOOFED, "10.0.0.1"]])
def test_a_header_that_holds_nothing_but_addresses(value: Any) -> None:
    """It goes by its value, under whatever name a platform sends it; others stay."""
    attributes = {"http.request.header.x-cdn-seen": value, "http.request.header.x-cart": "7"}
    seen: list[Any] = []

    def look() -> None:
        record = current()
        assert record is not None
        clean_attributes(attributes, record, None)
        seen.append(attributes)

    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(look)), scope_of())
    assert seen == [{"http.request.header.x-cart": "7"}]
