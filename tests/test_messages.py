"""What everybody gets wrong once is met with what to write instead."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import usercontext
from usercontext import ConfigurationError, RequestData, asgi, init, isolation_scope, wsgi


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
    with pytest.raises(ConfigurationError, match=f"{option} is no option: did you mean {meant}?"):
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
