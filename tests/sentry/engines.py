"""Real engines for shared outboxes: kept on a disk, killed and started again at one address."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.processes import Process, free_port

__all__ = ["PostgresServer", "RedisServer", "Server"]

_BINARIES = "/usr/lib/postgresql"


class Server:
    """An engine of our own, which keeps what it acknowledges."""

    ready = "eady to accept connections"

    def __init__(self) -> None:
        # Not pytest's own, which another user may not enter, and other runs tidy up.
        self._own = tempfile.TemporaryDirectory(prefix="usercontext-")
        self.folder = Path(self._own.name)
        self.port = free_port()
        self._process: Process | None = None

    @property
    def url(self) -> str:
        raise NotImplementedError

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def command(self) -> list[str]:
        raise NotImplementedError

    def empty(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Run it, with what it has kept."""
        self._process = Process(self.command())
        self._process.wait_for(self.ready)

    def stop(self) -> None:
        """End it, by its id, and delete what it has kept."""
        if self._process is not None:
            self._process.stop()
            self._process = None
        self._own.cleanup()

    def kill(self) -> None:
        """End it by force."""
        assert self._process is not None
        self._process.kill()
        self._process.stop()
        self._process = None

    def ensure(self) -> None:
        """Start it where it does not run."""
        if self._process is None:
            self.start()


class RedisServer(Server):
    """A Redis that writes each command to its file before it answers."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self, *options: str) -> list[str]:
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            pytest.skip("redis-server is not installed")
        kept = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        return [program, *place, *kept, *options]

    def client(self) -> Any:
        """Return a client of its own."""
        redis: Any = pytest.importorskip("redis")
        return redis.Redis.from_url(self.url)

    def empty(self) -> None:
        """Forget all it holds, and who may do what."""
        with self.client() as client:
            client.flushall()


class PostgresServer(Server):
    """A PostgreSQL, which keeps what it acknowledges."""

    def __init__(self) -> None:
        super().__init__()
        found = [*Path(_BINARIES).glob("*/bin"), Path(shutil.which("initdb") or "").parent]
        binaries = next((path for path in found if (path / "initdb").exists()), None)
        if binaries is None:
            pytest.skip("PostgreSQL is not installed")
        self._postgres = str(binaries / "postgres")
        self._prefix: list[str] = []
        if os.getuid() == 0:
            # It refuses to be run by root.
            self._prefix = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
            shutil.chown(self.folder, "nobody", "nogroup")
        data = str(self.folder / "data")
        options = ["-U", "postgres", "-A", "trust", "--no-sync", "-D", data]
        initdb = [*self._prefix, str(binaries / "initdb"), *options]
        subprocess.run(initdb, check=True, capture_output=True)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def command(self) -> list[str]:
        place = ["-D", str(self.folder / "data"), "-h", "127.0.0.1", "-p", str(self.port)]
        # What is written survives the process, whether the disk has it or not.
        return [*self._prefix, self._postgres, *place, "-k", str(self.folder), "-F"]

    def start(self) -> None:
        """Run it, once those are gone that worked for one that was killed."""
        for _ in range(50):
            with suppress(pytest.fail.Exception):
                super().start()
                return
            self._process = None
            time.sleep(0.1)
        super().start()

    def empty(self) -> None:
        """Forget all it holds."""
        psycopg: Any = pytest.importorskip("psycopg")
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS usercontext_outbox, usercontext_outbox_pauses")
