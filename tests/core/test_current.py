"""The current user: set, changed, asked for, carried elsewhere, and gone with its request."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import usercontext
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
    User,
    asgi,
    bind,
    get_user,
    isolation_scope,
    set_user,
    testing,
    update_user,
    use_user,
    wsgi,
)
from usercontext.core.record import UNKNOWN

if TYPE_CHECKING:
    from usercontext.testing import RecordingClient

ADA = User(id=1, username="ada", email="ada@shop.example")
BOB = User(id=2)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged on our logger."""
    return [record.getMessage() for record in caplog.records if record.name == "usercontext"]


# --- set_user ---------------------------------------------------------------------------------


def test_a_set_user_is_the_current_user() -> None:
    """What set_user was given is what get_user returns."""
    with isolation_scope():
        set_user(ADA)
        assert get_user() == ADA


def test_a_mapping_becomes_a_user() -> None:
    """set_user takes anything that User.of takes."""
    with isolation_scope():
        set_user({"id": 7, "plan": "pro"})
        assert get_user() == User(id="7", plan="pro")


def test_setting_replaces_the_user_whole() -> None:
    """No field of the user before survives in the next one."""
    with isolation_scope():
        set_user(ADA)
        set_user({"id": 2})
        assert get_user() == BOB


def test_none_means_explicitly_nobody() -> None:
    """After set_user(None) the resolver is not asked."""
    calls: list[object] = []
    with isolation_scope(resolver=calls.append):
        set_user(None)
        assert get_user() is None
    assert calls == []


def test_none_overrules_an_earlier_answer_of_the_resolver() -> None:
    """A tombstone hides a user that was resolved before."""
    with isolation_scope(resolver=lambda _: ADA):
        assert get_user() == ADA
        set_user(None)
        assert get_user() is None


@pytest.mark.parametrize(
    "bad", [{"id": 1.5}, {"ip_address": "nowhere"}, "ada", 7, {"plan": "pro"}, object()]
)
def test_a_bad_user_means_nobody_and_is_logged_once(
    bad: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A value that is not a user clears the user, raises nothing, and is logged the first time."""
    with isolation_scope(user=ADA):
        set_user(bad)
        set_user(bad)
        assert get_user() is None
    assert len(warnings_of(caplog)) == 1


def test_outside_a_scope_nothing_changes_and_one_warning_tells(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """set_user outside a request sets nobody's user, and names isolation_scope once."""
    set_user(ADA)
    set_user(ADA)
    assert get_user() is None
    (message,) = warnings_of(caplog)
    assert "isolation_scope" in message
    assert "ada" not in message


def test_a_child_task_and_a_thread_set_the_users_of_their_request() -> None:
    """What a child task, a to_thread call or a copied context sets is seen by the request."""
    seen: list[User | None] = []

    async def handler() -> None:
        await asyncio.create_task(asyncio.to_thread(set_user, ADA))
        seen.append(get_user())
        contextvars.copy_context().run(set_user, BOB)
        seen.append(get_user())

    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(handler)))
    assert seen == [ADA, BOB]


# --- update_user ------------------------------------------------------------------------------


def test_an_update_keeps_what_it_does_not_name() -> None:
    """update_user changes the named fields of the current user alone."""
    with isolation_scope(user=ADA):
        update_user(email="new@shop.example")
        assert get_user() == User(id=1, username="ada", email="new@shop.example")


def test_an_update_with_another_id_keeps_nothing() -> None:
    """A changed id is another person: nothing unnamed is kept."""
    with isolation_scope(user=ADA):
        update_user(id=2, plan="pro")
        assert get_user() == User(id=2, plan="pro")


@pytest.mark.parametrize("same", [1, "1"])
def test_an_update_with_the_same_id_is_the_same_person(same: int | str) -> None:
    """An id that is spelled as a number or as text is the same id."""
    with isolation_scope(user=ADA):
        update_user(id=same, plan="pro")
        assert get_user() == User(id=1, username="ada", email="ada@shop.example", plan="pro")


def test_an_update_asks_a_sync_resolver_first() -> None:
    """The resolved user is what an update starts from, and the result is explicit."""
    with isolation_scope(resolver=lambda _: {"id": 1}):
        update_user(plan="pro")
        assert get_user() == User(id=1, plan="pro")


