"""Flask: errors that it swallows are reported, and its request is there for the resolver."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import pytest

flask = pytest.importorskip("flask")
flask_login = pytest.importorskip("flask_login")

from werkzeug.middleware.dispatcher import DispatcherMiddleware  # noqa: E402

from usercontext import (  # noqa: E402
    ConfigurationError,
    MissingDependencyError,
    RequestData,
    User,
    capture_message,
    get_user,
    isolation_scope,
    set_user,
)
from usercontext.core.record import UNKNOWN  # noqa: E402
from usercontext.frameworks.flask import UserContext, request_user  # noqa: E402
from usercontext.wsgi import UserContextMiddleware  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usercontext.testing import RecordingClient


def make_app(**options: Any) -> Any:
    """Make an app with a session, Flask-Login, and a route that fails."""
    app = flask.Flask("shop")
    app.secret_key = "not a secret"
    loaded.clear()
    flask_login.LoginManager(app).user_loader(Account)

    @app.get("/fail")
    def fail() -> str:
        raise LookupError("no such thing")

    @app.get("/login/<name>")
    def login(name: str) -> str:
        flask_login.login_user(Account(name))
        flask.session["name"] = name
        return "in"

    @app.get("/me")
    def me() -> Any:
        user = get_user()
        return {"id": None if user is None else user.id}

    UserContext(app, **options)
    return app


class Account(flask_login.UserMixin):
    """A model with a field that must never leave."""

    def __init__(self, name: str) -> None:
        self.id = name
        self.password_hash = "x"
        loaded.append(name)


loaded: list[str] = []


def test_a_swallowed_error_is_reported_with_its_user(
    usercontext_recorder: RecordingClient,
) -> None:
    """Flask answers with a 500 itself: the report still goes out, once, unhandled."""
    client = make_app(resolver=lambda request: {"id": request.headers["x-user"]}).test_client()
    assert client.get("/fail", headers={"X-User": "ada"}).status_code == 500
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada"}
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is False


def test_an_error_that_flask_passes_on_is_reported_once(
    usercontext_recorder: RecordingClient,
) -> None:
    """In testing mode Flask re-raises what it has signalled: that is the same report."""
    app = make_app()
    app.testing = True
    with pytest.raises(LookupError):
        app.test_client().get("/fail")
    assert len(usercontext_recorder.events) == 1


def test_the_resolver_is_asked_inside_flasks_request(
    usercontext_recorder: RecordingClient,
) -> None:
    """Flask-Login's current_user and the session work where the resolver runs."""

    def resolver(_request: object) -> Any:
        assert flask.session.get("name") == flask_login.current_user.id
        return flask_login.current_user

    client = make_app(resolver=resolver).test_client()
    client.get("/login/ada")
    client.get("/fail")
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "ada"}


def test_an_anonymous_request_is_nobodys(usercontext_recorder: RecordingClient) -> None:
    """Flask-Login's anonymous user is not a user, also right after somebody's request."""
    app = make_app(resolver=lambda _: flask_login.current_user)
    logged_in = app.test_client()
    logged_in.get("/login/ada")
    logged_in.get("/fail")
    app.test_client().get("/fail")
    assert [event.get("user") for event in usercontext_recorder.events] == [{"id": "ada"}, None]


def test_nothing_is_resolved_for_a_request_that_reports_nothing() -> None:
    """Flask's user is not loaded on every request (defect 7)."""
    calls: list[object] = []
    client = make_app(resolver=calls.append).test_client()
    assert client.get("/login/ada").status_code == 200
    assert calls == []


def test_an_app_factory_initialises_later(usercontext_recorder: RecordingClient) -> None:
    """One UserContext serves several apps, each with its own errors."""
    context = UserContext(resolver=lambda _: {"id": 1})
    apps = [flask.Flask(name) for name in ("one", "two")]
    for app in apps:
        app.add_url_rule("/", view_func=lambda: 1 / 0)
        context.init_app(app)
    assert [app.test_client().get("/").status_code for app in apps] == [500, 500]
    assert len(usercontext_recorder.events) == 2


