"""Capturing: an exception or message is reported once, with the user of its own request."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import pytest

import usercontext
from tests.driver import (
    asgi_call,
    asgi_request,
    plain_asgi_app,
    plain_wsgi_app,
    scope_of,
    wsgi_request,
)
from usercontext import (
    RequestData,
    User,
    asgi,
    capture_exception,
    capture_message,
    isolation_scope,
    set_user,
    use_user,
    wsgi,
)

if TYPE_CHECKING:
    from usercontext.testing import RecordingClient

ADA = User(id=1)
BOB = User(id=2)


def fail() -> None:
    """Fail as an app does."""
    raise LookupError("no such thing")


def users_of(recorder: RecordingClient) -> list[dict[str, Any] | None]:
    """Return the users of the reports, in order."""
    return [event.get("user") for event in recorder.events]


def test_an_unhandled_error_is_reported_with_its_user(
    usercontext_recorder: RecordingClient,
) -> None:
    """An error that passes the middleware is reported once, unhandled, and re-raised."""
    for call, middleware, app in (
        (asgi_request, asgi.UserContextMiddleware, plain_asgi_app(fail)),
        (wsgi_request, wsgi.UserContextMiddleware, plain_wsgi_app(fail)),
    ):
        with pytest.raises(LookupError):
            call(middleware(app, resolver=lambda _: ADA))  # type: ignore[operator]
    assert users_of(usercontext_recorder) == [{"id": "1"}] * 2
    for event in usercontext_recorder.events:
        (value,) = event["exception"]["values"]
        assert value["type"] == "LookupError"
        assert value["mechanism"]["handled"] is False


@pytest.mark.parametrize("resolve", ["lazy", "eager"])
@pytest.mark.parametrize(("status", "reports"), [(1, 2), (0, 0), (None, 0)])
def test_a_worker_that_is_ended_in_a_request_reports_it(
    usercontext_recorder: RecordingClient, resolve: str, status: int | None, reports: int
) -> None:
    """SystemExit with a status, as a server's time-out raises it, is an error of its request."""

    def stop() -> None:
        sys.exit(status)

    for call, middleware, app in (
        (asgi_request, asgi.UserContextMiddleware, plain_asgi_app(stop)),
        (wsgi_request, wsgi.UserContextMiddleware, plain_wsgi_app(stop)),
    ):
        with pytest.raises(SystemExit):
            call(middleware(app, resolver=lambda _: ADA, resolve=resolve))  # type: ignore[operator]
    assert users_of(usercontext_recorder) == [{"id": "1"}] * reports


def test_a_handled_error_is_reported_when_the_app_says_so(
    usercontext_recorder: RecordingClient,
) -> None:
    """capture_exception() without an argument reports the exception being handled."""
    with isolation_scope(user=ADA):
        try:
            fail()
        except LookupError:
            event_id = capture_exception()
    (event,) = usercontext_recorder.events
    assert event["event_id"] == event_id
    assert event["user"] == {"id": "1"}


def test_without_an_exception_nothing_is_reported(usercontext_recorder: RecordingClient) -> None:
    """capture_exception() outside an except block reports nothing."""
    assert capture_exception() is None
    assert usercontext_recorder.events == []


