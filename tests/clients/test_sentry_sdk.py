"""sentry-sdk: what it would send, with its own middleware outside of ours, inside, or absent."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import pytest
import sentry_sdk
import sentry_sdk.logger
import sentry_sdk.metrics
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware

from tests.clients.sentry_sdk_kept import IS_3, VERSION
from tests.clients.serving import BOTH
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
from usercontext.core import settings
from usercontext.privacy import hash_id

if TYPE_CHECKING:
    from collections.abc import Iterator

# The old setting is what nearly every app has.
pytestmark = pytest.mark.filterwarnings("ignore:The send_default_pii option is deprecated")

STREAMS = pytest.mark.skipif(VERSION < (2, 66), reason="sentry-sdk streams spans from 2.66 on")

ADA = {"id": 1, "username": "ada"}
SPOOFED = "6.6.6.6"
PEER = "203.0.113.9"
SWITCH = 'data_collection={"user_info": True}' if IS_3 else "send_default_pii=True"
KEY = "sixteen bytes at least"
WITH_IP = RequestData(include_ip=True)
PLACES = pytest.mark.parametrize("place", ["absent", "outside", "inside"])


def serve(interface: str, place: str, handler: Any, **options: Any) -> None:
    """Serve a request with a spoofed header, Sentry's middleware being in its place."""
    over_asgi = interface == "asgi"
    theirs: Any = SentryAsgiMiddleware if over_asgi else SentryWsgiMiddleware
    ours: Any = (asgi if over_asgi else wsgi).UserContextMiddleware
    app: Any = plain_asgi_app(handler) if over_asgi else plain_wsgi_app(handler)
    app = theirs(app) if place == "inside" else app
    app = ours(app, **{"clients": [SentrySdkClient()], **options})
    app = theirs(app) if place == "outside" else app
    if over_asgi:
        asgi_request(app, scope_of(x_forwarded_for=SPOOFED))
    else:
        wsgi_request(app, environ_of(x_forwarded_for=SPOOFED))


def fail() -> None:
    """Fail as an app does."""
    raise LookupError("no such order")


@BOTH
@PLACES
def test_a_message_names_the_user(interface: str, place: str, sentry: Any) -> None:
    """What is captured in the app names the user, resolved for it, and our address."""
    kept = sentry(send_default_pii=True)
    serve(
        interface,
        place,
        lambda: sentry_sdk.capture_message("hello"),
        resolver=lambda _: ADA,
        request_data=WITH_IP,
    )
    assert kept.users() == [{"id": "1", "username": "ada", "ip_address": PEER}]


@BOTH
@pytest.mark.parametrize("place", ["outside", "inside"])
@pytest.mark.parametrize("pii", [False, True])
def test_an_error_and_its_transaction_name_the_user(
    interface: str, place: str, pii: bool, sentry: Any
) -> None:
    """Sentry's own middleware reports both, when ours is already left or not yet."""
    kept = sentry(traces_sample_rate=1.0, send_default_pii=pii)
    with pytest.raises(LookupError):
        serve(interface, place, fail, resolver=lambda _: ADA)
    assert kept.users() == [{"id": "1", "username": "ada"}]
    # The spans of version 3 name nobody without the SDK's setting.
    named = pii or not IS_3
    assert kept.users("transaction") == [{"id": "1", "username": "ada"} if named else None]


@BOTH
@pytest.mark.parametrize("place", ["outside", "inside"])
def test_a_sampled_transaction_is_resolved(interface: str, place: str, sentry: Any) -> None:
    """A transaction that is sent anyway names the user, although nothing was reported."""
    kept = sentry(traces_sample_rate=1.0, send_default_pii=True)
    serve(interface, place, lambda: None, resolver=lambda _: ADA)
    assert kept.users("transaction") == [{"id": "1", "username": "ada"}]


@BOTH
@PLACES
def test_a_silent_request_is_not_resolved(interface: str, place: str, sentry: Any) -> None:
    """Nothing is sent, so nobody is asked."""
    sentry(traces_sample_rate=0.0, send_default_pii=True)
    calls: list[object] = []
    serve(interface, place, lambda: None, resolver=calls.append)
    assert calls == []


