"""Bottle: errors that it answers itself are reported, and its request is there for the resolver."""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest

bottle = pytest.importorskip("bottle")

from tests.driver import environ_of, wsgi_request  # noqa: E402
from usercontext import (  # noqa: E402
    ConfigurationError,
    User,
    capture_exception,
    get_user,
    set_user,
    wsgi,
)
from usercontext.frameworks.bottle import UserContext  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usercontext.testing import RecordingClient


def fail() -> Any:
    """Fail as a callback does."""
    raise LookupError("no such thing")


def by_cookie(request: Any) -> dict[str, str] | None:
    """Name the user of a signed cookie, as Bottle's own `get_cookie` reads it."""
    name = request.get_cookie("user", secret="not a secret")
    return {"id": name} if name else None


def make_app(callback: Callable[[], Any] = fail, **options: Any) -> Any:
    """Make an app of one route."""
    app = bottle.Bottle()
    app.install(UserContext(**{"resolver": by_cookie, **options}))
    app.route("/cart", callback=callback)
    return app


def get(app: Any, name: str | None = "ada", path: str = "/cart") -> bytes:
    """Send a request of somebody, or of nobody."""
    environ = {**environ_of(), "PATH_INFO": path, "wsgi.errors": BytesIO()}
    environ["wsgi.errors"].write = lambda text: None
    if name is not None:
        answer = bottle.Response()
        answer.set_cookie("user", name, secret="not a secret")
        environ["HTTP_COOKIE"] = answer._cookies.output(header="").strip()
    return wsgi_request(app, environ)


def users_of(recorder: RecordingClient) -> list[Any]:
    """Return the users that the reports name, in order."""
    return [event.get("user") for event in recorder.events]


def test_a_swallowed_error_is_reported_with_its_user(
    usercontext_recorder: RecordingClient,
) -> None:
    """Bottle answers with its 500 as ever, and the report goes out, once, unhandled."""
    bare = bottle.Bottle()
    bare.route("/cart", callback=fail)
    assert get(make_app()) == get(bare)
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada"}
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is False


def test_an_anonymous_request_is_nobodys(usercontext_recorder: RecordingClient) -> None:
    """Without the cookie there is nobody, also after somebody's request."""
    app = make_app()
    get(app)
    get(app, None)
    assert users_of(usercontext_recorder) == [{"id": "ada"}, None]


def test_the_resolver_leaves_bottles_request_alone() -> None:
    """It gets a request over the same environ, and Bottle's own stays the current one."""
    seen: list[Any] = []

    def callback() -> str:
        current = bottle.request.environ["bottle.request"]
        seen.append(get_user())
        seen.append(bottle.request.environ["bottle.request"] is current)
        return "ok"

    assert get(make_app(callback)) == b"ok"
    assert seen == [User(id="ada"), True]


def test_the_resolver_may_read_bottles_global_request(
    usercontext_recorder: RecordingClient,
) -> None:
    """`bottle.request` is bound where a report asks."""
    get(make_app(resolver=lambda _: by_cookie(bottle.request)))
    assert users_of(usercontext_recorder) == [{"id": "ada"}]


def test_nothing_is_resolved_for_a_request_that_reports_nothing() -> None:
    """The resolver runs when a report needs it, and not before."""
    calls: list[object] = []
    assert get(make_app(lambda: "ok", resolver=calls.append)) == b"ok"
    assert calls == []


def test_an_async_resolver_is_run_aside(usercontext_recorder: RecordingClient) -> None:
    """Over WSGI it runs when the report needs it."""

    async def resolver(request: Any) -> object:
        await asyncio.sleep(0)
        return by_cookie(request)

    get(make_app(resolver=resolver))
    assert users_of(usercontext_recorder) == [{"id": "ada"}]


# --- where errors come from ---------------------------------------------------------------------


def test_an_error_page_of_the_app_changes_nothing(usercontext_recorder: RecordingClient) -> None:
    """`@app.error(500)` only makes the page; if it reports, that is the report."""
    app = make_app()
    app.error(500)(lambda error: "sorry")
    assert get(app) == b"sorry"
    reporting = make_app()
    reporting.error(500)(lambda error: str(capture_exception(error.exception) and "sorry"))
    assert get(reporting) == b"sorry"
    handled = [
        event["exception"]["values"][-1]["mechanism"]["handled"]
        for event in usercontext_recorder.events
    ]
    assert handled == [False, True]


def test_an_error_page_finds_the_user_by_the_error() -> None:
    """As the current user, and by the error alone."""
    seen: list[User | None] = []

    def page(error: Any) -> str:
        seen.extend([get_user(), get_user(error=error.exception)])
        return "sorry"

    app = make_app()
    app.error(500)(page)
    get(app)
    assert seen == [User(id="ada")] * 2


@pytest.mark.parametrize("hook", ["before_request", "after_request"])
def test_an_error_in_a_hook_is_reported(hook: str, usercontext_recorder: RecordingClient) -> None:
    """Hooks run outside of all plugins."""
    app = make_app(lambda: "ok")
    app.add_hook(hook, fail)
    assert b"500" in get(app)
    assert users_of(usercontext_recorder) == [{"id": "ada"}]


def test_an_error_in_an_error_page_is_reported_too(
    usercontext_recorder: RecordingClient,
) -> None:
    """Behind Bottle's last answer, a "critical error", there are two."""
    app = make_app()
    app.error(500)(lambda error: 1 / 0)
    assert b"Critical error" in get(app)
    kinds = [event["exception"]["values"][-1]["type"] for event in usercontext_recorder.events]
    assert kinds == ["LookupError", "ZeroDivisionError"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lambda chunks: chunks, id="returned"),
        pytest.param(bottle.HTTPResponse, id="in a response"),
    ],
)
def test_an_error_before_the_first_chunk_is_reported(
    body: Any, usercontext_recorder: RecordingClient
) -> None:
    """Bottle looks at a generator's first chunk, and answers for it with a 500."""

    def chunks() -> Iterator[str]:
        fail()
        yield "x"

    assert b"Unhandled exception" in get(make_app(lambda: body(chunks())))
    assert users_of(usercontext_recorder) == [{"id": "ada"}]


