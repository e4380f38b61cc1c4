"""Telling WSGI apps from ASGI apps, for whoever wraps one in the other's middleware or server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NoReturn

from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from inspect import Signature

__all__ = ["check_interface", "missing_attribute", "refuse_as_class", "refuse_rsgi"]

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


def refuse_as_class(middleware: object, app: Any) -> None:
    """Let Starlette's app say that `add_middleware` was given an instance, as it starts.

    It calls what it was given with the app alone, and Python would say that `receive` is missing.
    Only the app can tell: `__call__` of a middleware is called at every request.
    """
    build = getattr(app, "build_middleware_stack", None)
    if build is None:
        return

    def build_of_classes() -> object:
        if any(getattr(added, "cls", None) is middleware for added in app.user_middleware):
            raise ConfigurationError(
                f"add_middleware got an instance of {type(middleware).__name__}: give the class "
                f"and its options, app.add_middleware({type(middleware).__name__}, "
                f"resolver=find_user)"
            )
        return build()

    app.build_middleware_stack = build_of_classes


def missing_attribute(middleware: object, name: str) -> AttributeError:
    """Return the error for a name that a middleware lacks; where its app has it, with the fix.

    `app = UserContextMiddleware(app)` hides the app: its routes and test client are asked for next.
    """
    kind = type(middleware).__name__
    text = f"{kind!r} object has no attribute {name!r}"
    app: Any = vars(middleware).get("app")
    if name[:2] != "__" and hasattr(app, name):
        fix = f"served = {kind}(app, ...)"
        if hasattr(app, "wsgi_app"):
            fix = f"app.wsgi_app = {kind}(app.wsgi_app, ...)"
        elif hasattr(app, "build_middleware_stack"):
            fix = f"app.add_middleware({kind}, ...)"
        text += f", which the {type(app).__name__} inside it has: keep that one, and write {fix}"
    return AttributeError(text, name=name, obj=middleware)


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
