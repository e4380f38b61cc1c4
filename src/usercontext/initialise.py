"""`init()`: the one place that joins a context and the built-in client."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, Unpack

from usercontext.checks import flag, is_whole
from usercontext.core.context import configure, make_default
from usercontext.core.options import ContextOptions, check_names, checked
from usercontext.core.settings import default
from usercontext.diagnostics import harmless, show_texts
from usercontext.event_loop import run_in_own_thread
from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import timedelta
    from os import PathLike

    from usercontext.core.settings import Settings
    from usercontext.sentry.delivery.transport import Transport
    from usercontext.types import Event, Reporter

__all__ = ["InitOptions", "aclose", "aflush", "close", "flush", "init"]

#: The environment variable with the DSN to use where none is given.
ENVIRONMENT_VARIABLE: Final = "$USERCONTEXT_DSN"


class ClientOptions(TypedDict, total=False):
    """Options of the built-in client, which `SentryClient` describes."""

    release: str | None
    environment: str | None
    server_name: str | None
    sample_rate: float
    sample_by: Literal["event", "user"]
    sample_key: bytes | str | None
    max_per_user: str | None
    before_send: Callable[[Event], Event | None] | None
    include_local_variables: bool
    in_app_include: Iterable[str]
    in_app_exclude: Iterable[str]
    max_queue: int
    max_queue_bytes: int
    overflow: Literal["drop_newest", "drop_oldest"]
    outbox: str | PathLike[str] | None
    timeout: float
    shutdown_timeout: float
    proxy: str | None
    ca_certs: str | None
    max_reports: int
    max_age: float | timedelta
    max_outbox_bytes: int
    transport: Transport | Literal["httpx"] | None


class InitOptions(ContextOptions, ClientOptions, total=False):
    """What `init()` takes by name, for functions of yours that hand it on.

    A wrong name or value is an error in mypy and pyright, and editors complete the right ones:
    `def start(**options: Unpack[InitOptions]) -> None: usercontext.init(**options)`.
    """


def init(
    dsn: str | None = ENVIRONMENT_VARIABLE,
    *,
    client: Reporter | None = None,
    capture_unhandled: bool | None = None,
    capture_logging: str | int | None = None,
    debug: bool = False,
    **options: Unpack[InitOptions],
) -> Settings:
    """Configure the process: the defaults of every middleware, and the built-in client.

    It may come before or after middlewares are built: they read it at each request. A second
    call flushes and closes the first.

    Args:
        dsn: a Sentry DSN, or `sqlite:///reports.db` (four slashes for an absolute path), where
            reports are kept. None or "": nothing is reported by the built-in client. Left out,
            the environment variable USERCONTEXT_DSN is read (not SENTRY_DSN: beside sentry-sdk
            that would report twice).
        client: another reporter in the built-in client's place.
        capture_unhandled: report what nothing handles outside of requests: in a script, a thread,
            a task of asyncio, an `isolation_scope`. Left out: True with a DSN.
        capture_logging: report the log records of this level and above, such as "ERROR", with
            their exceptions. Left out: none.
        debug: show on the `usercontext` logger the texts of errors, a resolver's for example. For
            development: such a text may hold a user's data.
        options: see `InitOptions`, which are `ContextOptions` and the built-in client's,
            such as `release`, `environment`, `sample_rate`, `before_send`.

    Returns:
        The context that now applies wherever a middleware leaves an option out.

    Raises:
        ConfigurationError: an option is wrong or unknown; InvalidDsnError: the DSN is.
        MissingDependencyError: the DSN's server needs httpx, and that is not installed.
    """
    context_options: Any = {}
    client_options: dict[str, Any] = {}
    for name, value in options.items():
        kept = context_options if name in ContextOptions.__annotations__ else client_options
        kept[name] = value
    context_options = checked(context_options)
    _check_client_options(client_options, client)
    if capture_unhandled is not None:
        flag("capture_unhandled", capture_unhandled)
    level = _checked_level(capture_logging)
    flag("debug", debug)
    has_dsn = client is None
    if client is None:
        client = _built_in_client(_dsn_of(dsn), client_options)
        has_dsn = client is not None
    elif dsn is not None and dsn != ENVIRONMENT_VARIABLE:
        raise ConfigurationError("init() takes a DSN or client=, not both: leave one of them out")
    own_text = getattr(client, "exception_text", None)
    if isinstance(own_text, str):
        context_options.setdefault("exception_text", own_text)
    context = configure(client=client, **context_options)
    if client is None and dsn == ENVIRONMENT_VARIABLE:
        _notice_unused_dsn(context)
    _close_client(make_default(context).client, unless=client)
    show_texts(debug)
    _watch(unhandled=has_dsn if capture_unhandled is None else capture_unhandled, level=level)
    return context


def _notice_unused_dsn(context: Settings) -> None:
    import os

    if "SENTRY_DSN" in os.environ:
        from usercontext.sentry.notices import notice_unused_dsn

        notice_unused_dsn(context.clients)


def _watch(*, unhandled: bool, level: str | int | None) -> None:
    if not unhandled and level is None and "usercontext.core.unhandled" not in sys.modules:
        return
    from usercontext.core import unhandled as hooks  # with asyncio

    hooks.unwatch()
    if unhandled:
        hooks.watch()
    if level is not None:
        hooks.watch_logging(level)


def _checked_level(level: object) -> str | int | None:
    """Return the level of `capture_logging`, or raise the ConfigurationError that mends it."""
    if level is None or level is False:
        return None
    import logging

    names = logging.getLevelNamesMapping()
    if isinstance(level, str) and level.upper() in names:
        return level.upper()
    if is_whole(level):
        return level
    raise ConfigurationError(
        f'capture_logging must be a level of logging, such as "ERROR", not {level!r:.80}'
    )


def _dsn_of(dsn: str | None) -> str | None:
    if dsn != ENVIRONMENT_VARIABLE:
        return dsn
    import os

    return os.environ.get(ENVIRONMENT_VARIABLE.removeprefix("$"))


def _check_client_options(options: dict[str, Any], client: Reporter | None) -> None:
    if not options:
        return
    from inspect import signature

    from usercontext.sentry import SentryClient

    names = [*ContextOptions.__annotations__, *signature(SentryClient).parameters]
    check_names(options, names)
    if client is not None:
        raise ConfigurationError(
            f"{next(iter(options))} is an option of the built-in client: give it to client= itself"
        )


def _built_in_client(dsn: str | None, options: dict[str, Any]) -> Reporter | None:
    if not dsn and not options:
        return None
    from usercontext.sentry import SentryClient

    # Options are checked also where nothing is reported: at development, not first in production.
    client = SentryClient(dsn or None, **options)
    if not dsn:
        return None
    if "sentry_sdk" in sys.modules:
        from usercontext.sentry.notices import notice_reported_twice

        notice_reported_twice(dsn)
    return client


def flush(timeout: float = 2.0) -> bool:
    """Wait until every report is sent or kept, for at most `timeout` seconds.

    Returns:
        Whether it was in time; True without a client. Reports that wait for an async resolver
        are not waited for.
    """
    return _on_client("flush", timeout)


async def aflush(timeout: float = 2.0) -> bool:  # noqa: ASYNC109
    """Await what `flush()` waits for; the event loop goes on meanwhile."""
    return await run_in_own_thread(flush, timeout)


async def aclose(timeout: float = 2.0) -> bool:  # noqa: ASYNC109
    """Await what `close()` waits for; the event loop goes on meanwhile."""
    return await run_in_own_thread(close, timeout)


def close(timeout: float = 2.0) -> bool:
    """Flush, then stop the built-in client; nothing is reported after that.

    Returns:
        Whether everything was sent or kept within `timeout` seconds.
    """
    return _on_client("close", timeout)


def _on_client(method: str, timeout: float) -> bool:
    client = default().client
    if client is None:
        return True
    with harmless(f"built-in client {method}", "the reporting client failed in %s()", method):
        return bool(getattr(client, method)(timeout))
    return False


def _close_client(client: Reporter | None, *, unless: Reporter | None) -> None:
    if client is None or client is unless:
        return
    with harmless("built-in client close", "the reporting client failed in close()"):
        client.close()
