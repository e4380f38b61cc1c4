"""elastic-apm: errors where they are captured, and the transaction of the request."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any

import elasticapm
import flask
import pytest
from elasticapm.contrib.asgi import ASGITracingMiddleware
from elasticapm.contrib.flask import ElasticAPM as FlaskElasticAPM
from elasticapm.contrib.starlette import ElasticAPM as StarletteElasticAPM
from elasticapm.traces import execution_context
from elasticapm.transport.base import Transport
from starlette.applications import Starlette
from starlette.routing import Route

from tests.clients.serving import BOTH, serve
from tests.driver import asgi_request, environ_of, plain_asgi_app, scope_of, wsgi_request
from usercontext import RequestData, asgi, bind, init, isolation_scope, set_user, use_user, wsgi
from usercontext.clients.elasticapm import ElasticapmClient
from usercontext.testing import client_conformance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ADA = {"id": 1, "username": "ada", "email": "ada@shop.example", "plan": "pro"}
ADAS = {"id": "1", "username": "ada", "email": "ada@shop.example"}
SPOOFED = "6.6.6.6"
PLACES = pytest.mark.parametrize("place", ["outside", "inside"])


class Kept(Transport):
    """Keeps what it would send, and starts no thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.events: list[tuple[str, Any]] = []

    def start_thread(self, pid: int | None = None) -> None:
        """Nothing is sent."""

    def stop_thread(self) -> None:
        """Nothing was started."""

    def queue(self, event_type: str, data: Any, flush: bool = False) -> None:
        data = self._process_event(event_type, data)
        self.events.append((event_type, data.get("context", {})))


class Apm(elasticapm.Client):
    """A client that sends nothing."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            service_name="shop",
            transport_class=f"{__name__}.Kept",
            central_config=False,
            cloud_provider="none",
            disable_log_record_factory=True,
            metrics_interval="0s",
            server_version=(8, 0),
            **{"instrument": False, **options},
        )

    def contexts(self, kind: str) -> list[Any]:
        """Return the contexts of what was sent of a kind, and forget all."""
        events: list[Any] = self._transport.events
        found = [context for one, context in events if one == kind]
        events.clear()
        return found

    def users(self, kind: str = "error") -> list[Any]:
        """Return whom what was sent of a kind named."""
        return [context.get("user") for context in self.contexts(kind)]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Open a transaction, as Elastic's middlewares do, with what they say of the request."""
        self.begin_transaction("request")
        elasticapm.set_context({"socket": {"remote_address": SPOOFED}}, "request")
        try:
            yield
        finally:
            self.end_transaction("GET /cart")

    def report(self) -> None:
        """Report an error that was handled."""
        try:
            raise LookupError("no such order")
        except LookupError:
            self.capture_exception()


@pytest.fixture
def make_apm() -> Iterator[Callable[..., Apm]]:
    """Make clients, and close them afterwards."""
    made: list[Apm] = []

    def make(**options: Any) -> Apm:
        made.append(Apm(**options))
        return made[-1]

    yield make
    for one in made:
        one.close()
    elasticapm.uninstrument()
    execution_context.set_transaction(None)


@pytest.fixture
def apm(make_apm: Callable[..., Apm]) -> Apm:
    """Return a client that samples every transaction."""
    return make_apm()


def test_errors_conform(apm: Apm) -> None:
    """An error asks for its user, in no transaction at all."""
    client_conformance(ElasticapmClient, report=apm.report, users=apm.users, takes_address=False)


def test_transactions_conform(apm: Apm) -> None:
    """A transaction is told of its user; the address is not a part of that."""
    seen: list[Any] = []

    def report() -> None:
        context = execution_context.get_transaction().context
        seen.append(dict(context["user"]) if "user" in context else None)

    def users() -> list[Any]:
        taken = seen.copy()
        seen.clear()
        return taken

    client_conformance(
        ElasticapmClient,
        report=report,
        users=users,
        resolves=False,
        takes_address=False,
        around=apm.transaction,
    )


def surround(apm: Apm, place: str, app: Any, **options: Any) -> Any:
    """Put Elastic's middleware for ASGI and ours around an app."""
    theirs: Any = ASGITracingMiddleware
    options.setdefault("clients", [ElasticapmClient(apm)])
    if place == "inside":
        return asgi.UserContextMiddleware(theirs(app), **options)
    return theirs(asgi.UserContextMiddleware(app, **options))


def serve_traced(apm: Apm, place: str, handler: Any, **options: Any) -> None:
    """Serve a request over ASGI with Elastic's middleware in its place."""
    app = surround(apm, place, plain_asgi_app(handler), **options)
    asgi_request(app, scope_of(x_forwarded_for=SPOOFED))


