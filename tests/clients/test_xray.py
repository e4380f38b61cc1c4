"""AWS X-Ray: the user of the segments that begin and end."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import TYPE_CHECKING, Any
from weakref import ref

import flask
import pytest
from aws_xray_sdk.core import xray_recorder
from aws_xray_sdk.core.async_context import AsyncContext
from aws_xray_sdk.core.context import Context
from aws_xray_sdk.core.exceptions.exceptions import AlreadyEndedException
from aws_xray_sdk.core.models.facade_segment import FacadeSegment
from aws_xray_sdk.ext.flask.middleware import XRayMiddleware

from tests.clients.serving import BOTH, serve
from tests.driver import (
    asgi_call,
    environ_of,
    plain_asgi_app,
    plain_wsgi_app,
    scope_of,
    wsgi_request,
)
from usercontext import RequestData, asgi, init, isolation_scope, set_user, use_user, wsgi
from usercontext.clients.xray import FIELDS, XRayClient
from usercontext.core.record import current
from usercontext.exceptions import ConfigurationError
from usercontext.testing import client_conformance

if TYPE_CHECKING:
    from collections.abc import Iterator

ADA = {"id": 1, "username": "ada", "email": "ada@shop.example"}
ADAS = {"user_name": "ada", "user_email": "ada@shop.example"}
WITH_IP = RequestData(include_ip=True)

# The SDK opens it when it is imported, and nothing closes it; the tests send nothing.
xray_recorder.emitter._socket.close()


class Kept(list[Any]):
    """An emitter that keeps the segments, as they would be sent."""

    def send_entity(self, segment: Any) -> None:
        self.append(json.loads(segment.serialize()))

    def set_daemon_address(self, address: object) -> None:
        """Send nowhere."""

    def users(self) -> list[Any]:
        """Return and forget whom the segments named, in our words."""
        seen = []
        for segment in self:
            user = {"id": segment["user"]} if "user" in segment else {}
            given = segment.get("annotations", {})
            user.update({field: given[name] for field, name in FIELDS.items() if name in given})
            address = segment.get("http", {}).get("request", {}).get("client_ip")
            seen.append({**user, "ip_address": address} if address else user or None)
        self.clear()
        return seen


@pytest.fixture
def sent() -> Iterator[Kept]:
    """Sample every segment, keep what would be sent, and take back what our clients wrapped."""
    emitter, context, kept = xray_recorder.emitter, xray_recorder.context, Kept()
    # What misses a segment is to raise: ours must not even look.
    context_of_tests = Context(context_missing="RUNTIME_ERROR")
    xray_recorder.configure(sampling=False, service="shop", context=context_of_tests)
    xray_recorder.emitter = kept
    yield kept
    forget_clients()
    xray_recorder.clear_trace_entities()
    xray_recorder.configure(context=context)
    xray_recorder.emitter = emitter


def forget_clients() -> None:
    """Give the recorder its own methods back."""
    for name in ("begin_segment", "end_segment"):
        vars(xray_recorder).pop(name, None)


def report() -> None:
    """Trace something, in the segment that is open or in one of its own."""
    xray_recorder.context.context_missing = "IGNORE_ERROR"
    is_inside = xray_recorder.get_trace_entity() is not None
    with (xray_recorder.in_subsegment if is_inside else xray_recorder.in_segment)("shop"):
        pass


def test_it_conforms(sent: Kept) -> None:
    """X-Ray passes the suite that every client does."""

    def make_client() -> XRayClient:
        forget_clients()
        return XRayClient()

    client_conformance(make_client, report=report, users=sent.users)


@BOTH
def test_a_segment_names_the_user(interface: str, sent: Kept) -> None:
    """The user is the segment's own, and what else is known of it are annotations."""
    serve(interface, report, XRayClient(), resolver=lambda _: ADA, request_data=WITH_IP)
    (segment,) = sent
    assert (segment["user"], segment["annotations"]) == ("1", ADAS)
    assert segment["http"]["request"] == {"client_ip": "203.0.113.9"}


def test_the_segment_around_the_request_names_the_user(sent: Kept) -> None:
    """It is sent after the request, and has its user when the response starts."""
    inner = wsgi.UserContextMiddleware(
        plain_wsgi_app(lambda: None), resolver=lambda _: ADA, clients=[XRayClient()]
    )
    with xray_recorder.in_segment("shop") as segment:
        segment.put_http_meta("client_ip", "6.6.6.6")
        wsgi_request(inner)
    assert sent.users() == [{"id": "1", "username": "ada", "email": "ada@shop.example"}]


