"""The frames of a traceback."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from usercontext.sentry.event import stacktrace
from usercontext.sentry.event.stacktrace import StackTraces

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


def traceback_of(function: Callable[[], object]) -> TracebackType | None:
    """Return the traceback of what a function raises."""
    try:
        function()
    except Exception as error:
        return error.__traceback__
    raise AssertionError("it should have raised")


def frames_of(function: Callable[[], object], **options: Any) -> list[dict[str, Any]]:
    """Return the frames of what a function raises."""
    return StackTraces(**options).frames(traceback_of(function))


def fail() -> None:
    """Raise, with a local variable."""
    value = 41  # noqa: F841
    raise ValueError("here")


def recurse(depth: int) -> None:
    """Raise at a depth."""
    if depth == 0:
        raise ValueError("here")
    recurse(depth - 1)


def run_file(path: Path, source: str, name: str = "somewhere") -> Callable[[], object]:
    """Return the function `go` of a file just written."""
    path.write_text(source, "utf-8")
    return run_code(source, str(path), name)


def run_code(source: str, filename: str, name: str = "somewhere") -> Callable[[], object]:
    """Return the function `go` of code that has no file."""
    namespace: dict[str, Any] = {"__name__": name}
    exec(compile(source, filename, "exec"), namespace)
    go: Callable[[], object] = namespace["go"]
    return go


SOURCE = "# one\n# two\ndef go():\n    raise KeyError\n# five\n"


def test_frame() -> None:
    """A frame says where it is, with five lines of source on either side."""
    frame = frames_of(fail)[-1]

    assert frame["abs_path"] == str(Path(__file__).absolute())
    assert frame["abs_path"].endswith(frame["filename"])
    assert frame["module"] == __name__
    assert frame["function"] == "fail"
    assert frame["context_line"] == '    raise ValueError("here")'
    assert frame["pre_context"][-1] == "    value = 41  # noqa: F841"
    assert len(frame["pre_context"]) == len(frame["post_context"]) == 5
    assert frame["in_app"] is True
    assert "vars" not in frame


def test_oldest_first() -> None:
    """The frame that raised comes last."""
    assert [frame["function"] for frame in frames_of(fail)] == ["traceback_of", "fail"]


def test_few_lines(tmp_path: Path) -> None:
    """Near the ends of a file there are fewer lines."""
    frame = frames_of(run_file(tmp_path / "a.py", SOURCE))[-1]

    assert frame["pre_context"] == ["# one", "# two", "def go():"]
    assert frame["post_context"] == ["# five"]


def test_first_and_only_line(tmp_path: Path) -> None:
    """A file of one line has no lines around it."""
    frame = frames_of(run_file(tmp_path / "a.py", "def go(): raise KeyError"))[-1]

    assert frame["context_line"] == "def go(): raise KeyError"
    assert "pre_context" not in frame
    assert "post_context" not in frame


def test_middle_is_cut() -> None:
    """Of more than 50 frames the first and last 25 are kept."""
    frames = frames_of(lambda: recurse(200))

    assert len(frames) == 50
    assert frames[0]["function"] == "traceback_of"
    assert frames[-1]["context_line"].strip() == 'raise ValueError("here")'


def test_recursion_error() -> None:
    """A RecursionError is described like any other."""
    assert len(frames_of(lambda: recurse(100_000))) == 50


def test_no_traceback() -> None:
    """An exception that was never raised has no frames."""
    assert StackTraces().frames(None) == []


def test_changed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has changed is read again."""
    monkeypatch.setattr(stacktrace, "_TRUST_SECONDS", -1.0)
    traces = StackTraces()
    traces.frames(traceback_of(run_file(tmp_path / "a.py", SOURCE)))
    go = run_file(tmp_path / "a.py", SOURCE.replace("KeyError", "OSError  # new"))

    assert traces.frames(traceback_of(go))[-1]["context_line"] == "    raise OSError  # new"


def test_unchanged_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has not changed is read once."""
    monkeypatch.setattr(stacktrace, "_TRUST_SECONDS", -1.0)
    traces, go = StackTraces(), run_file(tmp_path / "a.py", SOURCE)
    first = traces.frames(traceback_of(go))[-1]["context_line"]
    monkeypatch.setattr(stacktrace, "_file_lines", None)

    assert traces.frames(traceback_of(go))[-1]["context_line"] is first


def test_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source that is kept in memory has a bound."""
    monkeypatch.setattr(stacktrace, "_MAX_CACHED_CHARACTERS", 1000)
    traces = StackTraces()
    for number in range(50):
        traces.frames(traceback_of(run_file(tmp_path / f"{number}.py", SOURCE)))

    assert len(traces._source.known) < 25


def test_files_without_source_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that was never in a file, such as a template's, does not pile up either."""
    monkeypatch.setattr(stacktrace, "_MAX_CACHED_FILES", 10)
    traces = StackTraces()
    for number in range(50):
        traces.frames(traceback_of(run_code(SOURCE, f"<template {number}>")))

    assert len(traces._source.known) <= 10


def test_frames_of_a_file_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that raises in many places a bounded number is kept ready."""
    monkeypatch.setattr(stacktrace, "_MAX_CACHED_FRAMES", 10)
    traces = StackTraces()
    for number in range(50):
        traces.frames(traceback_of(run_code("\n" * number + SOURCE, "<code>")))

    assert len(traces._source.known["<code>"].frames) <= 10


def test_one_line_of_two_functions() -> None:
    """Frames of one line are told apart by their functions."""
    frames = frames_of(run_code("go = lambda: (lambda x: 1 / x)(0)\n", "<code>"))

    names = [frame["function"] for frame in frames[-2:]]
    assert names == ["<lambda>", "<lambda>.<locals>.<lambda>"]


def test_places_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """So is what is known of modules."""
    monkeypatch.setattr(stacktrace, "_MAX_CACHED_PLACES", 10)
    traces = StackTraces()
    for number in range(50):
        traces.frames(traceback_of(run_code(SOURCE, f"<code {number}>")))

    assert len(traces._places) <= 10


def test_huge_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file too large to keep is not read."""
    monkeypatch.setattr(stacktrace, "_MAX_CACHED_CHARACTERS", 10)

    assert "context_line" not in frames_of(run_file(tmp_path / "a.py", SOURCE))[-1]


