"""Events of the Sentry protocol: what an exception or a message looks like on its way.

Sentry's developer documentation, "Event Payloads", "Exception Interface" and "Exception
Groups". Nothing here knows of users and requests: whoever captures adds those.
"""

from __future__ import annotations

import os
import platform
import time
from typing import TYPE_CHECKING, Any

from usercontext._version import __version__
from usercontext.extra_values import safe_str
from usercontext.privacy.error_texts import read, safe_text, text_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from usercontext.sentry.event.draft import Draft
    from usercontext.sentry.event.stacktrace import Place, StackTraces
    from usercontext.types import Event

__all__ = ["CONTEXTS", "EVENT_BYTES", "FRAME_BYTES", "SDK", "EventBuilder"]

#: About what an event takes in memory, and each of its exceptions.
EVENT_BYTES = 2048
#: About what a frame takes in memory beside its variables: the source lines are shared by all
#: events.
FRAME_BYTES = 1024

SDK = {"name": "usercontext.python", "version": __version__}

_MAX_TEXT = 8192
_MAX_NAME = 512
_MAX_EXCEPTIONS = 50
_MAX_NOTES = 20

_LEVELS = {
    "fatal": "fatal",
    "critical": "fatal",
    "error": "error",
    "warning": "warning",
    "warn": "warning",
    "info": "info",
    "log": "info",
    "debug": "debug",
}
_RUNTIME = {
    "type": "runtime",
    "name": platform.python_implementation(),
    "version": platform.python_version(),
}
#: What every event says of where it happened.
CONTEXTS = {"runtime": _RUNTIME}


class EventBuilder:
    """Builds events on the thread that captures; what is the same for all is given once."""

    def __init__(
        self,
        traces: StackTraces,
        *,
        release: str | None = None,
        environment: str = "production",
        server_name: str | None = None,
        exception_text: Callable[[], str] = lambda: "safe",
    ) -> None:
        self._traces = traces
        self._exception_text = exception_text
        self._common: Event = {"platform": "python", "environment": environment}
        if release is not None:
            self._common["release"] = release
        if server_name is not None:
            self._common["server_name"] = server_name

    def message(self, message: str, *, level: str) -> Event:
        """Return the event of a message; of a long one, the beginning."""
        event = self._event(level)
        text = safe_str(message, _MAX_TEXT)
        event["logentry"] = {"message": text, "formatted": text}
        return event

    def exception(
        self, error: BaseException, *, level: str, handled: bool, draft: Draft | None = None
    ) -> Event:
        """Return the event of an exception with its causes, contexts and groups.

        Args:
            error: the exception.
            level: fatal, error, warning, info or debug.
            handled: whether the app went on.
            draft: becomes the event; frames are made when it is finished.
        """
        event = self._event(level)
        if draft is not None:
            draft.update(event)
            event = draft
        event["exception"] = {"values": self._values(error, draft, handled=handled)}
        return event

    def _event(self, level: str) -> Event:
        return {
            "event_id": _event_id(),
            "timestamp": round(time.time(), 6),
            "level": _LEVELS.get(level, "error"),
            **self._common,
            "contexts": {"runtime": dict(_RUNTIME)},
        }

    def _values(
        self, error: BaseException, draft: Draft | None, *, handled: bool
    ) -> list[dict[str, Any]]:
        """Return an exception and all that it came from, oldest first.

        A stack, not recursion: chains and groups may be deeper than the interpreter's. Ids
        follow the walk from the exception itself, which is 0 and comes last.
        """
        if not _has_origins(error):
            mechanism = _mechanism(error, 0, None, "", handled=handled)
            del mechanism["exception_id"]
            return [self._value(error, mechanism, draft)]
        values: list[dict[str, Any]] = []
        seen: set[int] = set()
        waiting: list[tuple[BaseException, int | None, str]] = [(error, None, "")]
        while waiting and len(values) < _MAX_EXCEPTIONS:
            current, parent, source = waiting.pop()
            if id(current) in seen:
                continue
            seen.add(id(current))
            mechanism = _mechanism(current, len(values), parent, source, handled=handled)
            values.append(self._value(current, mechanism, draft))
            waiting += reversed(_origins(current, mechanism["exception_id"]))
        if len(values) == 1:  # It came from itself, or is a group that holds itself alone.
            del values[0]["mechanism"]["exception_id"]
        values.reverse()
        return values

    def _value(
        self, error: BaseException, mechanism: dict[str, Any], draft: Draft | None
    ) -> dict[str, Any]:
        kind = type(error)
        value: dict[str, Any] = {
            "type": safe_str(kind.__name__ or "Error", _MAX_NAME),
            "value": "",
            "mechanism": mechanism,
        }
        self._add_text(value, error, draft)
        if kind.__module__ and kind.__module__ != "builtins":
            value["module"] = safe_str(kind.__module__, _MAX_NAME)
        self._add_frames(value, error.__traceback__, draft)
        return value

    def _add_text(self, value: dict[str, Any], error: BaseException, draft: Draft | None) -> None:
        option = self._exception_text()
        text, notes = "", list[str]()
        make_safe: Callable[[str], str] = _same
        if option != "none":
            text, make_safe = (
                (text_of(error)[: _MAX_TEXT + 1], _same) if option == "full" else read(error)
            )
            notes = _notes(error)
        make_note_safe = _same if option == "full" else safe_text
        if draft is None:
            _finish_text({}, value, text, make_safe, notes, make_note_safe)
        else:
            weight = EVENT_BYTES + len(text) + sum(map(len, notes))
            draft.later(_finish_text, value, text, make_safe, notes, make_note_safe, weight=weight)

    def _add_frames(
        self, value: dict[str, Any], traceback: TracebackType | None, draft: Draft | None
    ) -> None:
        places = None if draft is None else self._traces.places(traceback)
        if draft is None or places is None:
            frames = self._traces.frames(traceback)
            if frames:
                value["stacktrace"] = {"frames": frames}
        elif places:
            draft.later(self._finish_frames, value, places, weight=FRAME_BYTES * len(places))

    def _finish_frames(self, _event: Event, value: dict[str, Any], places: list[Place]) -> None:
        value["stacktrace"] = {"frames": self._traces.frames_of(places)}


