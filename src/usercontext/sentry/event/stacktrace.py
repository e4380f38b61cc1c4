"""The frames of a traceback: where, with the source lines around, and if asked the variables.

Runs on the thread that captures, so it is made for speed: a file is read once, and looked at
again only when a second has passed.
"""

# Strings, as code objects have them: this is on the path that a request waits for.
# ruff: noqa: PTH100, PTH116, PTH118, PTH119, PTH120

from __future__ import annotations

import os
import sysconfig
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from usercontext.sentry.event.local_variables import describe_locals

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import CodeType, TracebackType

__all__ = ["Place", "StackTraces"]

MAX_FRAMES = 50
_CONTEXT_LINES = 5
_MAX_LINE = 512
_MAX_CACHED_CHARACTERS = 4_000_000
_MAX_CACHED_PLACES = 4096
_MAX_CACHED_FILES = 1024  # code without a file has names, too
_MAX_CACHED_FRAMES = 256  # of one file
_TRUST_SECONDS = 1.0

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARIES = tuple(
    {os.path.abspath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib")}
)
_INSTALLED = ("site-packages" + os.sep, "dist-packages" + os.sep)


#: Where a frame is: its code, its line, and its module's globals.
Place: TypeAlias = "tuple[CodeType, int | None, dict[str, Any]]"
T = TypeVar("T")
# Line, function and module: what tells the frames of one file apart.
_Key: TypeAlias = "tuple[int | None, str, object]"


class _File(NamedTuple):
    """The lines of a source file, as they were when it was last looked at, and frames there."""

    lines: Sequence[str]
    stamp: tuple[int, int] | None
    trusted_until: float
    frames: dict[_Key, dict[str, Any]]

    def remember(self, key: _Key, frame: dict[str, Any]) -> None:
        """Keep a frame, the next of which differs in its variables alone."""
        if len(self.frames) >= _MAX_CACHED_FRAMES:
            self.frames.clear()
        self.frames[key] = frame


class _Place(NamedTuple):
    """What is the same for every frame of one module."""

    filename: str
    abs_path: str
    module: str | None
    in_app: bool


class StackTraces:
    """Turns tracebacks into the Sentry protocol's frames, oldest first.

    Args:
        in_app_include: module names (with all below them) that are the app's own, wherever
            they are installed.
        in_app_exclude: module names that are not the app's own, wherever they lie.
        include_local_variables: whether frames of the app's own carry their variables.
        copies_lines: whether the lists of source lines may be changed; else all frames of a place
            share them.
    """

    def __init__(
        self,
        *,
        in_app_include: Sequence[str] = (),
        in_app_exclude: Sequence[str] = (),
        include_local_variables: bool = False,
        copies_lines: bool = True,
    ) -> None:
        self._in_app_include = tuple(in_app_include)
        self._in_app_exclude = tuple(in_app_exclude)
        self._include_local_variables = include_local_variables
        self._copies_lines = copies_lines
        self._places: dict[tuple[str, str | None], _Place] = {}
        self._source = _SourceLines()

    def frames(self, traceback: TracebackType | None) -> list[dict[str, Any]]:
        """Return the frames of a traceback, of more than 50 the first and last 25."""
        entries = _entries(traceback)
        frames = self.frames_of(
            (entry.tb_frame.f_code, entry.tb_lineno, entry.tb_frame.f_globals) for entry in entries
        )
        if self._include_local_variables:
            for entry, result in zip(entries, frames, strict=True):
                # Of the app's own frames only: others' hold whole requests.
                if result["in_app"]:
                    result["vars"] = describe_locals(entry.tb_frame)
        return frames

    def places(self, traceback: TracebackType | None) -> list[Place] | None:
        """Return where a traceback's frames are, for `frames_of` on another thread.

        None if they are to have their variables, which go on changing.
        """
        if self._include_local_variables:
            return None
        places: list[Place] = []
        # In one loop: a request waits for it.
        while traceback is not None:
            frame = traceback.tb_frame
            places.append((frame.f_code, traceback.tb_lineno, frame.f_globals))
            traceback = traceback.tb_next
        return _ends(places)

    def frames_of(self, places: Iterable[Place]) -> list[dict[str, Any]]:
        """Return the frames of some places, without their variables."""
        now = monotonic()
        return [self._frame(code, lineno, namespace, now) for code, lineno, namespace in places]

    def _frame(
        self, code: CodeType, lineno: int | None, namespace: dict[str, Any], now: float
    ) -> dict[str, Any]:
        file = self._source.known.get(code.co_filename)
        if file is None or now > file.trusted_until:
            file = self._source.look(code.co_filename, namespace, now)
        key = (lineno, code.co_qualname, namespace.get("__name__"))
        known = file.frames.get(key)
        if known is None:
            known = self._describe(code, key, file.lines)
            file.remember(key, known)
        result = known.copy()
        if self._copies_lines:
            for name in ("pre_context", "post_context"):
                if name in known:
                    result[name] = known[name].copy()
        return result

    def _describe(self, code: CodeType, key: _Key, lines: Sequence[str]) -> dict[str, Any]:
        lineno, _, module = key
        place = self._place(code.co_filename, module)
        result: dict[str, Any] = {
            "filename": place.filename,
            "abs_path": place.abs_path,
            "function": code.co_qualname,
            "in_app": place.in_app,
        }
        if place.module is not None:
            result["module"] = place.module
        if lineno:
            result["lineno"] = lineno
            _add_context(result, lines, lineno)
        return result

    def _place(self, filename: str, module: object) -> _Place:
        name = module if isinstance(module, str) else None
        place = self._places.get((filename, name))
        if place is None:
            if len(self._places) >= _MAX_CACHED_PLACES:
                self._places = {}
            path = filename if filename.startswith("<") else os.path.abspath(filename)
            place = _Place(_short_name(path, name), path, name, self._is_in_app(path, name))
            self._places[filename, name] = place
        return place

    def _is_in_app(self, path: str, module: str | None) -> bool:
        if _is_below(module, self._in_app_include):
            return True
        if _is_below(module, self._in_app_exclude):
            return False
        if path.startswith(("<frozen", _PACKAGE)):
            return False
        return not path.startswith(_LIBRARIES) and not any(part in path for part in _INSTALLED)


def _entries(traceback: TracebackType | None) -> list[TracebackType]:
    entries = []
    while traceback is not None:
        entries.append(traceback)
        traceback = traceback.tb_next
    return _ends(entries)


def _ends(entries: list[T]) -> list[T]:
    if len(entries) <= MAX_FRAMES:
        return entries
    half = MAX_FRAMES // 2
    return [*entries[:half], *entries[-half:]]


def _is_below(module: str | None, names: Sequence[str]) -> bool:
    if module is None:
        return False
    return any(module == name or module.startswith(f"{name}.") for name in names)


def _short_name(path: str, module: str | None) -> str:
    """Return the path from the directory on, that the module's top package lies in."""
    if module:
        relative = module.replace(".", os.sep)
        for tail in (f"{relative}.py", os.path.join(relative, "__init__.py")):
            if path.endswith(os.sep + tail):
                return tail
    return os.path.basename(path) or path


class _SourceLines:
    """Source lines by file, read once, as far as the cache's bound goes.

    No lock: the worst that threads can do to each other is to read a file twice, and a lock
    held while another thread forks would never be released in the child.

    Attributes:
        known: the files by name, each to be looked at again when it is trusted no longer.
    """

    def __init__(self) -> None:
        self.known: dict[str, _File] = {}
        self._characters = 0

    def look(self, filename: str, module_globals: dict[str, Any], now: float) -> _File:
        """Return a file as it is now."""
        stamp = _stamp(filename)
        trusted_until = now + _TRUST_SECONDS
        file = self.known.get(filename)
        if file is not None and file.stamp == stamp:
            file = file._replace(trusted_until=trusted_until)
        else:
            lines = _read_lines(filename, module_globals, on_disk=stamp is not None)
            self._make_room(sum(map(len, lines)))
            file = _File(lines, stamp, trusted_until, {})
        self.known[filename] = file
        return file

    def _make_room(self, characters: int) -> None:
        is_full = self._characters + characters > _MAX_CACHED_CHARACTERS
        if is_full or len(self.known) >= _MAX_CACHED_FILES:
            self.known = {}
            self._characters = 0
        self._characters += characters


def _add_context(result: dict[str, Any], lines: Sequence[str], lineno: int) -> None:
    if lineno > len(lines):
        return
    index = lineno - 1
    result["context_line"] = lines[index]
    if index > 0:
        result["pre_context"] = list(lines[max(0, index - _CONTEXT_LINES) : index])
    if lineno < len(lines):
        result["post_context"] = list(lines[lineno : lineno + _CONTEXT_LINES])


def _stamp(filename: str) -> tuple[int, int] | None:
    try:
        status = os.stat(filename)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size


def _read_lines(filename: str, module_globals: dict[str, Any], *, on_disk: bool) -> Sequence[str]:
    try:
        lines = _file_lines(filename) if on_disk else _loader_lines(filename, module_globals)
    except (OSError, SyntaxError, UnicodeDecodeError, ValueError):
        return []
    return [line[:_MAX_LINE].rstrip("\r\n") for line in lines]


def _file_lines(filename: str) -> list[str]:
    import tokenize

    if os.stat(filename).st_size > _MAX_CACHED_CHARACTERS:
        return []
    with tokenize.open(filename) as file:
        return file.readlines()


def _loader_lines(filename: str, module_globals: dict[str, Any]) -> list[str]:
    """Return what no file holds: modules in a zip, cells of a notebook, templates."""
    import linecache

    known = filename in linecache.cache
    try:
        return linecache.getlines(filename, module_globals)
    except Exception:  # noqa: BLE001  # the app's own loader
        return []
    finally:
        if not known:
            # Our cache is bounded, linecache's is not.
            linecache.cache.pop(filename, None)