def test_an_update_without_a_user_stands_alone() -> None:
    """Without a user the fields alone are the user."""
    with isolation_scope():
        update_user(id=3)
        assert get_user() == User(id=3)


def test_an_update_that_gives_no_identity_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If the result has none of the four fields nothing changes, and one warning tells."""
    with isolation_scope():
        update_user(plan="pro")
        update_user(plan="pro")
        assert get_user() is None
    assert len(warnings_of(caplog)) == 1


def test_an_invalid_update_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A bad field leaves the user as it was, and the log does not hold its value."""
    with isolation_scope(user=ADA):
        update_user(ip_address="6.6.6.6.6")
        assert get_user() == ADA
    (message,) = warnings_of(caplog)
    assert "6.6.6" not in message


def test_the_collected_address_is_never_baked_into_an_update() -> None:
    """An updated user has no address of its own where only the collected one was seen."""
    users: list[User | None] = []

    def handler() -> None:
        set_user(BOB)
        update_user(plan="pro")
        users.append(get_user())
        with use_user({"id": 9}):
            users.append(get_user())

    app = wsgi.UserContextMiddleware(
        plain_wsgi_app(handler), request_data=RequestData(include_ip=True)
    )
    environ = environ_of()
    wsgi_request(app, environ)
    assert users[0] == User(id=2, ip_address="203.0.113.9", plan="pro")
    record: Any = environ["usercontext.scope"]
    assert record.user == User(id=2, plan="pro")


def test_an_update_before_an_async_resolver_was_awaited_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """update_user cannot ask an async resolver: it says so once and changes nothing."""

    async def resolver(_request: object) -> User:
        return ADA

    users: list[User | None] = []

    async def handler() -> None:
        with isolation_scope(resolver=resolver):
            update_user(plan="pro")
            users.append(await usercontext.resolve_user())
            update_user(plan="pro")
            users.append(get_user())

    asyncio.run(handler())
    assert users == [ADA, ADA.with_fields(plan="pro")]
    (message,) = warnings_of(caplog)
    assert "resolve_user" in message


def test_an_update_before_authentication_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    """Where a sync resolver leaves the question open there is nothing to await: it says so."""
    known: list[User] = []

    def resolver(_request: object) -> object:
        return known[0] if known else UNKNOWN

    with isolation_scope(resolver=resolver):
        update_user(plan="pro")
        assert get_user() is None
        known.append(ADA)
        update_user(plan="pro")
        assert get_user() == ADA.with_fields(plan="pro")
    (message,) = warnings_of(caplog)
    assert "call it after authentication" in message
    assert "resolve_user" not in message


# --- get_user ---------------------------------------------------------------------------------


def test_a_peek_calls_no_resolver() -> None:
    """get_user(resolve=False) is None until the user is known, and asks nobody."""
    calls: list[object] = []

    def resolver(request: object) -> User:
        calls.append(request)
        return ADA

    with isolation_scope(resolver=resolver):
        assert get_user(resolve=False) is None
        assert calls == []
        assert get_user() == ADA
        assert get_user(resolve=False) == ADA


def test_a_peek_shows_no_address_before_the_user_is_known() -> None:
    """With include_ip a peek at an unresolved request is None, not an address-only user."""
    seen: list[User | None] = []
    app = wsgi.UserContextMiddleware(
        plain_wsgi_app(lambda: seen.extend([get_user(resolve=False), get_user()])),
        resolver=lambda _: None,
        request_data=RequestData(include_ip=True),
    )
    wsgi_request(app)
    assert seen == [None, User(ip_address="203.0.113.9")]


@pytest.mark.parametrize("include_ip", [True, False])
@pytest.mark.parametrize("answer", ["nobody", "failure", "tombstone", "no resolver"])
def test_a_request_without_a_user_has_its_address_if_that_was_asked_for(
    answer: str, include_ip: bool
) -> None:
    """None resolved, failed or set_user(None): an address-only user with include_ip, else None."""
    seen: list[User | None] = []

    def resolver(_request: object) -> None:
        if answer == "failure":
            raise LookupError

    def handler() -> None:
        if answer == "tombstone":
            set_user(None)
        seen.append(get_user())

    app = asgi.UserContextMiddleware(
        plain_asgi_app(handler),
        resolver=None if answer == "no resolver" else resolver,
        request_data=RequestData(include_ip=include_ip),
    )
    asgi_request(app)
    assert seen == [User(ip_address="203.0.113.9") if include_ip else None]


