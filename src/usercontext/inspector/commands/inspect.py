"""`usercontext inspect [PATH|DSN]`: the reports in a browser."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usercontext.exceptions import ConfigurationError, MissingDependencyError
from usercontext.inspector.commands.arguments import port
from usercontext.sentry.dsn import sqlite_path

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

__all__ = ["add_inspect"]

_PORT = 8741
_NEEDED = {"jinja2": "Jinja2", "starlette": "Starlette", "uvicorn": "uvicorn"}
_MIN_TOKEN = 16


def add_inspect(commands: Any) -> None:
    """Add the command to the others."""
    parser = commands.add_parser(
        "inspect",
        help="show the reports in a browser, by problem and by user",
        description="Show the reports of an SQLite file in a browser, and take the events of any "
        "Sentry SDK at the DSN that is printed. Without a file, those events alone, until it ends.",
    )
    parser.add_argument(
        "path",
        metavar="PATH",
        nargs="?",
        help="the file, or the DSN that names it; left out, what USERCONTEXT_DSN names",
    )
    parser.add_argument("--open", action="store_true", help="open the browser")
    parser.add_argument("--port", type=port, help=f"where to listen; 0 for a free one ({_PORT})")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the interface; another than this machine's own (127.0.0.1) needs a token",
    )
    parser.add_argument(
        "--token",
        default=os.environ.get("USERCONTEXT_INSPECT_TOKEN"),
        help="what has to be shown to see the pages: 16 characters or more; better set in "
        "USERCONTEXT_INSPECT_TOKEN, as a command line can be seen by others",
    )
    parser.set_defaults(command=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    _check_access(options.host, options.token)
    make = _import_inspector()
    with _file(options.path) as path:
        options.path = path  # For what is said if it cannot be used.
        inspector = _made(make, path, options)
        print(f"inspecting {inspector.file}\n  pages  {inspector.url}\n  DSN    {inspector.dsn}")
        print("stop with Ctrl-C", flush=True)
        if options.open:
            import webbrowser

            webbrowser.open(inspector.url)
        try:
            inspector.run()
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
    return 0


def _made(make: Any, path: str, options: argparse.Namespace) -> Any:
    """Return an inspector on the port that was asked for; without one, on the usual or a free."""
    access = {"host": options.host, "token": options.token}
    if options.port is not None:
        return make(path, port=options.port, **access)
    try:
        return make(path, port=_PORT, **access)
    except ConfigurationError:
        return make(path, port=0, **access)


def _import_inspector() -> Any:
    try:
        from usercontext.inspector.server import Inspector
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _NEEDED:
            raise
        raise MissingDependencyError(
            _NEEDED[package], "inspector", purpose="usercontext inspect"
        ) from error
    return Inspector


def _check_access(host: str, token: str | None) -> None:
    if token is not None and (len(token) < _MIN_TOKEN or not token.isascii() or " " in token):
        raise ConfigurationError(
            f"the token must be {_MIN_TOKEN} or more ASCII characters without blanks: "
            "take the output of `openssl rand -hex 16`"
        )
    if token is None and not _is_loopback(host):
        raise ConfigurationError(
            f"reports name people: to listen on {host} set USERCONTEXT_INSPECT_TOKEN to a secret "
            "of 16 characters or more, or leave --host out"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _file(path: str | None) -> Iterator[str]:
    """Give the file to inspect: one that was named, or a new one that is deleted at the end."""
    if path is None:
        dsn = os.environ.get("USERCONTEXT_DSN", "")
        path = dsn if sqlite_path(dsn) is not None else None
    if path is None:
        with tempfile.TemporaryDirectory(prefix="usercontext-inspect-") as folder:
            path = str(Path(folder, "reports.db"))
            _make_file(path)
            yield path
        return
    if path.startswith(("http:", "https:")):
        raise ConfigurationError(
            "reports at a server are shown by its own pages: name an SQLite file, or leave it out"
        )
    named = sqlite_path(path)
    if named is not None and not Path(named).exists():
        _make_file(named)  # A DSN is what the app will be given: it may not have begun yet.
    yield path


def _make_file(path: str) -> None:
    from usercontext.sentry import SentryClient

    SentryClient(f"sqlite:///{path}").close()
