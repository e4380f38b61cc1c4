"""System checks: what is wrong with the settings, before a request meets it.

Django runs them in `manage.py check`, `runserver`, `migrate` and `test`, if
`usercontext.frameworks.django` is in `INSTALLED_APPS`: no middleware is imported by then. Without
that, the order of the middlewares is looked at when the server starts, and logged.
"""

from __future__ import annotations

from importlib.util import find_spec
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.utils.module_loading import import_string

from usercontext.core.settings import Settings
from usercontext.diagnostics import warn_once
from usercontext.exceptions import ConfigurationError
from usercontext.frameworks.django.configuration import read_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["register", "warn_unchecked"]

_TAG = "usercontext"
_APP = "usercontext.frameworks.django"
_OURS = f"{_APP}.UserContextMiddleware"
_WRAPPERS = ("usercontext.wsgi", "usercontext.asgi")

# What authenticates by itself, and then says so in `request.user`.
_AUTHENTICATION = (
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.RemoteUserMiddleware",
)
_APPS_THAT_AUTHENTICATE = ("rest_framework", "ninja")

# How deep a wrapped application may stand in other wrappers.
_MAX_WRAPPERS = 20


def register() -> None:
    """Have `manage.py check` run all checks; the last one with `--deploy` only."""
    for check in (_check_setting, _check_listed, _check_order, _check_authentication, _check_async):
        checks.register(check, _TAG)
    checks.register(_check_wrapped, _TAG, deploy=True)


def warn_unchecked() -> None:
    """Log what is wrong with the middlewares' order, where no system check says it."""
    if apps.is_installed(_APP):
        return
    for message in _check_order():
        if not message.is_silenced():
            warn_once(str(message.id), "%s %s (%s)", message.msg, message.hint, message.id)


def _check_setting(**_kwargs: Any) -> list[checks.CheckMessage]:
    """E001: the setting cannot be used."""
    try:
        read_options()
    except ConfigurationError as error:
        # It names the key, what is wrong with it, and what to write instead.
        message = "The setting USERCONTEXT cannot be used."
        return [checks.Error(message, hint=str(error), id="usercontext.E001")]
    return []


def _check_listed(**_kwargs: Any) -> Iterator[checks.CheckMessage]:
    """E002 and W001: the wrong class is listed, or none."""
    for path, kind in _middlewares():
        if _is_wrapper(kind):
            yield checks.Error(
                f"{path} in MIDDLEWARE wraps a whole application: Django cannot use it there.",
                hint=f'Write "{_OURS}" instead.',
                id="usercontext.E002",
            )
            return
    if not any(_is_ours(kind) for _, kind in _middlewares()):
        yield checks.Warning(
            f"{_OURS} is not in MIDDLEWARE: errors that Django answers are not reported.",
            hint=f'Put "{_OURS}" first in MIDDLEWARE.',
            id="usercontext.W001",
        )


def _check_order(**_kwargs: Any) -> Iterator[checks.CheckMessage]:
    """W002 and W003: ours stands inside of others, or is listed twice."""
    names = [path for path, _ in _middlewares()]
    ours = [index for index, (_, kind) in enumerate(_middlewares()) if _is_ours(kind)]
    if ours and ours[0] > 0:
        yield checks.Warning(
            f"{names[ours[0]]} stands behind {', '.join(names[: ours[0]])} in MIDDLEWARE: what "
            "these report, and their errors, have no user.",
            hint=f'Put "{names[ours[0]]}" first in MIDDLEWARE.',
            id="usercontext.W002",
        )
    if len(ours) > 1:
        yield checks.Warning(
            f"{names[ours[0]]} is {len(ours)} times in MIDDLEWARE: only the first is of use.",
            hint="Keep the first, and take the others out.",
            id="usercontext.W003",
        )


