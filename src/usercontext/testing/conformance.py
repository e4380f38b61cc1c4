"""What a reporting client must do right, checked on the real thing: for clients of your own too."""

from __future__ import annotations

import asyncio
import gc
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import ref

from usercontext import asgi, wsgi
from usercontext.core.current import set_user
from usercontext.core.record import current
from usercontext.request import RequestData
from usercontext.source import environ_key, is_environ
from usercontext.user import AUTO_ADDRESS, User

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from usercontext.types import ReportingClient

    Users: TypeAlias = list[dict[str, Any] | None]

__all__ = ["client_conformance"]

_ADA = {"id": 1, "username": "ada", "email": "ada@shop.example"}
_PEER = "203.0.113.9"


def client_conformance(
    make_client: Callable[[], ReportingClient],
    *,
    report: Callable[[], object],
    users: Callable[[], Users],
    resolves: bool = True,
    takes_address: bool = True,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Check a reporting client against what `usercontext` promises of every one.

    It serves requests over ASGI and WSGI with the client on, lets the client's library report in
    them, and compares the users that the reports name.

    Args:
        make_client: makes the client, ready to be one of `clients=[...]`; called for each check.
        report: has the client's library report something, from inside a request.
        users: returns the users that the reports since the last call named, in order: a dict with
            the field names of `User`, or None for nobody.
        resolves: whether a report asks the resolver; False for those that only peek, such as
            lines of a log.
        takes_address: whether the reports carry `ip_address`.
        around: what the library opens around each request, as its own middleware does, such as
            a transaction; called for each request, in its own task.

    Raises:
        AssertionError: something is wrong; the message lists every rule that was broken, and
            what was seen instead.
    """
    suite = _Suite(make_client, report, users, around)
    suite.check_calls()
    for serve in (_serve_asgi, _serve_wsgi):
        suite.check_explicit_users(serve)
        suite.check_resolver(serve, resolves=resolves)
        suite.check_privacy(serve, takes_address=takes_address)
        suite.check_auto_address(serve, takes_address=takes_address)
        suite.check_address(serve, takes_address=takes_address)
        suite.check_release(serve)
    suite.check_concurrency()
    if suite.broken:
        raise AssertionError("\n".join(["the client breaks these rules:", *suite.broken]))


class _Suite:
    """The checks of one client, and the rules that they found broken."""

    def __init__(
        self,
        make_client: Callable[[], ReportingClient],
        report: Callable[[], object],
        users: Callable[[], Users],
        around: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._make_client = make_client
        self._report = report
        self._users = users
        self._around = around
        self.broken: list[str] = []

    def _expect(self, rule: str, seen: object, expected: object) -> None:
        if seen != expected:
            self.broken.append(f"- {rule}: expected {expected!r}, not {seen!r}")

    def _serve(self, serve: Any, handler: Any, **options: Any) -> list[dict[str, Any]]:
        """Serve a request and return the users that its reports named, in full, {} for nobody."""
        self._users()
        serve(handler, self._around, clients=[self._make_client()], **options)
        return [user or {} for user in self._users()]

    def check_calls(self) -> None:
        """Outside of requests every call is harmless, and answers as agreed."""
        client = self._make_client()
        try:
            client.set_user(User(id=1, plan="pro"))
            client.set_user(None)
            self._expect("is_recording() returns a bool", type(client.is_recording()), bool)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is reported
            kind = type(error).__name__
            self.broken.append(f"- no call fails outside of a request: {kind} was raised")

    def check_explicit_users(self, serve: Any) -> None:
        """Reports name the user of their moment, whole, and the next request's nobody."""

        def handler() -> None:
            set_user({**_ADA, "plan": {"name": "pro"}})
            self._report()
            set_user({"id": 2})
            self._report()
            set_user(None)
            self._report()

        seen = self._serve(serve, handler)
        self._expect("a report names set_user()'s", _ids(seen[:1]), ["1"])
        self._expect("a new user replaces every field", seen[1:2], [{"id": "2"}])
        self._expect("set_user(None) clears every field", seen[2:], [{}])
        self._serve(serve, lambda: set_user(_ADA))
        seen = self._serve(serve, self._report)
        self._expect("a thread's next request is blank", seen, [{}])

    def check_release(self, serve: Any) -> None:
        """A client that keeps something of each request lets it go, or memory fills."""
        kept: list[ref[Any]] = []

        def handler() -> None:
            set_user(_ADA)
            self._report()
            kept.append(ref(current()))

        for _ in range(5):
            self._serve(serve, handler)
        gc.collect()
        # Its library may look back at the last one.
        alive = sum(one() is not None for one in kept)
        self._expect("a request that is over is let go", alive <= 1, True)

    def check_resolver(self, serve: Any, *, resolves: bool) -> None:
        """A report asks the resolver once, or not at all."""
        calls: list[object] = []

        def resolver(request: object) -> dict[str, Any]:
            calls.append(request)
            self._report()
            return _ADA

        def handler() -> None:
            self._report()
            self._report()

        seen = self._serve(serve, handler, resolver=resolver)[-2:]
        self._expect("a report resolves the user", _ids(seen), ["1" if resolves else None] * 2)
        self._expect("the resolver is called once at most", len(calls) <= 1, True)

    def check_privacy(self, serve: Any, *, takes_address: bool) -> None:
        """What is reported is what scrubbing left, and an address only if it was asked for."""

        def handler() -> None:
            set_user(_ADA)
            self._report()

        seen = self._serve(serve, handler, scrub=["$user.email", ("$user.id", "mask")])
        self._expect("scrub rules have the last word", _ids(seen), ["*"])
        self._expect("a removed field is not reported", "email" in str(seen), False)
        seen = self._serve(serve, handler)
        self._expect("no address unasked", _addresses(seen), [None])
        seen = self._serve(serve, handler, request_data=RequestData(include_ip=True))
        expected = _PEER if takes_address else None
        self._expect("the address", _addresses(seen), [expected])

    def check_auto_address(self, serve: Any, *, takes_address: bool) -> None:
        """`{{auto}}` never leaves: the collected address is sent in its place, or none."""
        told: tuple[dict[str, Any], ...] = ({"id": 1, "ip_address": AUTO_ADDRESS}, {"plan": "pro"})

        def handler() -> None:
            for user in told:
                set_user(user)
                self._report()

        seen = self._serve(serve, handler)
        self._expect('"{{auto}}" names its user', _ids(seen), ["1", None])
        self._expect("no address in the place of {{auto}}", _addresses(seen), [None, None])
        seen = self._serve(serve, handler, request_data=RequestData(include_ip=True))
        expected = _PEER if takes_address else None
        self._expect('"{{auto}}" names its user, with addresses', _ids(seen), ["1", None])
        rule = "the address in the place of {{auto}}, and beside extras alone"
        self._expect(rule, _addresses(seen), [expected, expected])

    def check_address(self, serve: Any, *, takes_address: bool) -> None:
        """The address is read of what the client sent, not of what the app adds to it."""

        def handler() -> None:
            add_forwarded("6.6.6.6")
            set_user(_ADA)
            self._report()

        options = RequestData(include_ip=True, trusted_proxies=[_PEER])
        seen = self._serve(serve, handler, request_data=options)
        expected = _PEER if takes_address else None
        self._expect("a header added by the app is not read", _addresses(seen), [expected])

    def check_concurrency(self) -> None:
        """Requests in flight at once stay apart."""
        number = iter(range(10))

        async def handler() -> None:
            set_user({"id": next(number)})
            await asyncio.sleep(0)
            self._report()

        async def serve_all() -> None:
            app = _asgi_app(handler, self._around, clients=[self._make_client()])
            await asyncio.gather(*(app(_scope(), _receive, _send) for _ in range(10)))

        self._users()
        asyncio.run(serve_all())
        seen = sorted(str(user_id) for user_id in _ids([user or {} for user in self._users()]))
        self._expect("concurrent requests stay apart", seen, [str(n) for n in range(10)])


def _ids(users: list[dict[str, Any]]) -> list[Any]:
    return [user.get("id") for user in users]


def _addresses(users: list[dict[str, Any]]) -> list[Any]:
    return [user.get("ip_address") for user in users]


def add_forwarded(address: str) -> None:
    """Do to the current request what a middleware does that writes X-Forwarded-For itself."""
    record: Any = current()
    if is_environ(record.source):
        record.source[environ_key("x-forwarded-for")] = address
    else:
        record.source["headers"].append((b"x-forwarded-for", address.encode()))


def _scope() -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": [],
        "client": (_PEER, 50000),
    }


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: object) -> None:
    del message