# Made many at once: at each reading of random bytes other threads run, for which a request would
# have to wait. By process: a fork, also one that passes Python's hooks by, as uwsgi's do, must not
# go on with what its parent read, or both would name their events alike.
_ids_by_process: dict[int, list[str]] = {}
_MADE_AT_ONCE = 128


def _event_id() -> str:
    """Return a random UUID of version 4 as 32 hexadecimal digits."""
    process = os.getpid()
    unused = _ids_by_process.get(process)
    if not unused:
        unused = _event_ids(_MADE_AT_ONCE)
        _ids_by_process.clear()
        _ids_by_process[process] = unused
    try:
        return unused.pop()
    except IndexError:  # another thread has taken the last one
        return _event_ids(1)[0]


def _event_ids(number: int) -> list[str]:
    text = os.urandom(16 * number).hex()
    return [
        f"{text[at : at + 12]}4{text[at + 13 : at + 16]}"
        f"{'89ab'[int(text[at + 16], 16) & 3]}{text[at + 17 : at + 32]}"
        for at in range(0, len(text), 32)
    ]


def _mechanism(
    error: BaseException, number: int, parent: int | None, source: str, *, handled: bool
) -> dict[str, Any]:
    mechanism: dict[str, Any] = {
        "type": "generic" if parent is None else "chained",
        "handled": handled,
        "exception_id": number,
    }
    if parent is not None:
        mechanism["parent_id"] = parent
        mechanism["source"] = source
    if isinstance(error, BaseExceptionGroup):
        mechanism["is_exception_group"] = True
    return mechanism


def _has_origins(error: BaseException) -> bool:
    if error.__cause__ is not None or isinstance(error, BaseExceptionGroup):
        return True
    return error.__context__ is not None and not error.__suppress_context__


def _origins(error: BaseException, number: int) -> list[tuple[BaseException, int, str]]:
    """Return what an exception came from: its cause, else its context, then a group's members."""
    origins: list[tuple[BaseException, int, str]] = []
    if error.__cause__ is not None:
        origins.append((error.__cause__, number, "__cause__"))
    elif error.__context__ is not None and not error.__suppress_context__:
        origins.append((error.__context__, number, "__context__"))
    if isinstance(error, BaseExceptionGroup):
        members = error.exceptions[:_MAX_EXCEPTIONS]
        origins += ((e, number, f"exceptions[{i}]") for i, e in enumerate(members))
    return origins


def _same(text: str) -> str:
    return text


def _finish_text(
    _event: Event,
    value: dict[str, Any],
    text: str,
    make_safe: Callable[[str], str],
    notes: list[str],
    make_note_safe: Callable[[str], str],
) -> None:
    """Make of what was read of an exception what may be told."""
    told = make_safe(text)
    if notes:
        told = "\n".join([told, *map(make_note_safe, notes)])
    value["value"] = safe_str(told, _MAX_TEXT)


def _notes(error: BaseException) -> list[str]:
    notes = getattr(error, "__notes__", None)
    if not isinstance(notes, list | tuple):
        return []
    return [safe_str(note, _MAX_TEXT) for note in notes[:_MAX_NOTES] if isinstance(note, str)]
