"""Pyramid: the user of its security policy, and the errors that its views for errors answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

from usercontext.core.context import ask
from usercontext.core.lifecycle import fail_now
from usercontext.core.options import checked
from usercontext.core.passage import attach
from usercontext.core.settings import default
from usercontext.exceptions import ConfigurationError
from usercontext.frameworks.base import identity_of, open_record_in, record_in
from usercontext.optional import importing
from usercontext.user import User
from usercontext.wsgi import UserContextMiddleware

with importing("pyramid", "pyramid", purpose="usercontext.frameworks.pyramid"):
    from pyramid.events import ApplicationCreated
    from pyramid.httpexceptions import HTTPException
    from pyramid.path import DottedNameResolver
    from pyramid.settings import aslist, falsey, truthy
    from pyramid.viewderivers import INGRESS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from usercontext.core.record import RequestRecord
    from usercontext.types import Environ, StartResponse

__all__ = ["includeme", "request_user"]

_PREFIX = "usercontext."


def request_user(request: Any) -> object:
    """Return who Pyramid's security policy says makes a request: a ready resolver.

    Of `request.identity` only the fields of a `User` are taken, be it a model or a mapping; an
    identity without an id has `request.authenticated_userid` for one.
    """
    identity = request.identity
    if identity is None:
        return None
    user = User.of(identity_of(identity)) or User()
    if user.id is not None:
        return user
    userid = request.authenticated_userid
    return None if userid is None else user.with_fields(id=userid)


def includeme(config: Any) -> None:
    """Give every request of a Pyramid app a user of its own, and report its unhandled errors.

    `config.include("usercontext.frameworks.pyramid")`, anywhere before `make_wsgi_app()`. Options
    are settings, such as `usercontext.resolver`: as `ContextOptions` has them, or texts as an
    `.ini` file has them, where functions and objects are dotted names. The resolver is called
    with Pyramid's request. Without one, `request_user` of this module names the user, unless
    `init()` or a middleware further out has a resolver.

    An error is unhandled if no exception view answers it, or one answers it with a 500.

    `make_wsgi_app()` raises ConfigurationError where a setting is wrong, and names the fix.
    """
    # Where a view fails, its transaction is still open, in which the policy finds the user.
    config.add_view_deriver(_ask_where_a_view_fails, "usercontext", INGRESS, "secured_view")
    config.add_subscriber(_wrap, ApplicationCreated)


def _wrap(event: Any) -> None:
    """Put the middleware around all that Pyramid does with a request."""
    _Served(event.app, checked(_options(event.app.registry.settings)))


class _Served:
    """A Pyramid app, served inside our middleware.

    Its execution policy stands between the WSGI call and everything else, retries included. What
    the policy returns is called as a WSGI app: in its place that is our middleware, which calls
    the app's own policy.
    """

    def __init__(self, router: Any, options: dict[str, Any]) -> None:
        self._router = router
        self._policy = router.execution_policy
        self._plain = _Middleware(self._serve, router, options)
        self._ready = self._plain
        if options.get("resolver") is None:
            self._ready = _Middleware(self._serve, router, {**options, "resolver": request_user})
        router.execution_policy = self._choose

    def _choose(self, environ: Environ, _router: object) -> UserContextMiddleware:
        """Leave the question who it is to who was asked it further out, if anybody was."""
        record = open_record_in(environ)
        outer = default() if record is None else record.settings
        return self._ready if outer.resolver is None else self._plain

    def _serve(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        watched = _Watched(self._router)
        response = self._policy(environ, watched)
        record = record_in(environ)
        error = getattr(watched.request, "exception", None)
        if record is not None and _is_failure(error, response):
            fail_now(record, error)
        body: Iterable[bytes] = response(environ, start_response)
        return body


def _is_failure(error: object, response: Any) -> TypeGuard[Exception]:
    """Tell whether an exception view had nothing better to say than 500.

    Pyramid's own HTTP exceptions are answers, also where they are raised.
    """
    if not isinstance(error, Exception) or isinstance(error, HTTPException):
        return False
    return getattr(response, "status_int", None) == 500


class _Middleware(UserContextMiddleware):
    """The WSGI middleware, whose resolver gets Pyramid's request."""

    def __init__(self, app: Any, router: Any, options: dict[str, Any]) -> None:
        self._router = router
        super().__init__(app, **options)

    def make_request(self, environ: Any) -> object:
        """Make a request of Pyramid's, for a resolver that is asked before there is one."""
        return self._router.request_context(environ).request


class _Watched:
    """The router as the app's execution policy sees it: it notes which request is served."""

    def __init__(self, router: Any) -> None:
        self._router = router
        self.request: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._router, name)

    def invoke_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self.request = request
        record = _record_of(request)
        try:
            return self._router.invoke_request(request, *args, **kwargs)
        except Exception:
            if record is not None:
                ask(record)
            raise


def _record_of(request: Any) -> RequestRecord | None:
    """Return the open record of a request, which from now on knows Pyramid's own."""
    record = open_record_in(request.environ)
    if record is None:
        return None
    # A resolver from further out was written for another kind of request.
    if isinstance(getattr(record.settings.make_request, "__self__", None), _Middleware):
        record.make_state().request = request
    return record


def _ask_where_a_view_fails(view: Callable[..., Any], _info: object) -> Callable[..., Any]:
    """Find out who the user is while the failing view's transaction is open."""

    def asking(context: Any, request: Any) -> Any:
        try:
            return view(context, request)
        except HTTPException:
            raise
        except Exception as error:
            record = _record_of(request)
            if record is not None:
                ask(record)
                attach(error, record)
            raise

    return asking


# --- settings -----------------------------------------------------------------------------------


def _options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that settings hold, texts of an `.ini` file made what they stand for."""
    options: dict[str, Any] = {}
    for key, value in settings.items():
        if key.startswith(_PREFIX):
            name = key.removeprefix(_PREFIX)
            read = _READERS.get(name) if isinstance(value, str) else None
            options[name] = value if read is None else _read(key, value, read)
    return options


def _read(key: str, text: str, read: Callable[[str], object]) -> object:
    try:
        return read(text.strip())
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"the setting {key} cannot be read: {error}") from error


_dotted = DottedNameResolver(None).resolve


def _flag(text: str) -> bool:
    if text.lower() not in truthy | falsey:
        raise ValueError("write true or false")
    return text.lower() in truthy


def _seconds(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)


def _clients(text: str) -> list[Any]:
    return [_dotted(name) for name in aslist(text)]


_READERS: dict[str, Callable[[str], object]] = {
    "resolver": _dotted,
    "request_data": _dotted,
    "clients": _clients,
    "scrub": aslist,
    "never_store_ip": _flag,
    "resolver_thread": _flag,
    "resolver_timeout": _seconds,
    "detached_ttl": _seconds,
}