@BOTH
@PLACES
def test_the_spoofed_address_is_never_reported(interface: str, place: str, sentry: Any) -> None:
    """Without include_ip no address leaves, with it ours does: never the header's."""
    kept = sentry(send_default_pii=True, traces_sample_rate=1.0)

    def handler() -> None:
        sentry_sdk.capture_message("hello")

    serve(interface, place, handler, resolver=lambda _: ADA)
    assert PEER not in str(kept.items)
    serve(interface, place, handler, resolver=lambda _: ADA, request_data=WITH_IP)
    addresses = [user.get("ip_address") for user in kept.users() + kept.users("transaction")]
    assert SPOOFED not in str(addresses)
    if interface == "wsgi" and place != "absent":
        assert kept.of("event")[-1]["request"]["env"]["REMOTE_ADDR"] == PEER
        assert SPOOFED not in str(kept.of("event")[0])


@BOTH
@PLACES
def test_explicitly_nobody_is_nobody(interface: str, place: str, sentry: Any) -> None:
    """set_user(None) clears what was pushed, and what the SDK makes of the request."""
    kept = sentry(send_default_pii=True)

    def handler() -> None:
        set_user(ADA)
        set_user(None)
        sentry_sdk.capture_message("hello")

    serve(interface, place, handler, resolver=lambda _: ADA)
    assert kept.users() == [None]


@BOTH
def test_what_the_app_tells_sentry_is_replaced(interface: str, sentry: Any) -> None:
    """Ours is the whole truth inside a request: two identities are never blended."""
    kept = sentry()

    def handler() -> None:
        set_user(ADA)
        sentry_sdk.set_user({"id": "9", "email": "bob@shop.example"})
        sentry_sdk.capture_message("hello")

    serve(interface, "absent", handler)
    assert kept.users() == [{"id": "1", "username": "ada"}]


@BOTH
@PLACES
@pytest.mark.parametrize("include_ip", [True, False])
def test_what_the_app_tells_sentry_stays_where_we_know_nothing(
    interface: str, place: str, include_ip: bool, sentry: Any
) -> None:
    """Without a resolver and a set_user() of ours there is no other source; addresses are ours."""
    kept = sentry(send_default_pii=True, traces_sample_rate=1.0, enable_logs=True)

    def handler() -> None:
        sentry_sdk.set_user({"id": "9", "email": "bob@shop.example", "ip_address": SPOOFED})
        sentry_sdk.capture_message("hello")
        sentry_sdk.logger.info("paid")

    serve(interface, place, handler, request_data=RequestData(include_ip=include_ip))
    bob = {"id": "9", "email": "bob@shop.example", **({"ip_address": PEER} if include_ip else {})}
    transactions = [] if place == "absent" else [bob]
    assert kept.users() + kept.users("transaction") == [bob, *transactions]
    (log,) = kept.telemetry("log")
    assert (log["user.id"], log.get("user.ip_address")) == ("9", bob.get("ip_address"))


@PLACES
@pytest.mark.parametrize("known", ["resolver", "set_user", "consent"])
def test_what_the_app_tells_sentry_goes_where_the_user_is_nobody(
    place: str, known: str, sentry: Any
) -> None:
    """A resolver that finds nobody, set_user(None) and a missing consent are answers."""
    kept = sentry(send_default_pii=True, traces_sample_rate=1.0)

    def handler() -> None:
        sentry_sdk.set_user({"id": "9"})
        if known == "set_user":
            set_user(None)
        elif known == "consent":
            set_reporting(False)
        sentry_sdk.capture_message("hello")

    options: Any = {"resolver": lambda _: None} if known == "resolver" else {}
    serve("wsgi", place, handler, **options)
    assert {str(user) for user in kept.users() + kept.users("transaction")} == {"None"}


