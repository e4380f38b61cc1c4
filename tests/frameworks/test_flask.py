"""Flask: errors that it swallows are reported, and its request is there for the resolver."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

flask = pytest.importorskip("flask")
flask_login = pytest.importorskip("flask_login")

from usercontext import RequestData, User, capture_message, get_user, set_user, testing  # noqa: E402
from usercontext.frameworks.flask import UserContext  # noqa: E402
from usercontext.wsgi import UserContextMiddleware  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usercontext.testing import RecordingClient


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    testing.reset()
    yield
    testing.reset()


def make_app(**options: Any) -> Any:
    """Make an app with a session, Flask-Login, and a route that fails."""
    app = flask.Flask("shop")
    app.secret_key = "not a secret"
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
    """Flask-Login's anonymous user is no user, also right after somebody's request."""
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