@PLACES
def test_a_transaction_names_the_user(apm: Apm, place: str) -> None:
    """It is sent anyway, so its user is resolved when the response starts."""
    serve_traced(apm, place, lambda: None, resolver=lambda _: ADA)
    assert apm.users("transaction") == [ADAS]


@PLACES
def test_an_unsampled_request_is_not_resolved(make_apm: Any, place: str) -> None:
    """What is not sent asks nobody."""
    calls: list[object] = []
    apm = make_apm(transaction_sample_rate=0.0)
    serve_traced(apm, place, lambda: None, resolver=calls.append)
    assert calls == []


@PLACES
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_an_error_names_the_user_in_unsampled_transactions_too(
    make_apm: Any, place: str, rate: float
) -> None:
    """set_user_context() does nothing in an unsampled transaction; the error asks by itself."""
    apm = make_apm(transaction_sample_rate=rate)
    serve_traced(apm, place, apm.report, resolver=lambda _: ADA)
    assert apm.users() == [ADAS]


@PLACES
def test_an_unhandled_error_and_its_transaction_name_the_user(apm: Apm, place: str) -> None:
    """No response starts: the error that Elastic's middleware captures makes the user known."""
    with pytest.raises(ZeroDivisionError):
        serve_traced(apm, place, lambda: 1 / 0, resolver=lambda _: ADA)
    events = apm._transport.events
    assert [(kind, context["user"]) for kind, context in events] == [
        ("error", ADAS),
        ("transaction", ADAS),
    ]


@PLACES
@pytest.mark.parametrize("kind", ["error", "transaction"])
def test_nothing_of_the_first_user_stays(apm: Apm, place: str, kind: str) -> None:
    """set_user_context() would merge the two people."""

    def handler() -> None:
        set_user(ADA)
        set_user({"id": 2})
        apm.report()

    serve_traced(apm, place, handler)
    assert apm.users(kind) == [{"id": "2"}]


@PLACES
@pytest.mark.parametrize("kind", ["error", "transaction"])
def test_nobody_clears_what_elastic_was_given(apm: Apm, place: str, kind: str) -> None:
    """Ours is the whole truth inside of a request, and says that nobody is logged in."""

    def handler() -> None:
        elasticapm.set_user_context(user_id="9", email="eve@shop.example")
        set_user(None)
        apm.report()

    serve_traced(apm, place, handler)
    assert apm.users(kind) == [None]


def test_a_user_set_before_the_transaction_began_is_its_user(apm: Apm) -> None:
    """Authentication may stand outside of Elastic's middleware."""
    traced: Any = ASGITracingMiddleware(plain_asgi_app(lambda: None))

    async def authenticate(*args: Any) -> None:
        set_user(ADA)
        await traced(*args)

    asgi_request(asgi.UserContextMiddleware(authenticate, clients=[ElasticapmClient()]))
    assert apm.users("transaction") == [ADAS]


@BOTH
def test_a_thread_names_the_transaction_of_its_request(apm: Apm, interface: str) -> None:
    """Elastic knows no transaction in a plain thread; we kept it."""

    def handler() -> None:
        thread = Thread(target=bind(lambda: set_user(ADA)))
        thread.start()
        thread.join()
        assert execution_context.get_transaction().context["user"] == ADAS

    with apm.transaction():
        serve(interface, handler, ElasticapmClient())


@PLACES
def test_a_scope_inside_of_a_request_leaves_its_transaction_alone(apm: Apm, place: str) -> None:
    """A job that runs in a request has a user of its own; the transaction is the request's."""

    def handler() -> None:
        set_user(ADA)
        with isolation_scope(user={"id": 2}):
            set_user({"id": 3})
            apm.report()
        with use_user({"id": 4}):
            apm.report()
        assert execution_context.get_transaction().context["user"] == ADAS

    client = ElasticapmClient()
    init(None, clients=[client])
    serve_traced(apm, place, handler, clients=[client])
    events = [(kind, context["user"]["id"]) for kind, context in apm._transport.events]
    assert events == [("error", "3"), ("error", "4"), ("transaction", "1")]


def test_a_scope_has_the_transaction_that_it_runs_in(apm: Apm) -> None:
    """So it is in a script or job, where there is no request."""
    init(None, clients=[ElasticapmClient()])
    with isolation_scope():
        for user in (ADA, {"id": 2}):
            with apm.transaction():
                set_user(user)
    assert apm.users("transaction") == [ADAS, {"id": "2"}]


def test_a_client_made_after_init_is_found(make_apm: Any) -> None:
    """As in an app whose framework makes it, late."""
    init(None, clients=[ElasticapmClient()])
    apm = make_apm()
    serve("wsgi", apm.report, resolver=lambda _: ADA)
    assert apm.users() == [ADAS]