@pytest.mark.parametrize("value", ["text", 5, ValueError, (ValueError, None, None)])
def test_what_is_no_exception_is_not_reported(
    value: Any, usercontext_recorder: RecordingClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Anything but an exception is reported by nobody, raises nothing and warns once."""
    with isolation_scope(user=ADA):
        assert capture_exception(value) is None
        assert capture_exception(value) is None
    assert usercontext_recorder.events == []
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "usercontext"]
    assert "capture_message(text)" in warning


@pytest.mark.parametrize(("reported", "events"), [(1, 2), (2, 2)], ids=["one of two", "both"])
def test_a_group_of_what_was_reported_is_no_report_of_its_own(
    usercontext_recorder: RecordingClient, reported: int, events: int
) -> None:
    """A task group wraps what failed in it: the request has told of that already, if of all."""
    errors = [LookupError("no such thing"), ValueError("no such number")]

    def run() -> None:
        for error in errors[:reported]:
            capture_exception(error)
        raise ExceptionGroup("in a task group", errors)

    with pytest.raises(ExceptionGroup):
        asgi_request(asgi.UserContextMiddleware(plain_asgi_app(run)), scope_of())
    assert len(usercontext_recorder.events) == events


def test_the_same_exception_is_reported_once_a_request(
    usercontext_recorder: RecordingClient,
) -> None:
    """What the app has captured is not reported again when it passes the middleware."""

    def handler() -> None:
        try:
            fail()
        except LookupError as error:
            capture_exception(error)
            with use_user(BOB):
                capture_exception(error)
            raise

    app = asgi.UserContextMiddleware(asgi.UserContextMiddleware(plain_asgi_app(handler)))
    with pytest.raises(LookupError):
        asgi_request(app)
    assert len(usercontext_recorder.events) == 1


def test_one_exception_object_is_reported_by_each_request_that_raises_it(
    usercontext_recorder: RecordingClient,
) -> None:
    """A module's own exception object, raised again in another request, is reported again."""
    shared = LookupError()

    def raise_shared() -> None:
        raise shared

    for user in (ADA, BOB, ADA):
        app = wsgi.UserContextMiddleware(
            plain_wsgi_app(raise_shared), resolver=lambda _, user=user: user
        )
        with pytest.raises(LookupError):
            wsgi_request(app)
    assert users_of(usercontext_recorder) == [{"id": "1"}, {"id": "2"}, {"id": "1"}]


def test_two_exceptions_at_one_address_are_two_reports(
    usercontext_recorder: RecordingClient,
) -> None:
    """A dead exception's address is used again at once: each new object is reported."""
    with isolation_scope(user=ADA):
        for _ in range(20):
            try:
                fail()
            except LookupError:
                capture_exception()
    assert len(usercontext_recorder.events) == 20


def test_outside_a_scope_a_report_has_no_user(usercontext_recorder: RecordingClient) -> None:
    """A message captured outside any request goes out without a user."""
    assert capture_message("started") is not None
    assert users_of(usercontext_recorder) == [None]


def test_an_error_captured_further_out_names_the_request_it_passed(
    usercontext_recorder: RecordingClient,
) -> None:
    """A reporter outside the middleware finds the user on the exception."""
    outside = asgi.UserContextMiddleware(plain_asgi_app(fail), resolver=lambda _: ADA)
    with pytest.raises(LookupError) as caught:
        asgi_request(outside)
    pull = usercontext_recorder.get_user
    assert pull is not None
    assert pull(caught.value) == {"id": "1"}
    assert pull() is None
    assert capture_exception(caught.value) is None, "it was reported on its way"


def test_an_error_of_a_sub_request_names_the_sub_requests_user(
    usercontext_recorder: RecordingClient,
) -> None:
    """A reporter that runs in an outer request asks for the error's own user first."""
    inner = asgi.UserContextMiddleware(plain_asgi_app(fail), resolver=lambda _: BOB)
    pulled: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        set_user(ADA)
        try:
            await asgi_call(inner, scope_of())
        except LookupError as error:
            pull = usercontext_recorder.get_user
            assert pull is not None
            pulled.extend([pull(error), pull()])

    asgi_request(asgi.UserContextMiddleware(app))
    assert pulled == [{"id": "2"}, {"id": "1"}]


def test_an_error_out_of_use_user_is_reported_with_the_blocks_user(
    usercontext_recorder: RecordingClient,
) -> None:
    """What fails while acting as somebody is reported as theirs."""

    def handler() -> None:
        with use_user(BOB):
            fail()

    with pytest.raises(LookupError):
        wsgi_request(wsgi.UserContextMiddleware(plain_wsgi_app(handler), resolver=lambda _: ADA))
    assert users_of(usercontext_recorder) == [{"id": "2"}]


def test_every_report_has_a_fresh_user(usercontext_recorder: RecordingClient) -> None:
    """What one report's reader does to the user reaches no other report (defect 1)."""
    with isolation_scope(user={"id": 1, "tags": ["a"]}):
        capture_message("one")
        usercontext_recorder.events[0]["user"]["tags"].append("b")
        usercontext_recorder.events[0]["user"]["ip_address"] = "6.6.6.6"
        capture_message("two")
    assert usercontext_recorder.events[1]["user"] == {"id": "1", "tags": ["a"]}


# --- async resolvers ------------------------------------------------------------------------------


async def find_ada(_request: object) -> User:
    """Resolve after other tasks have run."""
    await asyncio.sleep(0)
    return ADA


def test_reports_before_an_async_resolver_answered_are_completed(
    usercontext_recorder: RecordingClient,
) -> None:
    """A report captured early waits for the request's end, and names the user then."""
    counts: list[int] = []

    def handler() -> None:
        assert capture_message("early") is not None
        counts.append(len(usercontext_recorder.events))

    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(handler), resolver=find_ada))
    assert counts == [0]
    assert users_of(usercontext_recorder) == [{"id": "1"}]