def test_scrub_rules_hold_for_whom_the_app_tells_sentry(sentry: Any) -> None:
    """They have the last word over that user, too."""
    kept = sentry()

    def handler() -> None:
        sentry_sdk.set_user({"id": "9", "email": "bob@shop.example"})
        sentry_sdk.capture_message("hello")

    serve("wsgi", "inside", handler, scrub=["$user.email", ("$user.id", "hash")], hash_key=KEY)
    assert kept.users() == [{"id": hash_id("9", key=KEY)}]


@BOTH
@PLACES
def test_what_is_hashed_is_hashed_once(interface: str, place: str, sentry: Any) -> None:
    """However often the SDK runs us on an event: a pseudonym is the same everywhere."""
    kept = sentry()

    def handler() -> None:
        sentry_sdk.set_tag("plan", "pro")
        with isolation_scope():
            sentry_sdk.capture_message("job")
        sentry_sdk.get_current_scope().add_event_processor(lambda event, _hint: event)
        sentry_sdk.capture_message("hello")

    init(None, clients=[SentrySdkClient()], scrub=[("$tags.plan", "hash")], hash_key=KEY)
    serve(interface, place, handler)
    assert [event["tags"]["plan"] for event in kept.of("event")] == [hash_id("pro", key=KEY)] * 2


@PLACES
def test_without_consent_nothing_is_told(place: str, sentry: Any) -> None:
    """set_reporting(False) takes the user and every address out of what the SDK sends."""
    kept = sentry(send_default_pii=True)

    def handler() -> None:
        set_user(ADA)
        set_reporting(False)
        sentry_sdk.capture_message("hello")

    serve("wsgi", place, handler, request_data=WITH_IP)
    assert kept.users() == [None]
    assert PEER not in str(kept.items)
    assert SPOOFED not in str(kept.items)


def test_outside_of_requests_nothing_is_changed(sentry: Any) -> None:
    """A worker that names itself to sentry-sdk stays named."""
    kept = sentry()
    init(None, clients=[SentrySdkClient()])
    sentry_sdk.set_user({"id": "worker-1"})
    sentry_sdk.capture_message("hello")
    assert kept.users() == [{"id": "worker-1"}]


def test_jobs_and_blocks_name_their_own_user(sentry: Any) -> None:
    """An isolation_scope or use_user block inside a request is reported with its own user."""
    kept = sentry()

    def handler() -> None:
        set_user(ADA)
        with use_user({"id": 2}):
            sentry_sdk.capture_message("block")
        with isolation_scope():
            set_user({"id": 3})
            sentry_sdk.capture_message("job")
        sentry_sdk.capture_message("request")

    serve("wsgi", "inside", handler)
    assert [user["id"] for user in kept.users()] == ["2", "3", "1"]


def test_a_bound_thread_names_its_user(sentry: Any) -> None:
    """Threads carry none of Sentry's scopes: the record that bind() carries is enough."""
    kept = sentry()

    def handler() -> None:
        set_user(ADA)
        contextvars.Context().run(bind(sentry_sdk.capture_message), "hello")

    serve("wsgi", "absent", handler)
    assert kept.users() == [{"id": "1", "username": "ada"}]


def test_concurrent_requests_stay_apart(sentry: Any) -> None:
    """Without Sentry's middleware the scopes are ours: neither users nor tags cross."""
    kept = sentry()
    sentry_sdk.set_tag("release", "blue")  # the parent's scope exists before the tasks

    async def handler() -> None:
        number = str(len(kept.items) + len(started))
        started.append(number)
        set_user({"id": number})
        sentry_sdk.set_tag("number", number)
        await asyncio.sleep(0)
        sentry_sdk.capture_message("hello")

    async def run() -> None:
        app = asgi.UserContextMiddleware(plain_asgi_app(handler), clients=[SentrySdkClient()])
        await asyncio.gather(*(asgi_call(app, scope_of()) for _ in range(10)))

    started: list[str] = []
    asyncio.run(run())
    seen = [(event["user"]["id"], event["tags"]["number"]) for event in kept.of("event")]
    assert seen == [(str(number), str(number)) for number in range(10)]