def test_long_line(tmp_path: Path) -> None:
    """A line of a minified file is cut."""
    source = f"def go(): raise KeyError({'x' * 9000!r})"

    assert len(frames_of(run_file(tmp_path / "a.py", source))[-1]["context_line"]) == 512


UNREADABLE = {
    "gone": None,
    "no text": b"\xff\xfe\x00",
    "unknown encoding": b"# coding: nonsense\n",
    "shorter than it was": b"",
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_source(tmp_path: Path, content: bytes | None) -> None:
    """Without its source a frame is told without lines."""
    go = run_file(tmp_path / "a.py", SOURCE)
    if content is None:
        (tmp_path / "a.py").unlink()
    else:
        (tmp_path / "a.py").write_bytes(content)
    frame = frames_of(go)[-1]

    assert frame["lineno"] == 4
    assert "context_line" not in frame


def test_code_without_a_file() -> None:
    """Code made by exec has no lines, and its name stays as it is."""
    frame = frames_of(run_code(SOURCE, "<made up>"))[-1]

    assert frame["filename"] == frame["abs_path"] == "<made up>"


def test_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source of a module in a zip file is asked of its loader."""
    with zipfile.ZipFile(tmp_path / "lib.zip", "w") as file:
        file.writestr("zipped_module.py", SOURCE)
    monkeypatch.syspath_prepend(tmp_path / "lib.zip")
    import zipped_module  # type: ignore[import-not-found]

    frame = frames_of(zipped_module.go)[-1]

    assert frame["context_line"] == "    raise KeyError"


def test_loader_raises() -> None:
    """A loader that raises costs the lines alone."""

    class Loader:
        def get_source(self, name: str) -> str:
            raise RuntimeError(name)

    go = run_code(SOURCE, "odd_template")
    go.__globals__["__loader__"] = Loader()  # type: ignore[attr-defined]

    assert "context_line" not in frames_of(go)[-1]


SHORT_NAMES = {
    "module": ("/srv/app/shop/views.py", "shop.views", "shop/views.py"),
    "package": ("/srv/app/shop/__init__.py", "shop", "shop/__init__.py"),
    "script": ("/srv/app/run.py", "__main__", "run.py"),
    "no module": ("/srv/app/run.py", None, "run.py"),
}


@pytest.mark.parametrize(("path", "module", "short"), SHORT_NAMES.values(), ids=SHORT_NAMES)
def test_filename(path: str, module: str | None, short: str) -> None:
    """A file's name begins at its top package."""
    assert frames_of(run_code(SOURCE, path, module))[-1]["filename"] == short  # type: ignore[arg-type]


IN_APP = {
    "own": ("/srv/app/shop.py", "shop", {}, True),
    "installed": ("/venv/lib/python3.11/site-packages/flask/app.py", "flask.app", {}, False),
    "of Debian": ("/usr/lib/python3/dist-packages/flask/app.py", "flask.app", {}, False),
    "standard library": (json.__file__, "json", {}, False),
    "frozen": ("<frozen importlib._bootstrap>", "importlib._bootstrap", {}, False),
    "made by exec": ("<string>", "shop", {}, True),
    "usercontext": (stacktrace.__file__, "usercontext.sentry.stacktrace", {}, False),
    "included": ("/x/site-packages/shop/a.py", "shop.a", {"in_app_include": ["shop"]}, True),
    "included by part of a name": (
        "/x/site-packages/shopping.py", "shopping", {"in_app_include": ["shop"]}, False,
    ),
    "excluded": ("/srv/app/vendored/a.py", "vendored.a", {"in_app_exclude": ["vendored"]}, False),
    "included beats excluded": (
        "/srv/a/b.py", "a.b", {"in_app_include": ["a.b"], "in_app_exclude": ["a"]}, True,
    ),
    "no module": ("/srv/app/shop.py", None, {"in_app_exclude": ["shop"]}, True),
}  # fmt: skip


@pytest.mark.parametrize(("path", "module", "options", "in_app"), IN_APP.values(), ids=IN_APP)
def test_in_app(path: str, module: str, options: dict[str, Any], in_app: bool) -> None:
    """What is the app's own and what is not."""
    assert frames_of(run_code(SOURCE, path, module), **options)[-1]["in_app"] is in_app


def test_local_variables() -> None:
    """Variables are told only when asked for."""
    assert frames_of(fail, include_local_variables=True)[-1]["vars"] == {"value": "41"}


def test_local_variables_of_libraries() -> None:
    """Variables of frames that are not the app's own, with whole requests in them, are not told."""
    frames = frames_of(lambda: json.loads("{"), include_local_variables=True)

    assert any(frame["module"] == "json.decoder" for frame in frames)
    assert [frame["module"] for frame in frames if "vars" in frame] == [__name__, __name__]


def test_frames_are_copies() -> None:
    """Changing one report's frames changes no other report."""
    traces, traceback = StackTraces(), traceback_of(fail)
    first = traces.frames(traceback)[-1]
    first["pre_context"].clear()
    first["post_context"].clear()
    first["filename"] = "x"
    second = traces.frames(traceback)[-1]

    assert (len(second["pre_context"]), len(second["post_context"])) == (5, 5)
    assert second["filename"] != "x"