def test_a_waiting_report_goes_out_as_soon_as_the_user_is_known(
    usercontext_recorder: RecordingClient,
) -> None:
    """Await resolve_user(), or set_user(), completes what waits."""
    counts: list[int] = []

    async def resolving() -> None:
        capture_message("early")
        await usercontext.resolve_user()
        counts.append(len(usercontext_recorder.events))

    def setting() -> None:
        capture_message("early")
        set_user(BOB)
        counts.append(len(usercontext_recorder.events))

    for handler in (resolving, setting):
        asgi_request(asgi.UserContextMiddleware(plain_asgi_app(handler), resolver=find_ada))
    assert counts == [1, 2]
    assert users_of(usercontext_recorder) == [{"id": "1"}, {"id": "2"}]


@pytest.mark.parametrize("ending", ["failure", "hang", "cancelled"])
def test_a_waiting_report_goes_out_whatever_becomes_of_the_resolver(
    ending: str, usercontext_recorder: RecordingClient
) -> None:
    """A resolver that fails, hangs or is cancelled costs the user, and never the report."""

    async def resolver(_request: object) -> None:
        if ending == "failure":
            raise LookupError
        await asyncio.Event().wait()

    def handler() -> None:
        capture_message("early")
        if ending == "cancelled":
            raise asyncio.CancelledError

    app = asgi.UserContextMiddleware(
        plain_asgi_app(handler),
        resolver=resolver,
        resolver_timeout=0.01,
        request_data=RequestData(include_ip=True),
    )
    if ending == "cancelled":
        with pytest.raises(asyncio.CancelledError):
            asgi_request(app)
    else:
        asgi_request(app)
    assert users_of(usercontext_recorder) == [{"ip_address": "203.0.113.9"}]


def test_flush_does_not_wait_for_what_awaits_a_user(usercontext_recorder: RecordingClient) -> None:
    """flush() inside the request returns at once: the report comes with the user later."""
    flushed: list[bool] = []

    def handler() -> None:
        capture_message("early")
        flushed.append(usercontext.flush(0.1))

    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(handler), resolver=find_ada))
    assert flushed == [True]
    assert len(usercontext_recorder.events) == 1


def test_a_report_from_inside_the_resolver_has_no_user(
    usercontext_recorder: RecordingClient,
) -> None:
    """The inner report sees no user, and nothing recurses."""

    def resolver(_request: object) -> User:
        capture_message("inside")
        return ADA

    async def resolve_async(request: object) -> User:
        return resolver(request)

    for one in (resolver, resolve_async):
        app = asgi.UserContextMiddleware(
            plain_asgi_app(lambda: capture_message("outside")), resolver=one
        )
        asgi_request(app)
    reported = [
        (event["logentry"]["message"], event.get("user")) for event in (usercontext_recorder.events)
    ]
    assert sorted(reported, key=str) == sorted(
        [("inside", None), ("outside", {"id": "1"})] * 2, key=str
    )


# --- privacy and clients --------------------------------------------------------------------------


def test_no_collected_address_leaves_without_include_ip(
    usercontext_recorder: RecordingClient,
) -> None:
    """With include_ip=False the bytes of a report hold no address of the client (defect 9)."""
    app = asgi.UserContextMiddleware(
        plain_asgi_app(fail),
        resolver=lambda _: ADA,
        request_data=RequestData(
            include_headers=True, include_cookies=True, include_query_string=True
        ),
    )
    scope = scope_of(
        x_forwarded_for="198.51.100.7",
        forwarded="for=198.51.100.7",
        cf_connecting_ip="198.51.100.7",
        x_real_ip="203.0.113.9",
        accept="text/plain",
    )
    with pytest.raises(LookupError):
        asgi_request(app, scope)
    text = str(usercontext_recorder.events)
    assert "text/plain" in text
    assert "203.0.113.9" not in text
    assert "198.51.100.7" not in text