def test_a_wrapped_app_has_its_users_too(usercontext_recorder: RecordingClient) -> None:
    """The middleware alone isolates and resolves; app.wsgi_app takes it."""
    app = flask.Flask("shop")

    @app.get("/")
    def index() -> str:
        capture_message("hello")
        return "ok"

    app.wsgi_app = UserContextMiddleware(
        app.wsgi_app,
        resolver=lambda request: {"id": request.args["user"]},
        request_data=RequestData(include_ip=True),
    )
    app.test_client().get("/?user=7")
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "7", "ip_address": "127.0.0.1"}


def test_a_streamed_response_knows_its_user() -> None:
    """A generator body runs inside the request's record, though outside Flask's context."""
    app = make_app()
    seen: list[User | None] = []

    @app.get("/stream")
    def stream() -> Any:
        set_user({"id": 1})

        def chunks() -> Iterator[str]:
            seen.append(get_user())
            yield "x"

        return flask.Response(chunks())

    assert app.test_client().get("/stream").text == "x"
    assert seen == [User(id=1)]


def test_an_async_resolver_names_a_swallowed_error(
    usercontext_recorder: RecordingClient,
) -> None:
    """Over WSGI an async resolver is run when the report needs it."""

    async def resolver(_request: object) -> dict[str, int]:
        await asyncio.sleep(0)
        return {"id": 1}

    make_app(resolver=resolver).test_client().get("/fail")
    (event,) = usercontext_recorder.events
    assert event["user"] == {"id": "1"}


# --- the ready resolver for Flask-Login ---------------------------------------------------------


def logged_in(app: Any) -> Any:
    """Return a client in whose session Ada is; who was loaded for that is forgotten."""
    client = app.test_client()
    client.get("/login/ada")
    loaded.clear()
    return client


def users_of(recorder: RecordingClient) -> list[Any]:
    """Return the users that the reports name, in order."""
    return [event.get("user") for event in recorder.events]


def test_request_user_names_who_is_logged_in(usercontext_recorder: RecordingClient) -> None:
    """Flask-Login is asked within the failing request: the id, and never the model."""
    app = make_app(resolver=request_user)
    logged_in(app).get("/fail")
    app.test_client().get("/fail")
    assert users_of(usercontext_recorder) == [{"id": "ada"}, None]


def test_request_user_loads_nobody_without_need() -> None:
    """A request that reports nothing loads no user."""
    app = make_app(resolver=request_user)
    app.add_url_rule("/quiet", view_func=lambda: "ok")
    assert logged_in(app).get("/quiet").text == "ok"
    assert loaded == []


def test_request_user_takes_the_user_that_is_loaded(
    usercontext_recorder: RecordingClient,
) -> None:
    """Where the view has asked Flask-Login, the report does not ask again."""
    app = make_app(resolver=request_user)

    @app.get("/looks")
    def looks() -> str:
        return str(1 / (flask_login.current_user.id == "eve"))

    logged_in(app).get("/looks")
    assert users_of(usercontext_recorder) == [{"id": "ada"}]
    assert loaded == ["ada"]


def streaming(app: Any, *, in_context: bool) -> list[User | None]:
    """Add a stream that notes its user, in Flask's context or without; return the notes."""
    seen: list[User | None] = []

    def chunks() -> Iterator[str]:
        seen.append(get_user())
        yield "x"

    @app.get("/stream")
    def stream() -> Any:
        return flask.Response(flask.stream_with_context(chunks()) if in_context else chunks())

    return seen


def test_request_user_is_asked_in_a_stream_with_context() -> None:
    """`stream_with_context` keeps Flask's request for the body, and with it the user."""
    app = make_app(resolver=request_user)
    seen = streaming(app, in_context=True)
    assert logged_in(app).get("/stream").text == "x"
    assert seen == [User(id="ada")]


def test_request_user_leaves_the_question_open_in_a_plain_stream() -> None:
    """Without Flask's context nobody knows: the request counts as nobody's for that moment."""
    app = make_app(resolver=request_user)
    seen = streaming(app, in_context=False)
    logged_in(app).get("/stream")
    assert seen == [None]
    assert request_user(None) is UNKNOWN
    with app.app_context():
        assert request_user(None) is UNKNOWN


