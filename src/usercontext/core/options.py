"""The options of a middleware and of `init()`, checked where the object is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

from usercontext import checks
from usercontext.exceptions import ConfigurationError
from usercontext.request import RequestData

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from usercontext.carried import CarriedIdentity
    from usercontext.types import PrivacyRule, ReportingClient, Resolver

__all__ = ["ContextOptions", "check_names", "checked"]

CARRIED_METHODS = ("sign", "read", "is_for", "stats")
CLIENT_METHODS = ("setup", "request_scope", "is_recording", "set_user")
REPORTER_METHODS = ("build_exception", "build_message", "send", "flush", "close")


class ContextOptions(TypedDict, total=False):
    """What applies to a request; None is the same as leaving it out, except `detached_ttl`.

    resolver: called with the framework's request, at most once, when a user is needed.
    request_data: what of a request may be reported; by default no address.
    clients: further reporting clients.
    scrub: privacy rules; they add up with `init()`'s.
    hash_key: at least 16 bytes, for rules that hash.
    never_store_ip: no address is ever reported; nothing can turn it off again.
    secret_names: words that make whatever name they stand in a secret's, beside those known, such
        as `["iban", "birth"]`; they hold for the whole process.
    resolve: "lazy" (default), when a report first needs the user, or "eager", before the app.
    resolver_timeout: seconds that anything waits for a resolver running elsewhere; default 1.
    resolver_thread: run a sync resolver of an ASGI app in a worker thread; default False.
    exception_text: "safe" (default): texts of errors are told without the input that they quote,
        and without what the request holds and `request_data` leaves out; "full": as they are;
        "none": the classes of exceptions alone.
    ignore_errors: exception classes and dotted names that are never reported; by default
        `"starlette.requests.ClientDisconnect"` and its like in other frameworks are left out where
        nothing handles them.
    detached_ttl: seconds that work outliving its request still sees the user; default 60,
        None: as long as it lives.
    flush: "response" sends what waits before each response ends, for platforms that stop the
        process after it; by default a background thread sends in its own time.
    carried: signs who the user is for background jobs and other services; by default nobody is
        carried.
    """

    resolver: Resolver | None
    request_data: RequestData | None
    clients: Iterable[ReportingClient] | None
    scrub: Iterable[PrivacyRule]
    hash_key: bytes | str | None
    never_store_ip: bool
    secret_names: Iterable[str]
    resolve: Literal["lazy", "eager"]
    resolver_timeout: float
    resolver_thread: bool
    detached_ttl: float | None
    exception_text: Literal["safe", "full", "none"]
    flush: Literal["response"] | None
    ignore_errors: Iterable[type[BaseException] | str]
    carried: CarriedIdentity | None


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, or raise the ConfigurationError that mends them."""
    check_names(options, ContextOptions.__annotations__)
    return {
        name: _CHECKS[name](name, value) if name in _CHECKS else value
        for name, value in options.items()
        if value is not None or name == "detached_ttl"
    }


def check_names(options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse an option that does not exist, and say where it stands or which is the nearest."""
    elsewhere = (*RequestData.__slots__, "send_default_pii")
    for name in options.keys() - known:
        meant = checks.nearest(name, [*known, *elsewhere])
        if meant in elsewhere:
            slip = "" if meant == name else f"{name} is not an option: did you mean {meant}? "
            raise ConfigurationError(slip + _written_in_request_data(meant))
    checks.names(options, known)


def _written_in_request_data(name: str) -> str:
    if name.startswith("include_"):
        return f"{name} is an option of RequestData: write request_data=RequestData({name}=True)"
    if name == "send_default_pii":
        return (
            "send_default_pii is an option of sentry-sdk: for the client's address write "
            "request_data=RequestData(include_ip=True), and name there what else may be reported"
        )
    return (
        f"{name} is an option of RequestData: write request_data=RequestData(include_ip=True), "
        f"with {name}=... beside include_ip"
    )


def _resolver(name: str, value: Any) -> Resolver:
    if not callable(value):
        raise ConfigurationError(
            f"{name} must be a function of the request, not {type(value).__name__}: "
            "write resolver=find_user, where `def find_user(request)` returns the user"
        )
    if not checks.takes_one(value):
        shown = getattr(value, "__qualname__", type(value).__qualname__)
        raise ConfigurationError(
            f"{name}: {shown} cannot be called with one argument, the request: write "
            "`def find_user(request)`, and take all else from the request"
        )
    return value  # type: ignore[no-any-return]


def _request_data(name: str, value: object) -> RequestData:
    if isinstance(value, RequestData):
        return value
    raise ConfigurationError(
        f"{name} must be a RequestData, not {type(value).__name__}: "
        "write request_data=RequestData(include_ip=True)"
    )


def _secret_names(name: str, value: object) -> tuple[str, ...]:
    words = checks.listed(name, value, "words", '["iban"]')
    for word in words:
        if not isinstance(word, str) or len(word.strip()) < 2:
            raise ConfigurationError(
                f"{name}: {word!r:.80} is not a word of two letters or more, so it would stand in "
                'nearly every name: write one such as "iban"'
            )
    return words


def _resolve(name: str, value: object) -> object:
    if value in ("lazy", "eager"):
        return value
    raise ConfigurationError(
        f'{name} must be "lazy", when a report first needs the user, or "eager", before '
        f"the app runs; not {value!r:.80}"
    )


def _exception_text(name: str, value: object) -> object:
    return checks.choice(name, value, "safe", "full", "none")


def _flush(name: str, value: object) -> object:
    return checks.choice(name, value, "response", None)


def _seconds_or_none(name: str, value: object) -> float | None:
    return None if value is None else checks.seconds(name, value)


def _carried(name: str, value: Any) -> CarriedIdentity:
    what = 'CarriedIdentity(keys=[KEY], audience="shop")'
    checks.methods(name, value, CARRIED_METHODS, what)
    return value  # type: ignore[no-any-return]


def _ignored_errors(name: str, value: object) -> object:
    from usercontext.core.ignored import IgnoredErrors, checked_errors

    return value if isinstance(value, IgnoredErrors) else checked_errors(name, value)


def _clients(name: str, value: object) -> tuple[ReportingClient, ...]:
    given = checks.listed(name, value, "reporting clients", "[client]")
    for client in given:
        checks.methods(name, client, CLIENT_METHODS, "a subclass of clients.BaseClient")
    return given


_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "resolver": _resolver,
    "carried": _carried,
    "request_data": _request_data,
    "clients": _clients,
    "exception_text": _exception_text,
    "flush": _flush,
    "ignore_errors": _ignored_errors,
    "resolve": _resolve,
    "secret_names": _secret_names,
    "resolver_timeout": checks.seconds,
    "detached_ttl": _seconds_or_none,
    "resolver_thread": checks.flag,
    "never_store_ip": checks.flag,
}