def test_a_users_own_address_wins_over_the_collected_one() -> None:
    """An address that the app gave is kept, {{auto}} included."""
    seen: list[User | None] = []

    def handler() -> None:
        for address in ("198.51.100.7", "{{auto}}"):
            set_user({"id": 1, "ip_address": address})
            seen.append(get_user())

    app = asgi.UserContextMiddleware(
        plain_asgi_app(handler), request_data=RequestData(include_ip=True)
    )
    asgi_request(app)
    assert [user and user.ip_address for user in seen] == ["198.51.100.7", "{{auto}}"]


class _Holder:
    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)


def test_a_request_is_found_by_its_scope_wherever_that_stands() -> None:
    """request= takes a scope, or an object with .scope, .environ or .META."""
    scope, other = scope_of(), scope_of()
    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(lambda: set_user(ADA))), scope)
    found = [
        get_user(request=scope),
        get_user(request=_Holder(scope=scope)),
        get_user(request=_Holder(environ=scope)),
        get_user(request=_Holder(META=scope)),
        get_user(request=other),
        get_user(request=object()),
    ]
    assert found == [ADA, ADA, ADA, ADA, None, None]


def test_an_error_that_passed_names_its_request() -> None:
    """error= finds the user of the request that an exception passed through, after its end."""

    def handler() -> None:
        raise LookupError

    app = asgi.UserContextMiddleware(plain_asgi_app(handler), resolver=lambda _: ADA)
    with pytest.raises(LookupError) as caught:
        asgi_request(app)
    assert get_user(error=caught.value) == ADA
    assert get_user() is None


def test_what_is_no_exception_names_nobody() -> None:
    """Whatever an app's own hook hands over as the error, asking for its user raises nothing."""
    with isolation_scope(user=ADA):
        for value in ("text", 5, ValueError, {}):
            assert get_user(error=value) is None  # type: ignore[arg-type]


def test_a_request_that_cannot_be_read_names_nobody() -> None:
    """Flask's `request`, asked for outside of a request, raises nothing."""
    flask = pytest.importorskip("flask", reason="Flask is not installed")
    assert get_user(request=flask.request) is None


def test_one_exception_object_of_two_requests_names_nobody() -> None:
    """An object raised by two requests with different records names neither user."""
    shared = LookupError()

    def fail() -> None:
        raise shared

    for user in (ADA, BOB):
        app = wsgi.UserContextMiddleware(plain_wsgi_app(fail), resolver=lambda _, user=user: user)
        with pytest.raises(LookupError):
            wsgi_request(app)
    assert get_user(error=shared) is None


def test_an_exception_that_never_passed_names_nobody() -> None:
    """error= with an exception of nowhere is None, whoever is current."""
    with isolation_scope(user=ADA):
        assert get_user(error=LookupError()) is None


# --- use_user and isolation_scope ---------------------------------------------------------------


def test_a_scope_in_a_request_keeps_to_the_middlewares_rules() -> None:
    """What a middleware never stores is not stored either from an isolation_scope inside of it."""
    recorder = testing.RecordingClient()
    usercontext.init(client=recorder)

    def job() -> None:
        with isolation_scope(
            user={"id": 7, "email": "x@shop.example", "ip_address": "203.0.113.7"}
        ):
            usercontext.capture_message("a job")

    rules: Any = {"never_store_ip": True, "scrub": ["$user.email"], "resolver": lambda _: ADA}
    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(job), **rules))
    assert [event["user"] for event in recorder.events] == [{"id": "7"}]


def test_a_scope_in_a_request_asks_no_resolver_of_the_request() -> None:
    """An isolation_scope is blank: the middleware's resolver names nobody in it."""
    seen: list[User | None] = []

    def job() -> None:
        with isolation_scope():
            seen.append(get_user())

    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(job), resolver=lambda _: ADA))
    assert seen == [None]


def test_use_user_holds_for_its_block_alone() -> None:
    """The request's own user is back when the block ends."""
    with isolation_scope(user=ADA):
        with use_user(BOB):
            assert get_user() == BOB
        assert get_user() == ADA