def test_an_error_in_a_stream_is_reported_once(usercontext_recorder: RecordingClient) -> None:
    """It passes Bottle by, as the response is on its way; the user is known, and its close too."""
    seen: list[User | None] = []

    def chunks() -> Iterator[str]:
        set_user({"id": 7})
        try:
            yield "x"
            fail()
        finally:
            seen.append(get_user())

    with pytest.raises(LookupError):
        get(make_app(chunks))
    assert users_of(usercontext_recorder) == [{"id": "7"}]
    assert seen == [User(id=7)]


def test_a_generator_may_raise_a_response(usercontext_recorder: RecordingClient) -> None:
    """An answer before the first chunk is an answer."""

    def chunks() -> Iterator[str]:
        bottle.abort(409, "taken")
        yield "x"

    assert b"taken" in get(make_app(chunks))
    assert usercontext_recorder.events == []


def test_a_route_that_a_test_calls_is_left_alone(usercontext_recorder: RecordingClient) -> None:
    """Outside of all requests its errors are the caller's."""

    def chunks() -> Iterator[str]:
        fail()
        yield "x"

    for callback in (fail, chunks):
        (route,) = make_app(callback).routes
        with pytest.raises(LookupError):
            list(route.call())
    assert usercontext_recorder.events == []


def test_files_keep_their_way_to_the_server() -> None:
    """What can be read goes out as the file that it is."""
    app = make_app(lambda: BytesIO(b"the file"))
    environ = {**environ_of(), "wsgi.file_wrapper": lambda file: [b"wrapped: ", file.read()]}
    assert wsgi_request(app, environ) == b"wrapped: the file"


@pytest.mark.parametrize("answer", [bottle.HTTPError(500), bottle.HTTPResponse("x", 500)])
def test_an_answer_that_the_app_raises_is_no_error(
    answer: Exception, usercontext_recorder: RecordingClient
) -> None:
    """`abort(500)` is what the app has to say."""

    def callback() -> str:
        raise answer

    get(make_app(callback))
    assert usercontext_recorder.events == []


def test_an_error_that_the_app_handles_is_no_report(usercontext_recorder: RecordingClient) -> None:
    """A plugin that answers for an error has handled it."""

    def forgiving(callback: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return callback(*args, **kwargs)
            except LookupError:
                return "none"

        return call

    app = make_app()
    app.install(forgiving)
    assert get(app) == b"none"
    assert usercontext_recorder.events == []


def test_without_catchall_an_error_is_reported_once(usercontext_recorder: RecordingClient) -> None:
    """What Bottle lets pass is met by the middleware."""
    app = make_app()
    app.catchall = False
    with pytest.raises(LookupError):
        get(app)
    assert users_of(usercontext_recorder) == [{"id": "ada"}]


# --- several apps, and wrong set-ups ------------------------------------------------------------


def child(**options: Any) -> Any:
    """Make an app to mount, with a plugin of its own if it has options."""
    app = bottle.Bottle()
    if options:
        app.install(UserContext(**options))
    app.route("/cart", callback=fail)
    return app


def test_a_mounted_app_of_bottles_shares_the_plugin(usercontext_recorder: RecordingClient) -> None:
    """Its routes become the parent's, whose plugin reports their errors."""
    app = make_app()
    app.mount("/shop/", child())
    assert b"500" in get(app, path="/shop/cart")
    assert users_of(usercontext_recorder) == [{"id": "ada"}]


def test_a_mounted_wsgi_app_has_its_own_resolver(usercontext_recorder: RecordingClient) -> None:
    """As a WSGI app it runs its own plugin, inside the parent's request."""
    app, inner = make_app(), child(resolver=lambda _: {"id": "inner"})
    app.mount("/shop/", inner.wsgi)
    assert b"500" in get(app, path="/shop/cart")
    assert users_of(usercontext_recorder) == [{"id": "inner"}]


def test_one_plugin_serves_several_apps(usercontext_recorder: RecordingClient) -> None:
    """Installed in two apps, it reports the errors of both."""
    plugin = UserContext(resolver=by_cookie)
    for _ in range(2):
        app = child()
        app.install(plugin)
        get(app)
    assert users_of(usercontext_recorder) == [{"id": "ada"}] * 2


def test_ours_around_ours_reports_once(usercontext_recorder: RecordingClient) -> None:
    """The plain middleware around the app changes nothing."""
    get(wsgi.UserContextMiddleware(make_app()))
    assert users_of(usercontext_recorder) == [{"id": "ada"}]


def test_a_second_plugin_is_refused() -> None:
    """Two with options of their own could disagree, also about privacy."""
    with pytest.raises(ConfigurationError, match="has a UserContext already"):
        make_app().install(UserContext(never_store_ip=True))


def test_what_is_no_bottle_app_is_refused() -> None:
    """Only an app of Bottle's takes plugins; the message says what others take."""
    with pytest.raises(ConfigurationError, match=r"not of object: write app\.install"):
        UserContext().setup(object())


def test_a_wrong_option_is_refused_before_it_is_installed() -> None:
    """The nearest option that exists is named."""
    with pytest.raises(ConfigurationError, match="did you mean resolver"):
        UserContext(resolvr=None)  # type: ignore[call-arg]
