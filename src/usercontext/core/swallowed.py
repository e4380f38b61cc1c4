"""Errors that frameworks answer themselves, so that no wrapper around an app ever sees them.

Flask, Quart and Django announce them. The plain middlewares listen to whichever of these is there
when an app is wrapped: no framework is imported. Of other frameworks it is said which of our
modules reports what they answer.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from usercontext.core.lifecycle import ask_at_last, ask_at_last_now, fail, fail_now, is_open
from usercontext.core.record import current, found_in
from usercontext.diagnostics import warn_once

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["check_answers_nothing", "fail_current", "fail_current_now", "listen"]

_MAX_WRAPPED: Final = 20  # middlewares in each other

# What Django's own module of ours connects as, too: it reports in our place.
_DJANGO_UID: Final = "usercontext"


async def fail_current(error: object) -> None:
    """Report an error that a framework answers itself, while its request is still there."""
    record = current()
    if record is not None and isinstance(error, Exception):
        await fail(record, error)


def fail_current_now(error: object) -> None:
    """Do what `fail_current` does where nothing can be awaited."""
    record = current()
    if record is not None and isinstance(error, Exception):
        fail_now(record, error)


def listen() -> None:
    """Listen to the frameworks that have been imported by now, once to each."""
    for module, connect in _CONNECTED_BY.items():
        signals = sys.modules.get(module)
        if signals is not None:
            connect(signals)


def _connect_flask(signals: Any) -> None:
    # Signals know a receiver that is connected again.
    signals.got_request_exception.connect(_flask_answers)


def _flask_answers(app: Any, exception: object = None, **_extra: object) -> None:
    if not _passes_on(app):
        fail_current_now(exception)
        return
    # Whoever gets the error handles or reports it; where `g` is, its user is found.
    record = current()
    if record is not None:
        ask_at_last_now(record)


def _passes_on(app: Any) -> bool:
    """Return whether Flask or Quart raises an error that it has announced."""
    passes_on = app.config.get("PROPAGATE_EXCEPTIONS")
    return bool(app.testing or app.debug if passes_on is None else passes_on)


def _connect_quart(signals: Any) -> None:
    for name in ("request", "websocket"):
        getattr(signals, f"got_{name}_exception").connect(_quart_answers)
    signals.got_background_exception.connect(_quart_logs)


async def _quart_answers(app: Any, exception: object = None, **_extra: object) -> None:
    record = current()
    if not _passes_on(app):
        await fail_current(exception)
    elif record is not None:
        await ask_at_last(record)


async def _quart_logs(_app: object, exception: object = None, **_extra: object) -> None:
    await fail_current(exception)


def _connect_django(signals: Any) -> None:
    signals.got_request_exception.connect(_django_answers, dispatch_uid=_DJANGO_UID)


def _django_answers(*, request: Any = None, **_extra: object) -> None:
    error = sys.exc_info()[1]
    record = current()
    for name in ("environ", "scope"):
        found = found_in(getattr(request, name, {}))
        record = found if is_open(found) else record
    if record is not None and isinstance(error, Exception):
        fail_now(record, error)


_CONNECTED_BY: Final[dict[str, Callable[[Any], None]]] = {
    "flask.signals": _connect_flask,
    "quart.signals": _connect_quart,
    "django.core.signals": _connect_django,
}


# --- frameworks that announce nothing -----------------------------------------------------------

_WRITTEN: Final = {
    "blacksheep": "UserContext(app, ...)",
    "bottle": "app.install(UserContext(...))",
    "connexion": "UserContext(app, ...)",
    "emmett": "application = UserContext(app, ...)",
    "falcon": "application = UserContext(app, ...)",
    "litestar": "Litestar(..., plugins=[UserContext(...)])",
    "sanic": "UserContext(app, ...)",
}


def check_answers_nothing(app: object) -> None:
    """Say of an app whose framework answers errors in silence what reports them."""
    within: Any = app
    for _ in range(_MAX_WRAPPED):
        within = getattr(within, "__self__", within)  # `app.wsgi` of Bottle
        for name in {base.__module__.partition(".")[0] for base in type(within).__mro__}:
            if name in _WRITTEN and f"usercontext.frameworks.{name}" not in sys.modules:
                _warn_of_answers(name)
        inner = getattr(within, "app", None) or getattr(within, "application", None)
        if inner is None:
            return
        within = inner


def _warn_of_answers(framework: str) -> None:
    warn_once(
        f"{framework} answers errors",
        "an app of %s answers its errors itself, where the plain middleware cannot see them: in "
        "place of it write %s, with UserContext of usercontext.frameworks.%s",
        framework,
        _WRITTEN[framework],
        framework,
    )
