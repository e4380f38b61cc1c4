"""Checks the client's options when it is built: each error names the option and the fix."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from typing import TYPE_CHECKING, Any

from usercontext.checks import is_number, listed
from usercontext.exceptions import ConfigurationError
from usercontext.sentry.delivery.engine import engine_address, is_engine

if TYPE_CHECKING:
    from usercontext.sentry.delivery.transport import Transport

__all__ = [
    "environment",
    "file_name",
    "fraction",
    "names",
    "outbox",
    "release",
    "server_name",
    "transport",
]

_TRANSPORT_METHODS = ("has_room", "submit", "discard", "flush", "close", "stats")
# What servers accept; anything else they drop, with an error in every single event.
_ENVIRONMENT = re.compile(r"(?!(?:\.|\.\.|none)\Z)[^\x00-\x1f/\\]{1,64}", re.IGNORECASE)
_RELEASE = re.compile(r"(?!(?:\.|\.\.|latest)\Z)[^\x00-\x1f/\\]{1,200}", re.IGNORECASE)


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
    """Return the server's name, of which the system's own is used if it is not an address."""
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
    if is_number(value) and 0.0 <= value <= 1.0:
        return float(value)
    raise ConfigurationError(f"{option} must be a number from 0.0 to 1.0: write {option}=1.0")


def names(option: str, value: object) -> tuple[str, ...]:
    """Return module names; a bare string, which iterates as letters, is refused."""
    result = listed(option, value, "module names", '["myapp"]')
    if all(isinstance(name, str) and name for name in result):
        return result
    raise ConfigurationError(f'{option} must hold module names alone: write {option}=["myapp"]')


def file_name(option: str, value: object) -> str | None:
    """Return the name of a file, which is not looked at here."""
    if value is None or (isinstance(value, str) and value):
        return value
    raise ConfigurationError(f'{option} must be a file name: write {option}="/etc/ssl/own.pem"')


def outbox(value: Any) -> str | None:
    """Return the name of the outbox's file, of a text or a path, or an engine's URL."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if is_engine(path):
        engine_address(path)
        return str(path)
    if path is None or (isinstance(path, str) and path and not path.startswith("sqlite:")):
        return path
    raise ConfigurationError(
        'outbox must be the name of a file, or the URL of an engine: write outbox="outbox.db"'
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