def test_a_plain_stream_keeps_the_user_that_is_known() -> None:
    """Who was known when the view returned is known to the stream and to `call_on_close`."""
    app = make_app(resolver=request_user)
    seen: list[User | None] = []

    @app.get("/closing")
    def closing() -> Any:
        get_user()
        response = flask.Response(iter(["x"]))
        response.call_on_close(lambda: seen.append(get_user()))
        return response

    logged_in(app).get("/closing").close()
    assert seen == [User(id="ada")]


def test_a_test_request_context_takes_a_scope() -> None:
    """`test_request_context` serves no request; a scope in it asks the same resolver."""
    app = make_app(resolver=request_user)
    with app.test_request_context(), isolation_scope(resolver=request_user):
        assert get_user() is None
    with app.test_request_context(), isolation_scope(resolver=request_user):
        flask_login.login_user(Account("ada"))
        assert get_user() == User(id="ada")


def test_request_user_without_a_login_manager_says_so(
    caplog: pytest.LogCaptureFixture, usercontext_recorder: RecordingClient
) -> None:
    """An app that never made a LoginManager has nobody, and is told what to write."""
    app = flask.Flask("shop")
    UserContext(app, resolver=request_user)
    app.add_url_rule("/", view_func=lambda: 1 / 0)
    app.test_client().get("/")
    assert users_of(usercontext_recorder) == [None]
    assert "write LoginManager(app)" in caplog.text


def test_request_user_needs_flask_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """The missing package is named when the extension is made, not at the first report."""
    monkeypatch.setitem(sys.modules, "flask_login", None)
    with pytest.raises(MissingDependencyError, match=r"usercontext\[flask-login\]"):
        UserContext(resolver=request_user)


# --- errors -------------------------------------------------------------------------------------


def test_an_error_page_of_the_app_changes_nothing(usercontext_recorder: RecordingClient) -> None:
    """A handler of 500 only makes the page: the error is reported, once."""
    app = make_app(resolver=request_user)
    app.register_error_handler(500, lambda error: ("sorry", 500))
    assert logged_in(app).get("/fail").text == "sorry"
    assert users_of(usercontext_recorder) == [{"id": "ada"}]


def test_an_error_that_the_app_handles_is_not_reported(
    usercontext_recorder: RecordingClient,
) -> None:
    """A handler of the error's own class has handled it, and `abort` is an answer."""
    app = make_app()
    app.register_error_handler(LookupError, lambda error: ("none", 404))
    app.add_url_rule("/abort", view_func=lambda: flask.abort(500))
    client = app.test_client()
    assert client.get("/fail").status_code == 404
    assert client.get("/abort").status_code == 500
    assert usercontext_recorder.events == []


def test_a_propagated_error_is_reported_once(usercontext_recorder: RecordingClient) -> None:
    """With PROPAGATE_EXCEPTIONS both Flask's signal and the middleware meet the error."""
    app = make_app(resolver=request_user)
    app.config["PROPAGATE_EXCEPTIONS"] = True
    with pytest.raises(LookupError):
        logged_in(app).get("/fail")
    assert users_of(usercontext_recorder) == [{"id": "ada"}]


@pytest.mark.parametrize("teardown", ["teardown_request", "teardown_appcontext"])
def test_an_error_in_a_teardown_names_its_user(
    teardown: str, usercontext_recorder: RecordingClient
) -> None:
    """No signal tells of it, and when the middleware meets it Flask's context is gone."""
    app = make_app(resolver=request_user)

    @getattr(app, teardown)
    def tear_down(error: BaseException | None) -> None:
        raise ConnectionError("the database is gone")

    with pytest.raises(ConnectionError):
        app.test_client().get("/login/ada")
    assert users_of(usercontext_recorder) == [{"id": "ada"}]


def test_an_error_outside_of_all_requests_is_left_alone(
    usercontext_recorder: RecordingClient,
) -> None:
    """Flask's signal also comes from where a test calls its error handling."""
    app = make_app()
    with app.test_request_context():
        assert app.handle_exception(LookupError()).status_code == 500
    assert usercontext_recorder.events == []