def test_a_threads_next_request_is_blank(sentry: Any) -> None:
    """What a request leaves in Sentry's scopes does not reach the thread's next one."""
    kept = sentry()
    serve("wsgi", "absent", lambda: (set_user(ADA), sentry_sdk.set_tag("plan", "pro")))
    serve("wsgi", "absent", lambda: sentry_sdk.capture_message("hello"))
    assert [(event.get("user"), event.get("tags")) for event in kept.of("event")] == [(None, None)]


@BOTH
def test_a_leaked_context_does_not_carry_a_user(interface: str, sentry: Any) -> None:
    """A server that starts a request in the context of another one changes nobody's user."""
    kept = sentry(enable_logs=True, send_default_pii=True)
    leaked: list[contextvars.Context] = []

    def first() -> None:
        set_user(ADA)
        leaked.append(contextvars.copy_context())

    def second() -> None:
        sentry_sdk.logger.info("nobody")
        sentry_sdk.capture_message("nobody")
        set_user({"id": 2})
        sentry_sdk.capture_message("bob")

    for place in ("inside", "outside"):
        serve(interface, place, first)
        leaked.pop().run(serve, interface, place, second)
    sentry_sdk.flush()
    assert kept.users() == [None, {"id": "2"}] * 2
    assert "user.id" not in str(kept.of("log"))


def test_a_leaked_context_does_not_carry_tags(sentry: Any) -> None:
    """Where ours is in front, the next request starts from scopes that no request has seen."""
    kept = sentry()
    leaked: list[contextvars.Context] = []

    def first() -> None:
        sentry_sdk.set_tag("plan", "pro")
        leaked.append(contextvars.copy_context())

    serve("asgi", "inside", first)
    leaked.pop().run(serve, "asgi", "inside", lambda: sentry_sdk.capture_message("hello"))
    assert [event.get("tags") for event in kept.of("event")] == [None]


def test_every_report_has_a_copy_of_its_own(sentry: Any) -> None:
    """The SDK writes addresses and its filters into what it is given: never into another's."""
    kept = sentry(send_default_pii=True)
    user = {"id": 1, "api_key": "k", "nested": {"password": "p"}}

    def handler() -> None:
        set_user(user)
        sentry_sdk.capture_message("one")
        sentry_sdk.capture_message("two")

    serve("wsgi", "inside", handler, request_data=WITH_IP)
    serve("wsgi", "inside", handler)
    assert [one.get("ip_address") for one in kept.users()] == [PEER, PEER, None, None]
    assert user == {"id": 1, "api_key": "k", "nested": {"password": "p"}}


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged on our logger."""
    return [record.getMessage() for record in caplog.records if record.name == "usercontext"]


@pytest.fixture
def _no_other_middlewares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the middlewares of other tests, which each `init()` looks at."""
    monkeypatch.setattr(settings, "_all_joined", WeakSet())