def test_setting_inside_use_user_changes_the_block_alone() -> None:
    """set_user inside a use_user block does not touch the request's user."""
    with isolation_scope(user=ADA):
        with use_user(BOB):
            set_user({"id": 3})
            assert get_user() == User(id=3)
        assert get_user() == ADA


def test_two_tasks_of_one_request_are_two_users() -> None:
    """use_user keeps concurrent tasks of one request apart, and what they start with them."""
    seen: dict[str, list[User | None]] = {"1": [], "2": []}

    async def work(user: User, gate: asyncio.Barrier) -> None:
        with use_user(user):
            await gate.wait()
            seen[str(user.id)] += [get_user(), await asyncio.create_task(ask())]
            await gate.wait()
            seen[str(user.id)].append(get_user())

    async def ask() -> User | None:
        return get_user()

    async def handler() -> None:
        gate = asyncio.Barrier(2)
        await asyncio.gather(work(ADA, gate), work(BOB, gate))

    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(handler)))
    assert seen == {"1": [ADA] * 3, "2": [BOB] * 3}


def test_use_user_has_the_address_of_its_request() -> None:
    """The user of a block gets the collected address as the request's own does."""
    seen: list[User | None] = []

    def handler() -> None:
        with use_user(BOB):
            seen.append(get_user())

    app = wsgi.UserContextMiddleware(
        plain_wsgi_app(handler), request_data=RequestData(include_ip=True)
    )
    wsgi_request(app)
    assert seen == [User(id=2, ip_address="203.0.113.9")]


def test_an_isolation_scope_inside_a_request_is_blank() -> None:
    """A scope inside a request sees nothing of it, and leaves nothing in it."""
    with isolation_scope(user=ADA):
        with isolation_scope():
            assert get_user() is None
            set_user(BOB)
        assert get_user() == ADA


def test_an_isolation_scopes_resolver_is_called_with_none() -> None:
    """There is no request in a script: the resolver gets None, once."""
    calls: list[object] = []

    def resolver(request: object) -> User:
        calls.append(request)
        return ADA

    with isolation_scope(resolver=resolver):
        assert [get_user(), get_user()] == [ADA, ADA]
    assert calls == [None]


def test_an_async_resolver_of_a_script_is_run_aside() -> None:
    """Without a running loop, an async resolver is run on a background loop."""

    async def resolver(_request: object) -> User:
        await asyncio.sleep(0)
        return ADA

    with isolation_scope(resolver=resolver):
        assert get_user() == ADA


def test_an_error_that_leaves_a_block_carries_the_blocks_user() -> None:
    """An exception out of use_user is found with the block's user further out."""
    with isolation_scope(user=ADA), pytest.raises(LookupError) as caught, use_user(BOB):
        raise LookupError
    assert get_user(error=caught.value) == BOB


# --- bind --------------------------------------------------------------------------------


def test_bind_carries_the_scope_into_a_plain_thread() -> None:
    """A thread started with a bound function sees the user, and one without sees nobody."""
    seen: list[User | None] = []
    with isolation_scope(user=ADA):
        for target in (lambda: seen.append(get_user()), bind(lambda: seen.append(get_user()))):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert seen == [None, ADA]


def test_bind_leaves_nothing_in_the_thread() -> None:
    """A pool's thread is nobody's again once the bound function has returned."""
    with ThreadPoolExecutor(1) as pool:
        with isolation_scope(user=ADA):
            assert pool.submit(bind(get_user)).result() == ADA
        assert pool.submit(get_user).result() is None


def test_bind_asks_a_sync_resolver_first() -> None:
    """The resolver runs where the request is, not in the thread."""
    threads: list[int] = []

    def resolver(_request: object) -> User:
        threads.append(threading.get_ident())
        return ADA

    with ThreadPoolExecutor(1) as pool, isolation_scope(resolver=resolver):
        assert pool.submit(bind(get_user)).result() == ADA
    assert threads == [threading.get_ident()]


def test_one_bound_function_runs_in_many_threads_at_once() -> None:
    """The record travels, not a Context, which two threads could not enter at once."""
    gate = threading.Barrier(4)

    def ask() -> User | None:
        gate.wait(10)
        return get_user()

    with ThreadPoolExecutor(4) as pool, isolation_scope(user=ADA):
        bound = bind(ask)
        assert [call.result() for call in [pool.submit(bound) for _ in range(4)]] == [ADA] * 4


