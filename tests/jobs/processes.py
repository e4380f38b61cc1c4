"""Real servers and workers: started on this machine, stopped by their ids."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["ROOT", "Process", "free_port", "postgres_server", "redis_server", "running", "worker"]

ROOT = Path(__file__).parent.parent.parent
STARTUP = 60.0


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A program whose output is read while it runs.

    Args:
        command: what to run.
        environ: variables beside those of this process.
    """

    def __init__(self, command: list[str], environ: Mapping[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self._queue: Queue[str | None] = Queue()
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The id of the process, which is that of its group too."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)
            self._queue.put(line)
        self._queue.put(None)

    def wait_for(self, text: str) -> str:
        """Return the first line from here on that holds a text."""
        while True:
            try:
                line = self._queue.get(timeout=STARTUP)
            except Empty:
                line = None
            if line is None:
                pytest.fail(f"no line with {text!r} in:\n{self.output}")
            if text in line:
                return line

    @property
    def output(self) -> str:
        """All that it has printed so far."""
        return "".join(self.lines)

    def kill(self) -> None:
        """End it and what it has started by force, as a machine that runs out of memory does."""
        os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self, patience: float = 15) -> None:
        """End it and what it has started; by force, when patience is at an end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=patience)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()
        self._reader.join(timeout=5)
        if not self._reader.is_alive() and self._process.stdout is not None:
            self._process.stdout.close()


@contextmanager
def running(
    command: list[str],
    ready: str,
    environ: Mapping[str, str] | None = None,
    patience: float = 15,
) -> Iterator[Process]:
    """Run a program from the line that says it is ready to the end of the block."""
    process = Process(command, environ)
    try:
        process.wait_for(ready)
        yield process
    finally:
        process.stop(patience)


@contextmanager
def worker(
    *command: str, ready: str, environ: Mapping[str, str] | None = None, patience: float = 15
) -> Iterator[Process]:
    """Run a Python module as a worker."""
    with running([sys.executable, "-m", *command], ready, environ, patience) as process:
        yield process


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL of our own, and return how to connect to it."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin"), Path(shutil.which("initdb") or "").parent]
    binaries = next((path for path in found if (path / "initdb").exists()), None)
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    prefix: list[str] = []
    if os.getuid() == 0:
        # It refuses to be run by root.
        prefix = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        shutil.chown(folder, "nobody", "nogroup")
    data, port = folder / "data", free_port()
    options = ["-U", "postgres", "-A", "trust", "--no-sync", "-D", str(data)]
    subprocess.run([*prefix, binaries / "initdb", *options], check=True, capture_output=True)
    command = [*prefix, str(binaries / "postgres"), "-D", str(data), "-h", "127.0.0.1"]
    command += ["-p", str(port), "-k", str(folder), "-F"]
    with running(command, "ready to accept connections"):
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run a Redis of our own, and return its address."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with running([program, *options, "--appendonly", "no"], "Ready to accept connections"):
        yield f"redis://127.0.0.1:{port}/0"
