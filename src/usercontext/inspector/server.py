"""Runs the inspector: a thread that keeps its tables up to date, and uvicorn."""

from __future__ import annotations

import socket
import sqlite3
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn

from usercontext.diagnostics import failure
from usercontext.event_loop import start_thread
from usercontext.exceptions import ConfigurationError
from usercontext.inspector.app import Changes, build_app
from usercontext.inspector.index import ReportIndex
from usercontext.inspector.intake import Intake
from usercontext.inspector.lists import Lists

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Inspector"]

_POLL_SECONDS = 0.25
_BACKLOG = 128


class Inspector:
    """An inspector of one file, which listens from the start.

    Args:
        path: the file, or the DSN that names it.
        host: the address to listen on.
        port: the port; 0 for any that is free.
        token: what has to be shown to see the pages; needed unless `host` is a loopback address.

    Attributes:
        url: where the pages are; with the token, if there is one.
        dsn: what to give to an SDK.
        file: where the reports are.

    Raises:
        ConfigurationError: the file cannot be used, or the port cannot be had.
    """

    def __init__(
        self, path: str, *, host: str = "127.0.0.1", port: int = 0, token: str | None = None
    ) -> None:
        self._index = ReportIndex(path)
        self._socket = _listen(host, port)
        port = self._socket.getsockname()[1]
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.url: str = f"http://{place}/" + (f"?token={token}" if token else "")
        self.file: str = str(self._index.file)
        self.dsn: str = f"http://{self._index.key}@{place}/1"
        self._host = host
        self._token = token
        self._changes = Changes()
        self._stopping = threading.Event()

    def run(self) -> None:
        """Serve until the process is told to stop, or `stop()` is called."""
        with self._keeping_up(), closing(Intake(self._index.file)) as intake:
            app = build_app(
                Lists(self._index.file),
                intake,
                self._changes,
                dsn=self.dsn,
                file=self.file,
                hosts=[self._host],
                token=self._token,
            )
            config = uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                lifespan="off",
                proxy_headers=False,
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=2,
            )
            self._server = _Server(config, self._changes)
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End `run()`, from another thread."""
        self._changes.is_over = True
        self._server.should_exit = True

    @contextmanager
    def _keeping_up(self) -> Iterator[None]:
        thread = start_thread(self._keep_up, name="usercontext-inspector")
        try:
            yield
        finally:
            self._stopping.set()
            thread.join()
            self._index.close()
            self._socket.close()

    def _keep_up(self) -> None:
        """Take new reports into the tables, as they come."""
        lists = Lists(self._index.file)
        while not self._stopping.is_set():
            try:
                taken = self._index.catch_up()
                if taken or not self._changes.newest:
                    self._changes.newest = lists.newest()
            except (sqlite3.Error, ConfigurationError):
                taken = 0
                failure("inspector", "the inspector cannot read what is new in %s", lists.file)
            self._stopping.wait(0 if taken else _POLL_SECONDS)


class _Server(uvicorn.Server):
    """Ends the streams to browsers first: they would keep it from stopping."""

    def __init__(self, config: uvicorn.Config, changes: Changes) -> None:
        super().__init__(config)
        self._changes = changes

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._changes.is_over = True
        super().handle_exit(sig, frame)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host} port {port} ({error.strerror}): choose another --port, or 0"
        ) from error