def test_bind_carries_the_scope_into_a_coroutine_of_another_loop() -> None:
    """An async function is bound as one, and keeps its name and signature."""

    async def ask() -> User | None:
        await asyncio.sleep(0)
        return get_user()

    with isolation_scope(user=ADA):
        bound = bind(ask)
    assert inspect.iscoroutinefunction(bound)
    assert bound.__name__ == "ask"
    assert asyncio.run(bound()) == ADA


def test_bind_outside_a_scope_changes_nothing() -> None:
    """Without a scope there is nothing to carry: the function itself comes back."""
    assert bind(get_user) is get_user


# --- detached work ------------------------------------------------------------------------------


def _ask_after(app_options: dict[str, Any], during: Any = None) -> list[User | None]:
    """Return who a task is that was started in a request and asks after its end."""
    seen: list[User | None] = []
    ended = asyncio.Event()

    async def later() -> None:
        await ended.wait()
        seen.append(get_user())

    async def run() -> None:
        tasks = []

        def handler() -> None:
            if during is not None:
                during()
            tasks.append(asyncio.ensure_future(later()))

        app = asgi.UserContextMiddleware(plain_asgi_app(handler), **app_options)
        await asgi_call(app, scope_of())
        ended.set()
        await tasks[0]

    asyncio.run(run())
    return seen


def test_detached_work_keeps_a_known_user_with_its_address() -> None:
    """A task that outlives its request still names the user that was known."""
    options = {"request_data": RequestData(include_ip=True)}
    assert _ask_after(options, lambda: set_user(BOB)) == [User(id=2, ip_address="203.0.113.9")]


def test_detached_work_never_calls_a_resolver() -> None:
    """After a normal end an unresolved request is nobody's, and the resolver is gone."""
    calls: list[object] = []
    assert _ask_after({"resolver": calls.append}) == [None]
    assert calls == []


def test_detached_work_forgets_the_user_in_time() -> None:
    """A pool task that a request started by chance names its user for detached_ttl only."""
    assert _ask_after({"detached_ttl": 1e-9}, lambda: set_user(BOB)) == [None]


def test_detached_work_may_keep_the_user_as_long_as_it_lives() -> None:
    """detached_ttl=None sets no limit."""
    assert _ask_after({"detached_ttl": None}, lambda: set_user(BOB)) == [BOB]


def test_a_late_set_user_keeps_the_time_of_the_end() -> None:
    """What is set after the end is forgotten in time all the same."""
    scope = scope_of()
    asgi_request(
        asgi.UserContextMiddleware(plain_asgi_app(lambda: set_user(BOB)), detached_ttl=1e-9), scope
    )
    scope["usercontext.scope"].claim(ADA)
    assert get_user(request=scope) is None


def test_a_report_after_the_end_says_so(usercontext_recorder: RecordingClient) -> None:
    """What detached work reports tells how many seconds ago its request ended."""

    def report() -> None:
        usercontext.capture_message("late")

    async def run() -> None:
        handles: list[Any] = []

        def handler() -> None:
            set_user(BOB)
            usercontext.capture_message("in time")
            handles.append(bind(report))

        await asgi_call(asgi.UserContextMiddleware(plain_asgi_app(handler)), scope_of())
        handles[0]()

    asyncio.run(run())

    in_time, late = usercontext_recorder.events
    assert "after_response" not in in_time.get("contexts", {}).get("usercontext", {})
    assert 0 <= late["contexts"]["usercontext"]["after_response"] < 60
    assert late["user"] == {"id": "2"}


def test_a_request_that_ended_holds_no_scope() -> None:
    """A record that outlives its request keeps the user and drops the scope."""
    scope = scope_of()
    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(lambda: set_user(BOB))), scope)
    record: Any = scope["usercontext.scope"]
    assert record.source is None
    assert record.user == BOB


# --- the rest --------------------------------------------------------------------------------


