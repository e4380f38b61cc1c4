"""What everybody gets wrong once is met with what to write instead."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import usercontext
from usercontext import ConfigurationError, RequestData, asgi, init, isolation_scope, wsgi
from usercontext.clients.logging import LoggingClient

if TYPE_CHECKING:
    from usercontext.testing import RecordingClient


EMAIL = "ada@shop.example"


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    """Stand for an app of ASGI."""


def wsgi_app(environ: Any, start_response: Any) -> Any:
    """Stand for an app of WSGI."""


IN_REQUEST_DATA = {
    "include_ip": "request_data=RequestData(include_ip=True)",
    "include_headers": "request_data=RequestData(include_headers=True)",
    "trusted_proxies": "request_data=RequestData(include_ip=True), with trusted_proxies=",
    "anonymize_ip": "request_data=RequestData(include_ip=True), with anonymize_ip=",
    "send_default_pii": "request_data=RequestData(include_ip=True)",
    "include_ips": "did you mean include_ip? ",
    "anonymise_ip": "did you mean anonymize_ip? ",
}


@pytest.mark.parametrize("option", IN_REQUEST_DATA)
@pytest.mark.parametrize("build", [init, lambda **one: asgi.UserContextMiddleware(asgi_app, **one)])
def test_an_option_of_request_data_elsewhere(build: Any, option: str) -> None:
    """What belongs into `RequestData`, or is sentry-sdk's word for it, is shown in its place."""
    with pytest.raises(ConfigurationError) as caught:
        build(**{option: True})
    assert IN_REQUEST_DATA[option] in str(caught.value)


@pytest.mark.parametrize(
    ("option", "meant"), [("anonymise_ip", "anonymize_ip"), ("include_ips", "include_ip")]
)
def test_a_misspelled_option_of_request_data(option: str, meant: str) -> None:
    """The option that was meant is named, as for `init()`."""
    options: Any = {option: True}
    with pytest.raises(
        ConfigurationError, match=f"{option} is not an option: did you mean {meant}?"
    ):
        RequestData(**options)


TRUSTED = [
    ("*", '"\\*" would trust everyone'),
    (["*"], '"\\*" would trust everyone'),
    ("10.0.0.0/8, *", '"\\*" would trust everyone'),
    ("10.0.0.0/8, ::1", r"trusted_proxies=\['10.0.0.0/8', '::1'\]"),
    (["10.0.0.0/8, ::1"], r"element of its own, trusted_proxies=\['10.0.0.0/8', '::1'\]"),
]


@pytest.mark.parametrize(("proxies", "text"), TRUSTED)
def test_proxies_in_one_text(proxies: Any, text: str) -> None:
    """The first message is the last one: what it says to write is accepted, or never right."""
    with pytest.raises(ConfigurationError, match=text):
        RequestData(trusted_proxies=proxies)


def find_user(request: Any) -> Any:
    """Find the user of a request."""


@pytest.mark.parametrize(
    ("middleware", "app"),
    [(asgi.UserContextMiddleware, asgi_app), (wsgi.UserContextMiddleware, wsgi_app)],
    ids=["ASGI", "WSGI"],
)
def test_a_resolver_without_its_name(middleware: Any, app: Any) -> None:
    """Options are given by name."""
    with pytest.raises(ConfigurationError, match="write resolver=find_user"):
        middleware(app, find_user)
    with pytest.raises(ConfigurationError, match="each with its name"):
        middleware(app, {"include_ip": True})


def find_nobody() -> Any:
    """Take nothing."""


def find_twice(request: Any, session: Any) -> Any:
    """Take two."""


@pytest.mark.parametrize("resolver", [find_nobody, find_twice])
def test_a_resolver_of_another_form(resolver: Any) -> None:
    """A resolver that could never be called is refused when it is given."""
    for build in (init, isolation_scope, lambda **one: wsgi.UserContextMiddleware(wsgi_app, **one)):
        with pytest.raises(ConfigurationError, match=rf"{resolver.__name__} .* one argument"):
            build(resolver=resolver)


