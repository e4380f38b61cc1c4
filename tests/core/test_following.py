"""Following the framework's own user, asking again, and not knowing yet."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from tests.driver import asgi_request, wsgi_request
from usercontext import (
    NOT_YET,
    asgi,
    capture_message,
    get_user,
    isolation_scope,
    resolve_again,
    resolve_user,
    set_user,
    wsgi,
)
from usercontext.clients.logging import UserFilter
from usercontext.core.following import follows

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.testing import RecordingClient


class Account:
    """A framework's user object."""

    def __init__(self, id: int) -> None:  # noqa: A002
        self.id = id


def held_user(source: Any, request: object) -> object:
    """Show whom an imagined framework has put into its environ."""
    return NOT_YET if source is None else source.get("framework.user", NOT_YET)


@follows(held_user)
def request_user(request: Any) -> object:
    """Return the imagined framework's user."""
    return request.environ.get("framework.user", NOT_YET)


def served(seen: Callable[[dict[str, Any]], object], **options: Any) -> Any:
    """Serve one WSGI request, and return what was seen in it."""
    result: list[object] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        result.append(seen(environ))
        start_response("200 OK", [])
        return []

    options.setdefault("resolver", request_user)
    wsgi_request(wsgi.UserContextMiddleware(app, **options))
    return result[0]


def name() -> str | None:
    """Return the id of the current user."""
    user = get_user()
    return None if user is None else user.id


def test_a_login_after_a_question_is_seen() -> None:
    """That nobody was there at the first question is not a final answer."""

    def seen(environ: dict[str, Any]) -> list[str | None]:
        before = name()
        environ["framework.user"] = Account(1)
        return [before, name()]

    assert served(seen) == [None, "1"]


def test_a_switch_and_a_logout_are_seen() -> None:
    """The answer stands only as long as the framework holds the same object."""

    def seen(environ: dict[str, Any]) -> list[str | None]:
        names = []
        for user in (Account(1), Account(2), None):
            environ["framework.user"] = user
            names.append(name())
        return names

    assert served(seen) == ["1", "2", None]


def test_what_cannot_be_seen_any_more_stands() -> None:
    """NOT_YET from `held` leaves the answer so far as it is."""

    def seen(environ: dict[str, Any]) -> list[str | None]:
        environ["framework.user"] = Account(1)
        before = name()
        del environ["framework.user"]
        return [before, name()]

    assert served(seen) == ["1", "1"]


def test_an_explicit_user_is_not_followed() -> None:
    """What the app says itself wins over the framework's user."""

    def seen(environ: dict[str, Any]) -> str | None:
        environ["framework.user"] = Account(1)
        set_user({"id": 3})
        environ["framework.user"] = Account(2)
        return name()

    assert served(seen) == "3"


def test_a_report_names_the_user_of_its_moment(usercontext_recorder: RecordingClient) -> None:
    """Reports before and after a switch name the two users."""

    def seen(environ: dict[str, Any]) -> None:
        for id in (1, 2):  # noqa: A001
            environ["framework.user"] = Account(id)
            capture_message("paid")

    served(seen)

    assert [event["user"]["id"] for event in usercontext_recorder.events] == ["1", "2"]


def test_a_peek_names_whom_the_framework_has_found() -> None:
    """A log line names the framework's user, and asks nobody before that."""

    def seen(environ: dict[str, Any]) -> list[object]:
        ids = []
        for user in (NOT_YET, Account(1)):
            environ["framework.user"] = user
            record = logging.LogRecord("shop", logging.INFO, __file__, 1, "paid", None, None)
            UserFilter().filter(record)
            ids.append(record.__dict__["user_id"])
        return ids

    assert served(seen) == [None, "1"]


def test_held_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """What fails in looking is said once, and the resolver is asked as any other."""

    def broken(source: object, request: object) -> object:
        raise LookupError

    @follows(broken)
    def resolver(request: object) -> object:
        return {"id": 7}

    assert served(lambda _: [name(), name()], resolver=resolver) == ["7", "7"]
    assert len(caplog.records) == 1


def test_not_yet_is_asked_again() -> None:
    """A resolver that cannot know yet is asked at the next question, until it answers."""
    answers = iter([NOT_YET, NOT_YET, {"id": 1}])

    names = served(lambda _: [name() for _ in range(4)], resolver=lambda _: next(answers))

    assert names == [None, None, "1", "1"]


def test_an_async_resolver_may_not_know_yet() -> None:
    """NOT_YET of an async resolver leaves the question open."""
    answers: list[object] = [NOT_YET, {"id": 1}]
    seen = []

    async def resolver(request: object) -> object:
        return answers.pop(0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend([await resolve_user(), await resolve_user()])

    asgi_request(asgi.UserContextMiddleware(app, resolver=resolver))

    assert [user and user.id for user in seen] == [None, "1"]


def test_resolve_again_forgets_the_answer() -> None:
    """After a switch of users the app's own resolver is asked once more."""
    users = iter([{"id": 1}, {"id": 2}])

    def seen(environ: dict[str, Any]) -> list[str | None]:
        before = [name(), name()]
        resolve_again()
        return [*before, name()]

    assert served(seen, resolver=lambda _: next(users)) == ["1", "1", "2"]


def test_resolve_again_leaves_an_explicit_user() -> None:
    """What the app has said itself is not an answer of a resolver."""
    with isolation_scope(user={"id": 1}):
        resolve_again()
        assert name() == "1"


def test_resolve_again_outside_a_request() -> None:
    """There is nothing to forget, and nothing happens."""
    resolve_again()

    assert get_user() is None


def test_an_error_asks_once_more_where_nobody_was_found() -> None:
    """Whoever asked before authentication has made nobody final: not for an error."""
    users: list[object] = [None, {"id": 1}]
    seen = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(name())
        raise LookupError

    def resolver(request: object) -> object:
        return users.pop(0)

    with pytest.raises(LookupError) as caught:
        wsgi_request(wsgi.UserContextMiddleware(app, resolver=resolver))
    user = get_user(error=caught.value)
    assert seen == [None]
    assert user is not None
    assert user.id == "1"


def test_an_error_leaves_an_explicit_nobody() -> None:
    """`set_user(None)` is not an answer of a resolver."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        set_user(None)
        raise LookupError

    with pytest.raises(LookupError) as caught:
        wsgi_request(wsgi.UserContextMiddleware(app, resolver=lambda _: {"id": 1}))
    assert get_user(error=caught.value) is None


def test_an_error_waits_once_for_a_resolver_that_hangs() -> None:
    """What gave no answer in time is not waited for again."""
    calls = []

    async def resolver(request: object) -> object:
        calls.append(1)
        await asyncio.sleep(10)
        return None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError

    served = asgi.UserContextMiddleware(app, resolver=resolver, resolver_timeout=0.01)
    outer = asgi.UserContextMiddleware(served)
    with pytest.raises(LookupError):
        asgi_request(outer)
    assert calls == [1]


def test_work_that_outlives_the_request_has_its_last_user() -> None:
    """A switch after the last question counts for detached work."""
    records = []

    def seen(environ: dict[str, Any]) -> None:
        environ["framework.user"] = Account(1)
        assert name() == "1"
        environ["framework.user"] = Account(2)
        records.append(environ)

    served(seen)
    user = get_user(request=records[0])
    assert user is not None
    assert user.id == "2"
