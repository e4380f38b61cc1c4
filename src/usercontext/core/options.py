"""The options of a middleware and of `init()`, checked where the object is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

from usercontext.exceptions import ConfigurationError
from usercontext.request import RequestData

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from usercontext.carried import CarriedIdentity
    from usercontext.types import ReportingClient, Resolver

__all__ = ["ContextOptions", "check_methods", "check_names", "checked"]

CARRIED_METHODS = ("sign", "read", "is_for", "stats")
CLIENT_METHODS = ("setup", "request_scope", "is_recording", "set_user")
REPORTER_METHODS = ("build_exception", "build_message", "send", "flush", "close")


class ContextOptions(TypedDict, total=False):
    """What applies to a request; None is the same as leaving it out, except `detached_ttl`.

    resolver: called with the framework's request, at most once, when a user is needed.
    request_data: what of a request may be reported; by default no address.
    clients: further reporting clients.
    scrub: privacy rules; they add up with those of `init()`.
    hash_key: at least 16 bytes, for rules that hash.
    never_store_ip: no address is ever reported; nothing can turn it off again.
    resolve: "lazy" (default), when a report first needs the user, or "eager", before the app.
    resolver_timeout: seconds that anything waits for a resolver running elsewhere; default 1.
    resolver_thread: run a sync resolver of an ASGI app in a worker thread; default False.
    ignore_errors: exception classes and dotted names that are never reported; by default
        `"starlette.requests.ClientDisconnect"` and its like in other frameworks are left out where
        nothing handles them.
    detached_ttl: seconds that work outliving its request still sees the user; default 300,
        None: as long as it lives.
    carried: signs who the user is for background jobs and other services; by default nobody is
        carried.
    """

    resolver: Resolver | None
    request_data: RequestData | None
    clients: Iterable[ReportingClient] | None
    scrub: Iterable[str | tuple[str, str]]
    hash_key: bytes | str | None
    never_store_ip: bool
    resolve: Literal["lazy", "eager"]
    resolver_timeout: float
    resolver_thread: bool
    detached_ttl: float | None
    ignore_errors: Iterable[type[BaseException] | str]
    carried: CarriedIdentity | None


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, or raise the ConfigurationError that mends them."""
    check_names(options, ContextOptions.__annotations__)
    given = {
        name: value
        for name, value in options.items()
        if value is not None or name == "detached_ttl"
    }
    for name, value in given.items():
        check = _CHECKS.get(name)
        if check is not None:
            check(name, value)
    if "ignore_errors" in given:
        given["ignore_errors"] = _checked_errors(given["ignore_errors"])
    if "clients" in given:
        given["clients"] = _checked_clients(given["clients"])
    return given


def check_names(options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse an option that does not exist, and name the nearest that does."""
    known = list(known)
    for name in options:
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
            raise ConfigurationError(f"{name} is no option: {hint}")


def _check_resolver(name: str, value: object) -> None:
    if not callable(value):
        raise ConfigurationError(
            f"{name} must be a function of the request, not {type(value).__name__}: "
            "write resolver=find_user, where `def find_user(request)` returns the user"
        )


def _check_request_data(name: str, value: object) -> None:
    if not isinstance(value, RequestData):
        raise ConfigurationError(
            f"{name} must be a RequestData, not {type(value).__name__}: "
            "write request_data=RequestData(include_ip=True)"
        )


def _check_resolve(name: str, value: object) -> None:
    if value not in ("lazy", "eager"):
        raise ConfigurationError(
            f'{name} must be "lazy", when a report first needs the user, or "eager", before '
            f"the app runs; not {value!r}"
        )


def _check_seconds(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigurationError(f"{name} must be a number of seconds above 0, not {value!r}")


def _check_carried(name: str, value: object) -> None:
    check_methods(name, value, CARRIED_METHODS, 'CarriedIdentity(keys=[KEY], audience="shop")')


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {value!r}")


_CHECKS: dict[str, Callable[[str, object], None]] = {
    "resolver": _check_resolver,
    "carried": _check_carried,
    "request_data": _check_request_data,
    "resolve": _check_resolve,
    "resolver_timeout": _check_seconds,
    "detached_ttl": _check_seconds,
    "resolver_thread": _check_flag,
    "never_store_ip": _check_flag,
}


def _checked_errors(errors: object) -> object:
    from usercontext.core.ignored import IgnoredErrors, checked_errors

    is_checked = isinstance(errors, IgnoredErrors)
    return errors if is_checked else checked_errors("ignore_errors", errors)


def _checked_clients(clients: object) -> tuple[ReportingClient, ...]:
    if isinstance(clients, str | bytes) or not hasattr(clients, "__iter__"):
        raise ConfigurationError(
            f"clients must be a list of reporting clients, not {type(clients).__name__}: "
            "write clients=[client]"
        )
    given: tuple[ReportingClient, ...] = tuple(clients)
    for client in given:
        check_methods("clients", client, CLIENT_METHODS, "a subclass of clients.BaseClient")
    return given


def check_methods(option: str, value: object, names: tuple[str, ...], what: str) -> None:
    """Refuse an object without the methods that will be called, or a class given for one."""
    if isinstance(value, type):
        raise ConfigurationError(
            f"{option}: {value.__name__} is a class, not an object: write {value.__name__}()"
        )
    for name in names:
        if not callable(getattr(value, name, None)):
            kind = type(value).__name__
            raise ConfigurationError(f"{option}: {kind} has no method {name}(): give {what}")