def test_an_async_view_has_its_user(usercontext_recorder: RecordingClient) -> None:
    """Flask runs async views on a loop in its own context: both report the same user."""
    pytest.importorskip("asgiref")
    app = make_app(resolver=request_user)

    @app.get("/async")
    async def fail_async() -> str:
        await asyncio.sleep(0)
        capture_message("before")
        raise LookupError("no such thing")

    assert logged_in(app).get("/async").status_code == 500
    assert users_of(usercontext_recorder) == [{"id": "ada"}] * 2


# --- several apps, and wrong set-ups ------------------------------------------------------------


def naming_app(name: str) -> Any:
    """Make an app of which every request fails, and is made by somebody of the app's name."""
    app = flask.Flask(name)
    app.add_url_rule("/", view_func=lambda: 1 / 0)
    UserContext(app, resolver=lambda _request: {"id": name})
    return app


def test_apps_side_by_side_have_resolvers_of_their_own(
    usercontext_recorder: RecordingClient,
) -> None:
    """Each app of a dispatcher reports its own errors with its own users."""
    shop, admin = naming_app("shop"), naming_app("admin")
    shop.wsgi_app = DispatcherMiddleware(shop.wsgi_app, {"/admin": admin})
    client = shop.test_client()
    for path in ("/admin/", "/", "/admin/"):
        assert client.get(path).status_code == 500
    ids = [user["id"] for user in users_of(usercontext_recorder)]
    assert ids == ["admin", "shop", "admin"]


def test_an_app_mounted_inside_has_its_own_resolver(usercontext_recorder: RecordingClient) -> None:
    """Inside another app's middleware the inner app's resolver names the user."""
    shop, admin = flask.Flask("shop"), naming_app("admin")
    shop.wsgi_app = DispatcherMiddleware(shop.wsgi_app, {"/admin": admin})
    UserContext(shop, resolver=lambda _request: {"id": "shop"})
    shop.test_client().get("/admin/")
    assert users_of(usercontext_recorder) == [{"id": "admin"}]


def test_init_app_twice_warns_and_changes_nothing(
    caplog: pytest.LogCaptureFixture, usercontext_recorder: RecordingClient
) -> None:
    """`UserContext(app)` followed by `init_app(app)` is the same as one of them."""
    app = flask.Flask("shop")
    app.add_url_rule("/", view_func=lambda: 1 / 0)
    context = UserContext(app)
    wrapped = app.wsgi_app
    context.init_app(app)
    assert app.wsgi_app is wrapped
    assert "write one of the two" in caplog.text


def test_a_second_extension_is_refused() -> None:
    """Two with options of their own could disagree, also about privacy."""
    app = make_app()
    with pytest.raises(ConfigurationError, match="'shop' has a UserContext already"):
        UserContext(app, never_store_ip=True)


@pytest.mark.parametrize("wrong", [flask.Blueprint("pages", "pages"), object(), "shop"])
def test_what_is_no_flask_app_is_refused(wrong: Any) -> None:
    """A blueprint, or any other app, is named with what to write instead."""
    with pytest.raises(ConfigurationError, match=r"takes a Flask app, not .*: write UserContext"):
        UserContext(wrong)


def test_init_app_after_the_first_request_is_refused() -> None:
    """Requests that have gone by were nobody's: that is a mistake, as in Flask itself."""
    app = flask.Flask("shop")
    app.test_client().get("/")
    with pytest.raises(ConfigurationError, match="before its first request"):
        UserContext().init_app(app)


def test_wrong_options_are_refused_before_init_app() -> None:
    """An app factory need not run to find out."""
    with pytest.raises(ConfigurationError, match="did you mean resolver"):
        UserContext(resolvr=None)  # type: ignore[call-arg]


def test_wrapped_by_the_middleware_too_an_error_is_reported_once(
    usercontext_recorder: RecordingClient,
) -> None:
    """The extension inside the plain middleware is as good as the extension alone."""
    app = make_app(resolver=request_user)
    app.wsgi_app = UserContextMiddleware(app.wsgi_app)
    logged_in(app).get("/fail")
    assert users_of(usercontext_recorder) == [{"id": "ada"}]