@PLACES
@pytest.mark.parametrize("kind", ["error", "transaction"])
@pytest.mark.parametrize(("include", "address"), [(True, "203.0.113.9"), (False, None)])
def test_the_address_is_ours(
    apm: Apm, place: str, kind: str, include: bool, address: str | None
) -> None:
    """Elastic takes the first X-Forwarded-For, which anybody can write."""
    data = RequestData(include_ip=include)
    serve_traced(apm, place, apm.report, request_data=data)
    (context,) = apm.contexts(kind)
    assert context["request"]["socket"] == ({"remote_address": address} if include else {})
    assert ("x-forwarded-for" in context["request"]["headers"]) is include


@PLACES
@pytest.mark.parametrize("kind", ["error", "transaction"])
def test_no_address_leaves_with_a_failing_request(apm: Apm, place: str, kind: str) -> None:
    """Nor where nobody is resolved and no response starts."""
    with pytest.raises(ZeroDivisionError):
        serve_traced(apm, place, lambda: 1 / 0)
    assert "203.0.113" not in str(context := apm.contexts(kind))
    assert SPOOFED not in str(context)


def test_an_error_that_left_its_request_names_its_user(apm: Apm) -> None:
    """Captured inside of its except block, the exception leads to the user."""

    def fail() -> None:
        set_user(ADA)
        raise LookupError("no such order")

    try:
        serve("wsgi", fail, ElasticapmClient())
    except LookupError:
        apm.capture_exception()
    assert apm.users() == [ADAS]


def test_an_error_outside_of_requests_is_left_alone(apm: Apm) -> None:
    """What the app says of a job's user stays."""
    init(None, clients=[ElasticapmClient()])
    with apm.transaction():
        elasticapm.set_user_context(user_id="9")
        apm.report()
    assert apm.users() == [{"id": "9"}]


def flask_app(apm: Apm) -> flask.Flask:
    """Make a Flask app with Elastic's extension."""
    app = flask.Flask("shop")
    FlaskElasticAPM(app, client=apm)
    app.wsgi_app = wsgi.UserContextMiddleware(  # type: ignore[method-assign]
        app.wsgi_app, clients=[ElasticapmClient()], resolver=lambda _: ADA
    )
    app.add_url_rule("/cart", view_func=lambda: "ok")
    app.add_url_rule("/fail", view_func=lambda: str(1 / 0), endpoint="fail")
    return app


@pytest.mark.parametrize(("path", "kinds"), [("/cart", 1), ("/fail", 2)])
def test_flask_with_elastics_extension(make_apm: Any, path: str, kinds: int) -> None:
    """Flask answers an error itself: error and transaction name the user all the same."""
    apm = make_apm(instrument=True)
    wsgi_request(flask_app(apm), {**environ_of(x_forwarded_for=SPOOFED), "PATH_INFO": path})
    events = [context for _, context in apm._transport.events if "request" in context]
    assert [context["user"] for context in events] == [ADAS] * kinds
    assert "203.0.113.9" not in str(events)
    assert SPOOFED not in str(events)


@PLACES
@pytest.mark.parametrize("fails", [False, True])
def test_starlette_with_elastics_middleware(make_apm: Any, place: str, fails: bool) -> None:
    """ElasticAPM is added before ours, or after."""
    apm = make_apm(instrument=True)

    async def cart(_request: object) -> Any:
        raise LookupError if fails else RuntimeError

    async def sorry(*_: object) -> Any:
        from starlette.responses import PlainTextResponse

        return PlainTextResponse("sorry")

    app = Starlette(routes=[Route("/cart", cart)], exception_handlers={RuntimeError: sorry})
    added = [
        lambda: app.add_middleware(StarletteElasticAPM, client=apm),
        lambda: app.add_middleware(
            asgi.UserContextMiddleware, clients=[ElasticapmClient()], resolver=lambda _: ADA
        ),
    ]
    for add in added if place == "inside" else reversed(added):
        add()
    try:
        asgi_request(app, scope_of(x_forwarded_for=SPOOFED))
    except LookupError:
        assert fails
    events = apm._transport.events
    assert {kind for kind, _ in events} == {"transaction", "error"} - (
        set() if fails else {"error"}
    )
    assert [context["user"] for _, context in events] == [ADAS] * len(events)
    assert SPOOFED not in str(events)


def test_a_header_with_underscores_tells_no_address(apm: Apm) -> None:
    """ASGI servers hand it on as it was sent."""
    scope = scope_of()
    scope["headers"].append((b"x_real_ip", SPOOFED.encode()))
    ours = asgi.UserContextMiddleware(plain_asgi_app(apm.report), clients=[ElasticapmClient(apm)])
    asgi_request(ASGITracingMiddleware(ours, client=apm), scope)
    (context,) = apm.contexts("error")
    assert "host" in context["request"]["headers"]
    assert SPOOFED not in str(context)