def test_a_withheld_user_is_the_apps_alone(
    usercontext_recorder: testing.RecordingClient,
) -> None:
    """set_reporting(False) keeps the user and address out of reports, and from the app nothing."""
    seen: list[User | None] = []

    def handler() -> None:
        set_user(ADA)
        usercontext.set_reporting(False)
        seen.append(get_user())
        usercontext.capture_message("hello")

    app = asgi.UserContextMiddleware(
        plain_asgi_app(handler), request_data=RequestData(include_ip=True)
    )
    asgi_request(app)
    (event,) = usercontext_recorder.events
    assert "user" not in event
    assert "203.0.113.9" not in str(event)
    assert usercontext_recorder.users[-1] is None
    assert seen == [ADA.with_fields(ip_address="203.0.113.9")]


def test_the_address_of_a_request_can_be_explained() -> None:
    """get_client_address tells the address, where it was found and why."""
    found: list[Any] = []
    app = asgi.UserContextMiddleware(
        plain_asgi_app(lambda: found.append(usercontext.get_client_address()))
    )
    asgi_request(app)
    (address,) = found
    assert (address.address, address.source, address.reason) == ("203.0.113.9", "peer", "ok")
    assert usercontext.get_client_address() is None


@pytest.mark.parametrize("call", ["update_user", "set_request_data", "set_reporting"])
def test_every_setter_outside_a_scope_warns(call: str, caplog: pytest.LogCaptureFixture) -> None:
    """Outside a request a setter changes nothing and names the fix."""
    caplog.set_level(logging.WARNING)
    arguments: dict[str, tuple[Any, ...]] = {"update_user": ()}
    getattr(usercontext, call)(*arguments.get(call, (True,)))
    (message,) = warnings_of(caplog)
    assert message.startswith(f"{call}() was called outside a request")


def test_extras_alone_are_a_user_at_the_collected_address(
    usercontext_recorder: RecordingClient,
) -> None:
    """The collected address is the one field that must be present; the extras stay with it."""

    def handler() -> None:
        set_user({"plan": "gold"})
        usercontext.capture_message("paid")

    app = asgi.UserContextMiddleware(
        plain_asgi_app(handler), request_data=RequestData(include_ip=True)
    )
    asgi_request(app)

    expected = {"ip_address": "203.0.113.9", "plan": "gold"}
    assert usercontext_recorder.events[0]["user"] == expected
    assert usercontext_recorder.users == [expected]