def test_the_middleware_has_an_interface() -> None:
    """The package itself has no middleware: the error says which module has one."""
    statement = "from usercontext import UserContextMiddleware"
    command = [sys.executable, "-c", statement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ImportError: there is one UserContextMiddleware for each interface" in done.stderr
    assert "from usercontext.asgi import" in done.stderr
    assert "from usercontext.wsgi import" in done.stderr


def test_other_names_are_missing_as_ever() -> None:
    """Whoever asks for anything else gets an AttributeError."""
    with pytest.raises(AttributeError, match="module 'usercontext' has no attribute 'set_users'"):
        usercontext.set_users  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(usercontext, "set_users")


@pytest.mark.parametrize("between", [False, True], ids=["alone", "with another middleware"])
def test_an_app_that_would_call_itself(*, between: bool) -> None:
    """`app.wsgi_app = UserContextMiddleware(app)` says what to write, where it would not end."""
    flask = pytest.importorskip("flask")
    from werkzeug.middleware.proxy_fix import ProxyFix

    app = flask.Flask(__name__)
    middleware: Any = wsgi.UserContextMiddleware(app)
    app.wsgi_app = ProxyFix(middleware) if between else middleware
    with pytest.raises(ConfigurationError, match=r"UserContextMiddleware\(app\.wsgi_app"):
        app.test_client().get("/")


def test_an_app_around_another() -> None:
    """The Flask object itself may be wrapped, and served."""
    flask = pytest.importorskip("flask")
    from werkzeug.test import Client

    app = flask.Flask(__name__)
    app.add_url_rule("/", view_func=lambda: "hello")
    app.wsgi_app = wsgi.UserContextMiddleware(app.wsgi_app)
    assert Client(wsgi.UserContextMiddleware(app)).get("/").text == "hello"


@pytest.mark.parametrize(
    "middleware", [asgi.UserContextMiddleware, wsgi.UserContextMiddleware], ids=["ASGI", "WSGI"]
)
def test_a_middleware_without_its_app(middleware: Any) -> None:
    """An instance given to `add_middleware` is met with the class and its options."""
    with pytest.raises(
        ConfigurationError, match=r"app\.add_middleware\(UserContextMiddleware, res"
    ):
        middleware(resolver=find_user)


@pytest.mark.parametrize("options", [{}, {"resolve": "eager"}], ids=["alone", "with options"])
@pytest.mark.parametrize("module", ["starlette.applications.Starlette", "fastapi.FastAPI"])
def test_a_middleware_in_place_of_its_class(module: str, options: dict[str, str]) -> None:
    """An instance around the app, given to `add_middleware`, is met with the class."""
    path, _, name = module.rpartition(".")
    pytest.importorskip("httpx")
    app = getattr(pytest.importorskip(path), name)()
    from starlette.testclient import TestClient

    app.add_middleware(asgi.UserContextMiddleware(app, resolver=find_user), **options)
    with pytest.raises(ConfigurationError, match=r"give the class .* app\.add_middleware\(User"):
        TestClient(app).get("/")


HIDDEN = [
    ("flask.Flask", wsgi, r"app\.wsgi_app = UserContextMiddleware\(app\.wsgi_app, \.\.\.\)"),
    ("fastapi.FastAPI", asgi, r"app\.add_middleware\(UserContextMiddleware, \.\.\.\)"),
    ("falcon.App", wsgi, r"served = UserContextMiddleware\(app, \.\.\.\)"),
]


@pytest.mark.parametrize(("app_class", "module", "fix"), HIDDEN, ids=[row[0] for row in HIDDEN])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_app_hidden_by_its_middleware(app_class: str, module: Any, fix: str) -> None:
    """`app = UserContextMiddleware(app)`: whoever misses the app's own names is told the fix."""
    package, _, name = app_class.partition(".")
    app = getattr(pytest.importorskip(package), name)(*["shop"] * (name == "Flask"))
    app = module.UserContextMiddleware(app)
    with pytest.raises(AttributeError, match=fix):
        app.add_error_handler if name == "App" else app.get  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'unheard'$"):
        app.unheard  # noqa: B018
    assert not hasattr(app, "__unheard__")


def test_a_middleware_around_an_app_with_others() -> None:
    """An app that is wrapped, and has the class among its own, is served."""
    applications = pytest.importorskip("starlette.applications")
    pytest.importorskip("httpx")
    from starlette.testclient import TestClient

    app = applications.Starlette()
    app.add_middleware(asgi.UserContextMiddleware, resolver=find_user)
    wrapped = asgi.UserContextMiddleware(app)
    assert TestClient(wrapped).get("/").status_code == 404


def find_badly(request: Any) -> Any:
    """Fail, with a text that tells who it was about."""
    raise LookupError(f"no such customer: {EMAIL}")


def report_within_an_error() -> None:
    """Ask the resolver while the app handles an error, as nearly every report does."""
    with isolation_scope(resolver=find_badly):
        try:
            raise KeyError("the app's own")
        except KeyError:
            usercontext.get_user()


def test_a_resolvers_error_comes_first(caplog: pytest.LogCaptureFixture) -> None:
    """A resolver that raises is shown with its own error alone, not below the app's."""
    report_within_an_error()
    assert "find_badly failed" in caplog.text
    assert "LookupError: (its text is left out" in caplog.text
    assert "KeyError" not in caplog.text


def test_what_a_resolver_handled_itself_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    """An error that led to the resolver's is one of its causes."""

    def find_after_all(request: Any) -> Any:
        try:
            find_badly(request)
        except LookupError:
            raise RuntimeError("nothing helped")  # noqa: B904

    with isolation_scope(resolver=find_after_all):
        usercontext.get_user()
    assert caplog.text.index("LookupError") < caplog.text.index("RuntimeError")


def test_debug_shows_a_resolvers_text(caplog: pytest.LogCaptureFixture) -> None:
    """`init(debug=True)` shows what the error says, until `init()` is called without it."""
    init(None, debug=True)
    report_within_an_error()
    assert f"LookupError: no such customer: {EMAIL}" in caplog.text
    caplog.clear()
    usercontext.testing.reset()
    report_within_an_error()
    assert EMAIL not in caplog.text


def test_an_error_whose_text_fails(caplog: pytest.LogCaptureFixture) -> None:
    """An exception whose `__str__` raises is logged all the same."""

    class SilentError(Exception):
        def __str__(self) -> str:
            raise ValueError

    def find_silently(request: Any) -> Any:
        raise SilentError

    init(None, debug=True)
    with isolation_scope(resolver=find_silently):
        usercontext.get_user()
    assert "SilentError: (its text cannot be told)" in caplog.text


def test_the_fixture_shows_a_resolvers_text(
    usercontext_recorder: RecordingClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A test that fails by its resolver says why."""
    report_within_an_error()
    assert "LookupError: no such customer" in caplog.text
    assert usercontext_recorder.events == []


@pytest.mark.parametrize(
    ("has_context", "text"), [(False, "no UserContext"), (True, "no resolver")]
)
def test_a_required_user_that_nobody_can_be(
    caplog: pytest.LogCaptureFixture, *, has_context: bool, text: str
) -> None:
    """A `RequiredUser` that answers 401 to everybody says once what is missing."""
    fastapi = pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from starlette.testclient import TestClient

    from usercontext.frameworks.fastapi import RequireUser, UserContext

    app = fastapi.FastAPI()
    if has_context:
        UserContext(app)
    app.get("/", dependencies=[fastapi.Depends(RequireUser())])(lambda: None)
    answers = [TestClient(app).get("/").status_code for _ in range(2)]
    assert answers == [401, 401]
    assert caplog.text.count(text) == 1


def users_found_by(app: Any) -> list[str]:
    """Add an endpoint that asks for the user, and ask it twice."""
    from starlette.testclient import TestClient

    def home() -> str:
        found = usercontext.get_user()
        return str(found and found.id)

    app.get("/")(home)
    return [str(TestClient(app).get("/").json()) for _ in range(2)]


def test_a_request_user_whom_nothing_sets(caplog: pytest.LogCaptureFixture) -> None:
    """FastAPI's `request_user` without authentication says once who would set the user."""
    fastapi = pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from usercontext.frameworks.fastapi import UserContext, request_user

    app = fastapi.FastAPI()
    UserContext(app, resolver=request_user)
    assert users_found_by(app) == ["None", "None"]
    assert caplog.text.count("app.add_middleware(AuthenticationMiddleware, backend=...)") == 1


@pytest.mark.parametrize("user", [None, {"id": 1}], ids=["a visitor", "somebody"])
def test_a_request_user_whom_the_app_sets(
    caplog: pytest.LogCaptureFixture, user: dict[str, int] | None
) -> None:
    """Where the app says who it is, or that it is nobody, nothing is missing."""
    fastapi = pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from usercontext.frameworks.fastapi import UserContext, request_user

    def authenticate(request: Any) -> None:
        request.state.user = user

    authenticate.__annotations__["request"] = fastapi.Request
    app = fastapi.FastAPI(dependencies=[fastapi.Depends(authenticate)])
    UserContext(app, resolver=request_user)
    assert users_found_by(app) == [str(user and "1")] * 2
    assert "request_user" not in caplog.text


def test_a_required_user_who_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    """A request of nobody, where somebody could be, is an answer like any other."""
    fastapi = pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from starlette.testclient import TestClient

    from usercontext.frameworks.fastapi import RequireUser, UserContext

    app = fastapi.FastAPI()
    UserContext(app, resolver=find_user)
    app.get("/", dependencies=[fastapi.Depends(RequireUser())])(lambda: None)
    assert TestClient(app).get("/").status_code == 401
    assert "RequiredUser" not in caplog.text


async def find_later(request: Any) -> Any:
    """Find the user by something to await."""
    return {"id": 1}


def test_an_async_resolver_and_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """A line that should ask a resolver which has to be awaited says what to write."""
    client = LoggingClient([caplog.handler], resolve=True)

    async def write_two_lines() -> None:
        with isolation_scope(resolver=find_later):
            logging.getLogger("shop").warning("paid")
            logging.getLogger("shop").warning("sent")

    init(None, clients=[client])
    asyncio.run(write_two_lines())
    caplog.handler.filters.clear()
    said = [line for line in caplog.messages if 'write resolve="eager"' in line]
    assert len(said) == 1
    assert "find_later is async" in said[0]