def _asgi_app(handler: Callable[[], Awaitable[None]], around: Any, **options: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        await handler()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    wrapped = _without_frameworks(asgi.UserContextMiddleware, app, options)

    async def surrounded(scope: Any, receive: Any, send: Any) -> None:
        with around():
            await wrapped(scope, receive, send)

    return surrounded


def _without_frameworks(middleware: Any, app: Any, options: dict[str, Any]) -> Any:
    """Wrap an app; its resolver takes the bare scope or environ, so that no framework is needed."""
    from usercontext.core.context import configure, configure_joined

    resolver = options.pop("resolver", None)
    wrapped = middleware(app, **options)
    if resolver is not None:
        wrapped.own = configure(resolver=resolver, make_request=dict, **options)
        wrapped._joined = configure_joined(wrapped.own)
    return wrapped


def _serve_asgi(handler: Callable[[], None], around: Any, **options: Any) -> None:
    async def handle() -> None:
        handler()

    asyncio.run(_asgi_app(handle, around, **options)(_scope(), _receive, _send))


def _serve_wsgi(handler: Callable[[], None], around: Any, **options: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        del environ
        handler()
        start_response("200 OK", [])
        return [b""]

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REMOTE_ADDR": _PEER}
    wrapped = _without_frameworks(wsgi.UserContextMiddleware, app, options)
    with around():
        wrapped(environ, lambda *_: None)