@pytest.mark.parametrize("options", [{}, {"never_store_ip": True}], ids=["no address", "never"])
def test_extras_alone_without_an_address_are_nobody(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Where no address may be collected, a user of extras alone is nobody, which is said."""
    seen = []

    def handler() -> None:
        set_user({"plan": "gold"})
        seen.append(get_user())

    data = RequestData(include_ip="never_store_ip" in options)
    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(handler), request_data=data, **options))

    assert seen == [None]
    assert "counted as nobody" in caplog.text


def test_extras_alone_at_no_address_are_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A request whose address cannot be found leaves a user of extras alone without any field."""
    seen = []

    def handler() -> None:
        set_user({"plan": "gold"})
        seen.append(get_user())

    app = asgi.UserContextMiddleware(
        plain_asgi_app(handler), request_data=RequestData(include_ip=True)
    )
    asgi_request(app, scope_of(client=None))

    assert seen == [None]
    assert "no address was found" in caplog.text


@pytest.mark.parametrize("block", [use_user({"id": 2}), isolation_scope({"id": 2})])
def test_a_block_can_be_entered_inside_of_itself(block: Any) -> None:
    """Each time that it is entered is left for what was current before."""
    with isolation_scope({"id": 1}):
        with block, block:
            assert get_user() == User(id=2)
        assert get_user() == User(id=1)


def test_tasks_share_a_block() -> None:
    """Tasks that overlap in one object keep their own users."""
    system = use_user({"id": "system"})
    seen = {}

    async def task(name: str, inside: asyncio.Event, done: asyncio.Event) -> None:
        with isolation_scope({"id": name}):
            with system:
                inside.set()
                await done.wait()
            seen[name] = get_user()

    async def main() -> None:
        events = [asyncio.Event() for _ in range(4)]
        first = asyncio.create_task(task("ada", events[0], events[1]))
        second = asyncio.create_task(task("bob", events[2], events[3]))
        for event in (events[0], events[2]):
            await event.wait()
        events[1].set()
        await first
        events[3].set()
        await second

    asyncio.run(main())

    assert seen == {"ada": User(id="ada"), "bob": User(id="bob")}


def test_blocks_left_in_another_order(caplog: pytest.LogCaptureFixture) -> None:
    """A block that ends before one inside of it takes its user along, and this is said."""
    outer, inner = use_user({"id": 2}), use_user({"id": 3})
    with isolation_scope({"id": 1}):
        outer.__enter__()
        inner.__enter__()
        outer.__exit__(None, None, None)
        inner.__exit__(None, None, None)
        assert get_user() == User(id=1)

    assert len(caplog.records) == 1


def test_a_block_left_elsewhere_outside_a_request_is_nobodys() -> None:
    """What is set where such a block is still the current one names nobody."""

    def misordered() -> User | None:
        outer, inner = use_user({"id": 2}), use_user({"id": 3})
        outer.__enter__()
        inner.__enter__()
        outer.__exit__(None, None, None)
        inner.__exit__(None, None, None)
        set_user({"id": 4})
        return get_user()

    assert contextvars.copy_context().run(misordered) is None


@pytest.mark.parametrize("block", [use_user({"id": 2}), isolation_scope({"id": 2})])
def test_a_generator_that_is_left_early(block: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A block in an async generator that nobody closes ends with the generator."""
    seen = []

    async def rows() -> Any:
        with block:
            yield 1
            yield 2

    async def main() -> None:
        with isolation_scope({"id": 1}):
            async for _ in rows():
                break
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            seen.append(get_user())
            set_user({"id": 5})
            seen.append(get_user())

    asyncio.run(main())

    assert seen == [User(id=1), User(id=5)]
    assert len(caplog.records) == 1


def test_an_impersonator_stands_beside_the_user() -> None:
    """`use_user(user, impersonator=...)` says who acts as that user."""
    seen = []
    for impersonator in (9, {"id": 9, "email": "support@shop.example"}, User(id=9)):
        with use_user({"id": 1}, impersonator=impersonator):
            seen.append(get_user())

    assert seen == [User(id=1, impersonator="9")] * 3


def in_thread(function: Any) -> Any:
    """Run a function in a plain thread, which carries nothing."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_bind_carries_into_a_generator() -> None:
    """Every step of a generator runs in the scope, and none of what is between them."""

    def numbers() -> Any:
        got = yield get_user()
        yield got, get_user()
        return "end"

    with isolation_scope({"id": 1}):
        bound = usercontext.bind(numbers)

    def read() -> Any:
        generator = bound()
        first, between = next(generator), get_user()
        second = generator.send("sent")
        with pytest.raises(StopIteration) as stop:
            next(generator)
        return first, between, second, stop.value.value

    assert in_thread(read) == (User(id=1), None, ("sent", User(id=1)), "end")


def test_bind_of_a_generator_is_closed_and_thrown_into() -> None:
    """What is thrown in, and the closing, reach the generator inside of the scope."""
    seen = []

    def numbers() -> Any:
        try:
            try:
                yield 1
            except LookupError:
                seen.append(get_user())
                yield 2
        finally:
            seen.append(get_user())

    with isolation_scope({"id": 1}):
        bound = usercontext.bind(numbers)

    def read() -> Any:
        generator = bound()
        next(generator)
        thrown = generator.throw(LookupError())
        generator.close()
        return thrown

    assert in_thread(read) == 2
    assert seen == [User(id=1)] * 2


def test_bind_carries_into_an_async_generator() -> None:
    """Every step of an async generator runs in the scope, its end included."""
    ended = []

    async def numbers() -> Any:
        try:
            yield get_user()
            yield get_user()
        finally:
            ended.append(get_user())

    with isolation_scope({"id": 1}):
        bound = usercontext.bind(numbers)

    async def read() -> Any:
        generator = bound()
        first = await anext(generator)
        between = get_user()
        await generator.aclose()
        return first, between

    assert in_thread(lambda: asyncio.run(read())) == (User(id=1), None)
    assert ended == [User(id=1)]


def test_bind_carries_into_an_object_that_is_called() -> None:
    """What `__call__` of its class is decides how it runs."""

    class Job:
        async def __call__(self) -> User | None:
            await asyncio.sleep(0)
            return get_user()

    with isolation_scope({"id": 1}):
        bound = usercontext.bind(Job())

    assert in_thread(lambda: asyncio.run(bound())) == User(id=1)
