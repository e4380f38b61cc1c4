"""Telling WSGI apps from ASGI apps, for whoever wraps one in the other's middleware or server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NoReturn

from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from inspect import Signature

__all__ = ["check_interface", "refuse_rsgi"]

_PARAMETERS = {"WSGI": ("environ", "start_response"), "ASGI": ("scope", "receive", "send")}


def check_interface(app: object, kind: Literal["ASGI", "WSGI"]) -> None:
    """Refuse an app of the other kind: it would fail at its first request, and say nothing of why.

    What cannot be told is let pass: apps of C, and those that take any arguments.

    Raises:
        ConfigurationError: it takes the other kind's arguments, and cannot take this one's.
    """
    import inspect

    try:
        signature = inspect.signature(app)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return
    other = "WSGI" if kind == "ASGI" else "ASGI"
    if _takes(signature, kind) or not _takes(signature, other):
        return
    raise ConfigurationError(
        f"usercontext.{kind.lower()}.UserContextMiddleware got an app that takes "
        f"({', '.join(_PARAMETERS[other])}), as {other} apps do: write "
        f"`from usercontext.{other.lower()} import UserContextMiddleware`"
    )


def refuse_rsgi(kind: Literal["ASGI", "WSGI"]) -> NoReturn:
    """Refuse to be served over RSGI, which is what granian speaks unless told otherwise.

    It would call the app with arguments that no ASGI or WSGI app takes, at each request.

    Raises:
        ConfigurationError: always; the message names the option.
    """
    raise ConfigurationError(
        f"this app is of {kind}, and its server speaks RSGI, as granian does by default: "
        f"start it with `granian --interface {kind.lower()}`"
    )


def _takes(signature: Signature, kind: str) -> bool:
    try:
        signature.bind(*_PARAMETERS[kind])
    except TypeError:
        return False
    return True
