"""Pyramid: the user of its security policy, and the errors that its views for errors answer."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from usercontext.core.context import ask
from usercontext.core.following import NOT_YET, follows
from usercontext.core.lifecycle import fail_now, is_open
from usercontext.core.options import checked
from usercontext.core.passage import attach
from usercontext.core.record import found_in
from usercontext.core.settings import default
from usercontext.exceptions import ConfigurationError
from usercontext.frameworks.base import identity_of, open_record_in, record_in
from usercontext.optional import importing
from usercontext.user import User
from usercontext.wsgi import UserContextMiddleware

with importing("pyramid", "pyramid", purpose="usercontext.frameworks.pyramid"):
    from pyramid.httpexceptions import HTTPException
    from pyramid.interfaces import IApplicationCreated, IExecutionPolicy, ISecurityPolicy
    from pyramid.path import DottedNameResolver
    from pyramid.request import Request, RequestLocalCache
    from pyramid.settings import aslist, falsey, truthy
    from pyramid.viewderivers import INGRESS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from usercontext.core.following import Places
    from usercontext.core.record import RequestRecord
    from usercontext.types import Environ, StartResponse, WSGIApp

__all__ = ["includeme", "request_user"]

_PREFIX = "usercontext."
_NOBODY_ASKED: Final = (NOT_YET, None)

# Where Pyramid's own request stands in the environ while Pyramid serves it.
_REQUEST = "usercontext.pyramid"


# Where a request keeps the user that the policy has named last.
_SEEN = "usercontext.identity"


def _held(environ: Any, request: Any) -> object:
    if request is None:
        request = None if environ is None else environ.get(_REQUEST)
    if request is None:
        return NOT_YET
    seen, cache = vars(request).get(_SEEN, _NOBODY_ASKED)
    if cache is None:
        return seen
    # What the app has put there since; once it has been cleared, the policy is asked again.
    return cache._store.get(request, cache.NO_VALUE)


def _places(environ: Any, request: Any) -> Places:
    own = vars(request or environ[_REQUEST])
    _, cache = own.get(_SEEN, _NOBODY_ASKED)
    return [(own, _SEEN)] if cache is None else []


@follows(_held, _places)
def request_user(request: Any) -> object:
    """Return who Pyramid's security policy says makes a request: a ready resolver.

    Of `request.identity` only the fields of a `User` are taken, be it a model or a mapping; an
    identity without an id has `request.authenticated_userid` for one. What the policy says later,
    what stands in its `RequestLocalCache`, and `remember()` and `forget()` are followed.
    """
    identity = _held(None, request)
    if identity is NOT_YET or identity is RequestLocalCache.NO_VALUE:
        identity = request.identity
    if identity is None:
        return None
    if isinstance(identity, str):  # a legacy policy's
        return {"id": identity}
    user = User.of(identity_of(identity)) or User()
    if user.id is not None:
        return user
    userid = request.authenticated_userid
    return None if userid is None else user.with_fields(id=userid)


def _keep_seen(request: Any) -> None:
    """Keep the user that the policy has named last, before a later callback empties its cache."""
    seen = _held(None, request)
    cleared = seen is RequestLocalCache.NO_VALUE
    vars(request)[_SEEN] = _NOBODY_ASKED if cleared else (seen, None)


class _Policy:
    """Notes what a security policy says of each request: it keeps that nowhere to be seen."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self._caches = [one for one in vars(policy).values() if isinstance(one, RequestLocalCache)]

    def watch(self) -> None:
        """Stand before the methods of the policy that say who it is."""
        own, policy = vars(self._policy), self._policy
        own["identity"] = self._noting(policy.identity)
        for name in ("remember", "forget"):
            if hasattr(policy, name):
                own[name] = self._asking_again(getattr(policy, name))

    def _noting(self, identity: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(identity)
        def noting(request: Any) -> Any:
            if not isinstance(request, Request):  # what a test of the policy calls it with
                return identity(request)
            if _SEEN not in vars(request):
                # First of all: the cache empties itself by such a callback.
                request.add_finished_callback(_keep_seen)
                request.finished_callbacks.rotate(1)
            found = identity(request)
            vars(request)[_SEEN] = (found, self._cache_of(request, found))
            return found

        return noting

    def _cache_of(self, request: Any, found: object) -> Any:
        for cache in self._caches:
            if cache._store.get(request, cache.NO_VALUE) is found:
                return cache
        return None

    def _asking_again(self, change: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(change)
        def changing(request: Any, *args: Any, **kwargs: Any) -> Any:
            headers = change(request, *args, **kwargs)
            if not isinstance(request, Request):
                return headers
            vars(request).pop(_SEEN, None)
            record = open_record_in(request.environ)
            if record is not None and record.settings.resolver is request_user:
                record.ask_again()
            return headers

        return changing


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
    config.add_subscriber(_wrap, IApplicationCreated)


def _wrap(event: Any) -> None:
    """Put the middleware around all that Pyramid does with a request."""
    registry = event.app.registry
    policy = registry.queryUtility(ISecurityPolicy)
    if hasattr(policy, "__dict__") and "identity" not in vars(policy):
        _Policy(policy).watch()
    served = _Served(event.app, checked(_options(registry.settings)))
    # Another app that is made of the same configuration has it from the start.
    registry.registerUtility(served.choose, IExecutionPolicy)
    _listen_no_longer(registry)


def _listen_no_longer(registry: Any) -> None:
    """Spare requests their four events, where nobody listens to any: each is dear to announce."""
    heard = {handler.required for handler in registry.registeredHandlers()}
    if heard <= {(IApplicationCreated,)} and not list(registry.registeredSubscriptionAdapters()):
        registry.has_listeners = False


class _Served:
    """A Pyramid app, served inside our middleware.

    Its execution policy stands between the WSGI call and everything else, retries included. What
    the policy returns is called as a WSGI app: in its place that is our middleware, which calls
    the app's own policy.
    """

    def __init__(self, router: Any, options: dict[str, Any]) -> None:
        self._watched = _Watched(router)
        self._policy = router.execution_policy
        # Bound methods are called faster than objects.
        self._plain: WSGIApp = _Middleware(self._serve, router, options).__call__
        self._ready = self._plain
        if options.get("resolver") is None:
            ready = {**options, "resolver": request_user}
            self._ready = _Middleware(self._serve, router, ready).__call__
        router.execution_policy = self.choose

    def choose(self, environ: Environ, _router: object) -> WSGIApp:
        """Leave the question who it is to who was asked it further out, if anybody was."""
        record = found_in(environ)
        outer = default()
        if is_open(record):
            outer = record.settings
        return self._ready if outer.resolver is None else self._plain

    def _serve(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            response = self._policy(environ, self._watched)
        except BaseException:
            _keep(environ.pop(_REQUEST, None), environ)
            raise
        request = environ.pop(_REQUEST, None)
        if request is not None and request.exception is not None:
            _report(request.exception, response, environ)
        body: Iterable[bytes] = response(environ, start_response)
        if type(body) is not list:
            _keep(request, environ)
        return body


def _report(error: object, response: Any, environ: Environ) -> None:
    record = record_in(environ)
    if record is not None and _is_failure(error, response):
        fail_now(record, error)


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
        """Return the request that Pyramid serves, or one like it where it has none as yet."""
        request = environ.get(_REQUEST)
        return self._router.request_context(environ).request if request is None else request


class _Watched:
    """The router as the app's execution policy sees it: it notes which request is served."""

    def __init__(self, router: Any) -> None:
        self._router = router
        self.request_context: Callable[[Environ], Any] = router.request_context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._router, name)

    def invoke_request(self, request: Any, _use_tweens: bool = True) -> Any:
        request.environ[_REQUEST] = request
        try:
            return self._router.invoke_request(request, _use_tweens)
        except Exception:
            record = _record_of(request)
            if record is not None:
                ask(record)
            raise


def _record_of(request: Any) -> RequestRecord | None:
    """Return the open record of a request, if there is any."""
    return open_record_in(request.environ)


def _keep(request: object, environ: Environ) -> None:
    """Keep Pyramid's request for the resolver, where that may be asked after Pyramid is through."""
    record = open_record_in(environ)
    # A resolver from further out was written for another kind of request.
    if record is not None and isinstance(
        getattr(record.settings.make_request, "__self__", None), _Middleware
    ):
        record.make_state().request = request


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
    "secret_names": aslist,
    "never_store_ip": _flag,
    "resolver_thread": _flag,
    "resolver_timeout": _seconds,
    "detached_ttl": _seconds,
}