def test_an_error_that_passes_the_segment_names_its_user(sent: Kept) -> None:
    """Inside of ours the segment asks as it ends, before the request has failed."""

    def fail() -> None:
        with xray_recorder.in_segment("shop"):
            raise LookupError("no such order")

    with pytest.raises(LookupError):
        serve("wsgi", fail, XRayClient(), resolver=lambda _: ADA)
    assert sent[0]["user"] == "1"
    assert sent[0]["fault"]


@pytest.mark.parametrize(("data", "address"), [(WITH_IP, "203.0.113.9"), (RequestData(), None)])
def test_flask_with_its_own_middleware(
    data: Any, address: str | None, sent: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segment ends as the request does, and the address is not the header's."""
    # Which the middleware replaces for all apps.
    monkeypatch.setattr(flask.templating, "_render", flask.templating._render)
    app = flask.Flask("shop")
    XRayMiddleware(app, xray_recorder)

    @app.get("/cart")
    def cart() -> str:
        return "ok"

    wrapped = wsgi.UserContextMiddleware(
        app.wsgi_app, resolver=lambda _: ADA, clients=[XRayClient()], request_data=data
    )
    wsgi_request(wrapped, environ_of(x_forwarded_for="6.6.6.6"))
    (segment,) = sent
    request = segment["http"]["request"]
    assert (segment["user"], request.get("client_ip")) == ("1", address)
    assert "x_forwarded_for" not in request


def test_what_the_app_says_is_replaced(sent: Kept) -> None:
    """Nobody is nobody, annotations of ours included; the app's own stay."""

    def handler() -> None:
        with xray_recorder.in_segment("shop") as segment:
            set_user(ADA)
            segment.set_user("9")
            segment.put_annotation("cart", 3)
            set_user(None)

    serve("wsgi", handler, XRayClient())
    assert ("user" in sent[0], sent[0]["annotations"]) == (False, {"cart": 3})


def test_where_nobody_is_asked_the_app_is_right(sent: Kept) -> None:
    """Without a resolver, and without a user set, what the app told X-Ray stays."""

    def handler() -> None:
        with xray_recorder.in_segment("shop") as segment:
            segment.set_user("9")

    serve("wsgi", handler, XRayClient())
    assert sent[0]["user"] == "9"


def test_a_segment_that_has_ended_is_left_alone(
    sent: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    """X-Ray raises AlreadyEndedException for it."""

    def handler() -> None:
        report()
        set_user(ADA)

    serve("wsgi", handler, XRayClient())
    assert sent.users() == [None]
    assert caplog.records == []


def test_a_segment_that_is_ended_twice(sent: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """What X-Ray says of it is all that is said."""

    def handler() -> None:
        xray_recorder.begin_segment("shop")
        xray_recorder.begin_subsegment("cart")
        xray_recorder.end_segment()
        with pytest.raises(AlreadyEndedException):
            xray_recorder.end_segment()

    serve("wsgi", handler, XRayClient(), resolver=lambda _: ADA)
    assert caplog.records == []


def test_a_segment_around_two_requests_names_the_first(sent: Kept) -> None:
    """It is of one request only, and two people are never blended."""
    client = XRayClient()
    with xray_recorder.in_segment("shop"):
        for user in (ADA, {"id": 2, "plan": "pro"}):
            serve("wsgi", lambda: None, client, resolver=lambda _, user=user: user)
    assert [user["id"] for user in sent.users()] == ["1"]


def test_an_unsampled_segment_asks_nobody(sent: Kept) -> None:
    """A request that X-Ray does not send does not pay for it."""
    calls: list[object] = []

    def handler() -> None:
        xray_recorder.begin_segment("shop", sampling=0)
        xray_recorder.end_segment()

    serve("wsgi", handler, XRayClient(), resolver=calls.append)
    assert (calls, sent) == ([], [])


def test_no_segment_is_missed(sent: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """A request without a segment is not an error, as it is to X-Ray, and asks nobody."""
    calls: list[object] = []
    serve("wsgi", lambda: set_user(ADA), XRayClient(), resolver=calls.append)
    assert (calls, caplog.records) == ([], [])


def test_in_lambda_the_segment_is_left_alone(sent: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """AWS has made it, and the SDK refuses to change it."""
    facade = FacadeSegment("shop", "1" * 16, "1-2-3", sampled=True)

    def handler() -> None:
        set_user(ADA)

    xray_recorder.context.put_segment(facade)
    serve("wsgi", handler, XRayClient())
    assert (facade.user, caplog.records) == (None, [])


def test_a_block_names_its_own_user(sent: Kept) -> None:
    """A segment begun in `use_user` is of that user, and of no other who comes later."""

    def handler() -> None:
        with use_user({"id": 2}):
            xray_recorder.begin_segment("shop")
        set_user(ADA)
        xray_recorder.end_segment()

    serve("wsgi", handler, XRayClient())
    assert sent.users() == [{"id": "2"}]


def test_a_job_does_not_take_the_segment_around_it(sent: Kept) -> None:
    """It may be one of many in that segment; its own segments are its own."""
    init(None, clients=[XRayClient()])
    with xray_recorder.in_segment("worker"), isolation_scope(user=ADA):
        pass
    with isolation_scope(user=ADA):
        report()
    assert [user and user["id"] for user in sent.users()] == [None, "1"]


def test_outside_of_requests_nothing_is_changed(sent: Kept) -> None:
    """A job's own user stays."""
    init(None, clients=[XRayClient()])
    with xray_recorder.in_segment("worker") as segment:
        segment.set_user("9")
    assert sent.users() == [{"id": "9"}]


async def traced(numbers: list[int]) -> None:
    """Serve five requests at once, each in a segment outside of our middleware."""

    async def handler() -> None:
        numbers.append(len(numbers))
        set_user({"id": numbers[-1]})
        await asyncio.sleep(0)

    inner = asgi.UserContextMiddleware(plain_asgi_app(handler), clients=[XRayClient()])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with xray_recorder.in_segment_async("shop"):
            await inner(scope, receive, send)

    await asyncio.gather(*(asgi_call(app, scope_of()) for _ in range(5)))


def test_an_async_context_keeps_requests_apart(sent: Kept) -> None:
    """With AsyncContext the segment outside is found, and is that of the request."""
    numbers: list[int] = []

    async def run() -> None:
        xray_recorder.configure(context=AsyncContext())
        await traced(numbers)

    asyncio.run(run())
    assert sorted(user["id"] for user in sent.users()) == [str(n) for n in range(5)]


def test_segments_by_thread_are_not_trusted_in_a_loop(
    sent: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    """There the current segment may be any request's: it is named by nobody, and that is said."""
    with pytest.raises(Exception, match=r"Already ended|cannot find"):
        asyncio.run(traced([]))  # what X-Ray itself makes of it
    assert [user for user in sent.users() if user] == []
    (record,) = caplog.records
    assert "AsyncContext" in record.getMessage()


def test_an_error_in_our_naming_loses_no_segment(
    sent: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    """What goes wrong is logged once, and the segment is sent."""

    def handler() -> None:
        for _ in range(2):
            with xray_recorder.in_segment("shop") as segment:
                segment.annotations = None

    serve("wsgi", handler, XRayClient(), resolver=lambda _: ADA)
    assert len(sent) == 2
    logged = [record.getMessage() for record in caplog.records]
    assert sorted(logged) == [
        "a segment of X-Ray went out without its user",
        "reporting client XRayClient failed in set_user()",
    ]


@pytest.mark.parametrize("name", ["user.email", "user email", "e-mail"])
def test_annotations_need_plain_names(name: str) -> None:
    """X-Ray drops what is called otherwise, so that building the client says so."""
    with pytest.raises(ConfigurationError, match="letters, digits and _"):
        XRayClient(fields={"email": name})


def test_a_segment_and_its_request_go_when_they_are_over(sent: Kept) -> None:
    """Neither keeps the other: what requests leave behind does not grow."""
    init(None, clients=[XRayClient()])
    gone = []

    def handler() -> None:
        set_user(ADA)
        gone.extend([ref(xray_recorder.current_segment()), ref(current())])

    with xray_recorder.in_segment("shop"):
        serve("wsgi", handler)
    gc.collect()
    assert [one() for one in gone] == [None, None]