def test_auto_is_filled_in(usercontext_recorder: RecordingClient) -> None:
    """Where the address is collected it stands in {{auto}}'s place, else the protocol has it."""
    auto = {"id": 1, "ip_address": "{{auto}}"}
    for include_ip in (True, False):
        app = asgi.UserContextMiddleware(
            plain_asgi_app(lambda: (set_user(auto), capture_message("hello"))),
            request_data=RequestData(include_ip=include_ip),
        )
        asgi_request(app)
    addresses = [user["ip_address"] for user in users_of(usercontext_recorder)]
    assert addresses == ["203.0.113.9", "{{auto}}"]
    assert usercontext_recorder.users == [{"id": "1", "ip_address": "203.0.113.9"}, {"id": "1"}]


def test_scrub_rules_add_up_and_have_the_last_word(usercontext_recorder: RecordingClient) -> None:
    """Rules of init() and of the middleware hold for the report and for every client."""
    usercontext.init(
        client=usercontext_recorder, clients=[usercontext_recorder], scrub=["$user.email"]
    )
    user = {"id": 1, "email": "ada@shop.example", "username": "ada"}
    app = asgi.UserContextMiddleware(
        plain_asgi_app(lambda: (set_user(user), capture_message("hello"))),
        scrub=["$user.username"],
    )
    asgi_request(app)
    assert usercontext_recorder.users == [{"id": "1"}]
    assert "ada" not in str(usercontext_recorder.events[0]["user"])


def test_never_store_ip_cannot_be_turned_back_on(usercontext_recorder: RecordingClient) -> None:
    """No address is reported, asked for or explicit, whatever the middleware says."""
    usercontext.init(
        client=usercontext_recorder, clients=[usercontext_recorder], never_store_ip=True
    )
    app = asgi.UserContextMiddleware(
        plain_asgi_app(
            lambda: (set_user({"id": 1, "ip_address": "198.51.100.7"}), capture_message("hello"))
        ),
        request_data=RequestData(include_ip=True),
        never_store_ip=False,
    )
    asgi_request(app)
    assert usercontext_recorder.users == [{"id": "1"}]
    assert "198.51.100.7" not in str(usercontext_recorder.events)
    assert "203.0.113.9" not in str(usercontext_recorder.events)


def test_handed_over_data_is_reported_when_asked_for(
    usercontext_recorder: RecordingClient,
) -> None:
    """set_request_data hands over the parsed body, which include_data=True reports."""
    for include_data in (True, False):
        app = asgi.UserContextMiddleware(
            plain_asgi_app(
                lambda: (usercontext.set_request_data({"item": 7}), capture_message("hello"))
            ),
            request_data=RequestData(include_data=include_data),
        )
        asgi_request(app)
    assert [event["request"].get("data") for event in usercontext_recorder.events] == [
        {"item": 7},
        None,
    ]


class Broken:
    """A client whose every method raises."""

    def __getattr__(self, name: str) -> Any:
        def method(*_arguments: object, **_options: object) -> Any:
            raise ValueError(name)

        return method


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_a_client_whose_every_method_raises_changes_no_response(
    interface: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The response is what it would be without us, and each failure is logged once."""
    usercontext.init(client=Broken(), clients=[Broken()])

    def handler() -> None:
        set_user(ADA)
        capture_message("hello")

    for _ in range(2):
        if interface == "asgi":
            app = asgi.UserContextMiddleware(plain_asgi_app(handler))
            assert asgi_request(app)[0]["status"] == 200
        else:
            app = wsgi.UserContextMiddleware(plain_wsgi_app(handler))  # type: ignore[assignment]
            assert wsgi_request(app) == b"ok"
    assert usercontext.flush() is False
    assert usercontext.close() is False
    logged = [record.getMessage() for record in caplog.records if record.name == "usercontext"]
    assert len(logged) == len(set(logged))
    assert any("set_user()" in line for line in logged)
    assert not any("1" in line for line in logged)
