"""Checks the client's options when it is built: each error names the option and the fix."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from usercontext.sentry.delivery.transport import Transport

__all__ = [
    "count",
    "environment",
    "file_name",
    "flag",
    "fraction",
    "function",
    "names",
    "outbox",
    "overflow",
    "proxy",
    "release",
    "seconds",
    "server_name",
    "transport",
]

_TRANSPORT_METHODS = ("has_room", "submit", "discard", "flush", "close", "stats")
# What servers accept; anything else they drop, with an error in every single event.
_ENVIRONMENT = re.compile(r"(?!(?:\.|\.\.|none)\Z)[^\x00-\x1f/\\]{1,64}", re.IGNORECASE)
_RELEASE = re.compile(r"(?!(?:\.|\.\.|latest)\Z)[^\x00-\x1f/\\]{1,200}", re.IGNORECASE)
# Of a code object: coroutine, iterable coroutine or asynchronous generator (module inspect).
_ASYNC = 0x80 | 0x100 | 0x200


def environment(value: object) -> str:
    """Return the environment, `production` if none is given."""
    if value is None:
        return "production"
    if isinstance(value, str) and value.strip() == value and _ENVIRONMENT.fullmatch(value):
        return value
    raise ConfigurationError(
        'environment must be 1 to 64 characters without "/", "\\" and line breaks, and not "none": '
        'write environment="production" or leave it out'
    )


def release(value: object) -> str | None:
    """Return the release."""
    if value is None:
        return None
    if isinstance(value, str) and value.strip() == value and _RELEASE.fullmatch(value):
        return value
    raise ConfigurationError(
        'release must be 1 to 200 characters without "/", "\\" and line breaks, and not "." or '
        '"latest": write release="myapp@1.2.3" or leave it out'
    )


def server_name(value: object) -> str | None:
    """Return the server's name, of which the system's own is used if it is no address."""
    if value is None:
        name = socket.gethostname()
        return name if name and not _is_address(name) else None
    if not isinstance(value, str) or not 1 <= len(value) <= 200:
        raise ConfigurationError('server_name must be a name: write server_name="web-1"')
    if _is_address(value):
        # Servers make it a tag, which their "Prevent Storing of IP Addresses" does not clean.
        raise ConfigurationError('server_name must not be an address: write server_name="web-1"')
    return value


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def fraction(option: str, value: object) -> float:
    """Return a number from 0.0 to 1.0."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0:
        return float(value)
    raise ConfigurationError(f"{option} must be a number from 0.0 to 1.0: write {option}=1.0")


def count(option: str, value: object) -> int:
    """Return a whole number of at least 1."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ConfigurationError(f"{option} must be a whole number of at least 1: write {option}=100")


def seconds(option: str, value: Any, *, or_zero: bool = False) -> float:
    """Return a finite number of seconds, of a number or a timedelta."""
    total = getattr(value, "total_seconds", None)
    number = total() if callable(total) else value
    if _is_number(number) and (number > 0 or (or_zero and number == 0)):
        return float(number)
    raise ConfigurationError(f"{option} must be a number of seconds above 0: write {option}=10.0")


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def flag(option: str, value: object) -> bool:
    """Return True or False, and nothing that merely counts as one."""
    if isinstance(value, bool):
        return value
    raise ConfigurationError(f"{option} must be True or False: write {option}=True")


def names(option: str, value: object) -> tuple[str, ...]:
    """Return module names; a bare string, which iterates as letters, is refused."""
    result = (
        () if isinstance(value, str | bytes) or not isinstance(value, Iterable) else tuple(value)
    )
    if all(isinstance(name, str) and name for name in result) and (result or value in ((), [])):
        return result
    raise ConfigurationError(f'{option} must be a list of module names: write {option}=["myapp"]')


def function(option: str, value: Any) -> Any:
    """Return a callable that is not `async def`, as nobody could await it."""
    if value is None:
        return None
    called = value if hasattr(value, "__code__") else getattr(type(value), "__call__", None)  # noqa: B004
    code = getattr(called, "__code__", None)
    if callable(value) and not (code is not None and code.co_flags & _ASYNC):
        return value
    raise ConfigurationError(
        f"{option} must be a plain function: write `def {option}(event): return event`"
    )


def proxy(value: object) -> str | None:
    """Return a proxy's URL; the error does not show it, as a password may be in it."""
    if value is None:
        return None
    if isinstance(value, str) and re.match(r"(?:https?|socks5h?)://[^/\s]+", value):
        return value
    raise ConfigurationError('proxy must be a URL: write proxy="http://proxy.example:3128"')


def file_name(option: str, value: object) -> str | None:
    """Return the name of a file, which is not looked at here."""
    if value is None or (isinstance(value, str) and value):
        return value
    raise ConfigurationError(f'{option} must be a file name: write {option}="/etc/ssl/own.pem"')


def outbox(value: Any) -> str | None:
    """Return the name of the outbox's file, of a text or a path."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if path is None or (isinstance(path, str) and path and not path.startswith("sqlite:")):
        return path
    raise ConfigurationError('outbox must be a file name: write outbox="outbox.db"')


def overflow(value: object) -> str:
    """Return which event is dropped when there is no room."""
    if value in ("drop_newest", "drop_oldest"):
        return str(value)
    raise ConfigurationError(
        'overflow must be "drop_newest" or "drop_oldest": write overflow="drop_oldest"'
    )


def transport(value: Transport | None) -> Transport | None:
    """Return an object with every method of a `Transport`."""
    if value is None:
        return None
    missing = [name for name in _TRANSPORT_METHODS if not callable(getattr(value, name, None))]
    if not missing:
        return value
    raise ConfigurationError(
        f"transport must be an object with the methods of usercontext.sentry.Transport: "
        f'{", ".join(missing)} missing; or write transport="httpx"'
    )