@pytest.mark.usefixtures("_no_other_middlewares")
@pytest.mark.parametrize("asked_by", ["init", "middleware"])
def test_a_dropped_address_is_warned_about_at_setup(
    asked_by: str, sentry: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK's own settings drop what include_ip adds: that is said before any request, once."""
    sentry()
    if asked_by == "init":
        init(None, clients=[SentrySdkClient()], request_data=WITH_IP)
    else:
        init(None, clients=[SentrySdkClient()])
        assert warnings_of(caplog) == []
        wsgi.UserContextMiddleware(plain_wsgi_app(fail), request_data=WITH_IP)
    (text,) = warnings_of(caplog)
    assert SWITCH in text


def test_an_sdk_initialised_later_is_warned_about_at_the_first_request(
    sentry: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Only then there are settings to look at; it is said once."""
    sentry_sdk.get_global_scope().set_client(None)
    init(None, clients=[SentrySdkClient()], request_data=WITH_IP)
    assert warnings_of(caplog) == []
    kept = sentry()
    app = wsgi.UserContextMiddleware(plain_wsgi_app(lambda: sentry_sdk.capture_message("hello")))
    for _ in range(2):
        wsgi_request(app)
    # Version 3 drops them from all but events.
    assert (PEER in str(kept.items)) is IS_3
    (text,) = warnings_of(caplog)
    assert SWITCH in text


@pytest.mark.usefixtures("_no_other_middlewares")
def test_what_is_not_asked_for_is_not_warned_about(
    sentry: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Without include_ip the SDK's settings are as they should be."""
    sentry()
    init(None, clients=[SentrySdkClient()])
    serve("wsgi", "absent", lambda: None)
    assert warnings_of(caplog) == []


@pytest.mark.parametrize(
    "options",
    [
        {"send_default_pii": True},
        pytest.param(
            {"data_collection": {"user_info": True}},
            marks=pytest.mark.skipif(VERSION < (2, 75), reason="an option of 2.75"),
        ),
    ],
)
def test_an_address_that_is_sent_is_not_warned_about(
    options: Any, sentry: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Either setting lets the address through."""
    kept = sentry(**options)
    hello = lambda: sentry_sdk.capture_message("hello")  # noqa: E731
    serve("asgi", "absent", hello, request_data=WITH_IP)
    assert kept.users() == [{"ip_address": PEER}]
    assert caplog.records == []


@BOTH
def test_scrub_rules_have_the_last_word(interface: str, sentry: Any) -> None:
    """They hold for the SDK's whole event, and a hash is the one that every client reports."""
    kept = sentry()
    serve(
        interface,
        "inside",
        lambda: sentry_sdk.capture_message("from ada@shop.example"),
        resolver=lambda _: {"id": 1, "email": "ada@shop.example"},
        scrub=["@email:mask", ("$user.id", "hash")],
        hash_key=KEY,
    )
    (event,) = kept.of("event")
    assert "ada@" not in str(event)
    assert event["user"]["id"] not in ("1", None)


@BOTH
@PLACES
def test_logs_and_metrics_name_the_known_user(interface: str, place: str, sentry: Any) -> None:
    """No event processor sees them: they take the user that was pushed, and our address."""
    kept = sentry(enable_logs=True, send_default_pii=True)

    def handler() -> None:
        sentry_sdk.logger.info("before")
        set_user(ADA)
        sentry_sdk.logger.info("paid")
        sentry_sdk.metrics.count("orders", 1)
        set_user(None)
        sentry_sdk.logger.info("after")

    serve(interface, place, handler, request_data=WITH_IP)
    sentry_sdk.flush()
    items = [
        item for kind in ("log", "trace_metric") for one in kept.of(kind) for item in one["items"]
    ]
    seen = [item["attributes"].get("user.id", {}).get("value") for item in items]
    assert seen == [None, "1", None, "1"]
    assert SPOOFED not in str(items)


@STREAMS
@BOTH
@pytest.mark.parametrize("place", ["outside", "inside"])
def test_streamed_spans_name_the_user(interface: str, place: str, sentry: Any) -> None:
    """They are sent as they end: the segment has the user, and our address, not the header's."""
    kept = sentry(trace_lifecycle="stream", traces_sample_rate=1.0, send_default_pii=True)
    serve(interface, place, lambda: None, resolver=lambda _: ADA, request_data=WITH_IP)
    sentry_sdk.flush()
    (segment,) = [span for one in kept.of("span") for span in one["items"] if span["is_segment"]]
    attributes = {name: value["value"] for name, value in segment["attributes"].items()}
    assert (attributes["user.id"], attributes["user.name"]) == ("1", "ada")
    assert SPOOFED not in str(
        [value for name, value in attributes.items() if not name.startswith("http.request.header")]
    )


@STREAMS
@BOTH
@pytest.mark.parametrize("place", ["outside", "inside"])
def test_streamed_spans_tell_no_address_unasked(interface: str, place: str, sentry: Any) -> None:
    """Without include_ip the segment has neither an address nor a header that tells one."""
    kept = sentry(trace_lifecycle="stream", traces_sample_rate=1.0, send_default_pii=True)
    serve(interface, place, lambda: None, resolver=lambda _: ADA)
    sentry_sdk.flush()
    assert [len(one["items"]) for one in kept.of("span")] == [1]
    assert SPOOFED not in str(kept.items)
    assert PEER not in str(kept.items)


@PLACES
def test_a_streamed_body_names_the_user(place: str, sentry: Any) -> None:
    """Over WSGI a body runs when the app has returned: still in the request's scopes."""
    kept = sentry()
    theirs: Any = SentryWsgiMiddleware

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        set_user(ADA)
        yield b"one"
        sentry_sdk.capture_message("hello")
        yield b"two"

    served: Any = theirs(app) if place == "inside" else app
    served = wsgi.UserContextMiddleware(served, clients=[SentrySdkClient()])
    wsgi_request(theirs(served) if place == "outside" else served)
    sentry_sdk.capture_message("after")
    assert kept.users() == [{"id": "1", "username": "ada"}, None]


def test_an_async_resolver_names_an_error(sentry: Any) -> None:
    """It cannot be awaited in a hook: it is before the error leaves our middleware."""
    kept = sentry()

    async def resolver(_request: object) -> Any:
        await asyncio.sleep(0)
        return ADA

    with pytest.raises(LookupError):
        serve("asgi", "outside", fail, resolver=resolver)
    assert kept.users() == [{"id": "1", "username": "ada"}]


def test_a_body_closed_by_another_thread_leaves_nobody_behind(sentry: Any) -> None:
    """Some servers close a body elsewhere: the thread's next request is isolated all the same."""
    kept = sentry()

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        set_user(ADA)
        sentry_sdk.set_tag("plan", "pro")
        yield b""

    def two_requests() -> None:
        served: Any = wsgi.UserContextMiddleware(app, clients=[SentrySdkClient()])
        body: Any = served(environ_of(), lambda *_: None)
        list(body)
        contextvars.Context().run(body.close)
        serve("wsgi", "absent", lambda: sentry_sdk.capture_message("hello"))

    contextvars.copy_context().run(two_requests)
    assert [(event.get("user"), event.get("tags")) for event in kept.of("event")] == [(None, None)]


@pytest.mark.parametrize("is_outside", [False, True])
@pytest.mark.parametrize(("include", "never"), [(False, False), (True, True), (True, False)])
def test_local_variables_hold_no_withheld_address(
    include: bool, never: bool, is_outside: bool, sentry: Any
) -> None:
    """Frames of frameworks hold the environ; outside of ours the request is over."""
    kept = sentry(send_default_pii=True)

    def fail() -> None:
        environ = {"REMOTE_ADDR": "203.0.113.9", "PATH_INFO": "/cart"}
        try:
            raise LookupError(environ["PATH_INFO"])
        except LookupError as error:
            if is_outside:
                raise
            sentry_sdk.capture_exception(error)

    options: Any = {"request_data": RequestData(include_ip=include), "never_store_ip": never}
    try:
        serve("wsgi", "absent", fail, resolver=lambda _: {"id": 1}, **options)
    except LookupError as error:
        sentry_sdk.capture_exception(error)
    (event,) = kept.of("event")
    frames = event["exception"]["values"][0]["stacktrace"]["frames"]
    variables = [frame["vars"] for frame in frames if "vars" in frame]
    assert "/cart" in str(variables)
    assert ("203.0.113.9" in str(variables)) is (include and not never)


def test_a_header_with_underscores_tells_no_address(sentry: Any) -> None:
    """ASGI servers hand it on as it was sent."""
    kept = sentry(send_default_pii=True)
    scope = scope_of()
    scope["headers"].append((b"x_real_ip", SPOOFED.encode()))
    ours: Any = asgi.UserContextMiddleware(
        plain_asgi_app(lambda: sentry_sdk.capture_message("hello")), clients=[SentrySdkClient()]
    )
    asgi_request(SentryAsgiMiddleware(ours), scope)
    request = kept.of("event")[-1]["request"]
    assert "host" in request["headers"]
    assert SPOOFED not in str(request)