def _check_authentication(**_kwargs: Any) -> list[checks.CheckMessage]:
    """W004: nothing says who the user is."""
    kinds = [kind for _, kind in _middlewares()]
    authenticates = any(_is_a(kind, path) for kind in kinds for path in _AUTHENTICATION)
    if authenticates or not any(map(_is_ours, kinds)) or _has_resolver():
        return []
    if any(map(apps.is_installed, _APPS_THAT_AUTHENTICATE)):
        return []
    return [
        checks.Warning(
            "Nothing in MIDDLEWARE sets request.user, and USERCONTEXT has no resolver: no report "
            "will have a user.",
            hint='Write USERCONTEXT = {"resolver": "shop.users.find_user"}, or add '
            f'"{_AUTHENTICATION[0]}" to MIDDLEWARE. Where a middleware of your own sets '
            f'request.user, write USERCONTEXT = {{"resolver": "{_APP}.request_user"}}.',
            id="usercontext.W004",
        )
    ]


def _check_async(**_kwargs: Any) -> list[checks.CheckMessage]:
    """W005: an async resolver, and nothing that serves it."""
    if not iscoroutinefunction(_options().get("resolver")) or not _is_wsgi_only():
        return []
    return [
        checks.Warning(
            'USERCONTEXT["resolver"] is async, and this project is served over WSGI: it runs on '
            "another thread, whose connections to the database Django does not close.",
            hint="Write the resolver with `def`.",
            id="usercontext.W005",
        )
    ]


def _check_wrapped(**_kwargs: Any) -> Iterator[checks.CheckMessage]:
    """W006, with `--deploy` as it imports the application: options that contradict."""
    try:
        own = Settings(**read_options())
    except ConfigurationError:
        return  # E001 says so.
    for name in ("WSGI_APPLICATION", "ASGI_APPLICATION"):
        for outer in _wrapping(getattr(settings, name, None)):
            options = own.conflicts_with(outer)
            if options:
                yield checks.Warning(
                    f"USERCONTEXT and the middleware around {name} both have "
                    f"{', '.join(options)}, and not the same: inside Django the setting's applies.",
                    hint="Leave it out in one of the two places.",
                    id="usercontext.W006",
                )


def _wrapping(path: str | None) -> Iterator[Settings]:
    """Yield the options of our middlewares around an application."""
    app: Any = _imported(path) if path else None
    for _ in range(_MAX_WRAPPERS):
        if app is None:
            return
        if _is_wrapper(type(app)):
            yield app.own
        app = getattr(app, "app", None) or getattr(app, "application", None)


def _middlewares() -> list[tuple[str, type]]:
    """Return the middlewares that can be imported: of the others Django itself complains."""
    found = ((path, _imported(path)) for path in settings.MIDDLEWARE or ())
    return [(path, kind) for path, kind in found if kind is not None]


def _imported(path: str) -> Any:
    try:
        return import_string(path)
    except ImportError:
        return None


def _is_ours(kind: Any) -> bool:
    return any(one.__module__ == f"{_APP}.middleware" for one in _bases(kind))


def _is_wrapper(kind: Any) -> bool:
    return any(one.__module__ in _WRAPPERS for one in _bases(kind))


def _is_a(kind: Any, path: str) -> bool:
    return any(f"{one.__module__}.{one.__qualname__}" == path for one in _bases(kind))


def _bases(kind: Any) -> Iterable[type]:
    # A middleware may be a function, which has none.
    bases: Iterable[type] = getattr(kind, "__mro__", ())
    return bases


def _options() -> dict[str, Any]:
    try:
        return read_options()
    except ConfigurationError:
        return {}


def _has_resolver() -> bool:
    return _options().get("resolver") is not None


def _is_wsgi_only() -> bool:
    """Return whether nothing of this project looks like ASGI.

    Django writes an `asgi.py` beside every `wsgi.py`: who took it away serves WSGI.
    """
    path = getattr(settings, "WSGI_APPLICATION", None)
    if not path or getattr(settings, "ASGI_APPLICATION", None):
        return False
    package = path.rpartition(".")[0].rpartition(".")[0]
    try:
        return bool(package) and find_spec(f"{package}.asgi") is None
    except ImportError:
        return True
