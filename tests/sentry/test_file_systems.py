"""Real file systems that fail under an open file: full, or read-only. They need root to mount."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.sentry.server import Answer, SentryServer
from usercontext.exceptions import ConfigurationError
from usercontext.sentry import SentryClient, read_reports
from usercontext.sentry.delivery import pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CANNOT = {"outbox": "cannot use the outbox", "file": "cannot write to"}


def mount(*arguments: object) -> None:
    """Mount a file system, or skip where that is not allowed."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(done.stderr.decode().strip())


def run(*command: object, codes: tuple[int, ...] = (0,)) -> None:
    """Run a command that is expected to end with one of the codes."""
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False)
    assert done.returncode in codes, done.stderr


def database_of(client: SentryClient) -> Any:
    """Return the client's hold of its file."""
    destination: Any = client._outgoing.transport.destination  # type: ignore[union-attr]
    return (
        destination.outbox.file.database if hasattr(destination, "outbox") else destination.database
    )


class Small:
    """A file system in memory, of 8 MiB."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "mounted"
        self.path.mkdir()
        mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", self.path)

    def fill(self) -> None:
        """Leave no byte on it."""
        with suppress(OSError), (self.path / "ballast").open("wb", 0) as file:
            while True:
                file.write(bytes(65_536))

    def empty(self) -> None:
        """Have room again."""
        (self.path / "ballast").unlink()

    def fail(self, client: SentryClient | None = None) -> None:
        """Make it read-only; Linux refuses that as long as a file is open."""
        if client is not None:
            database_of(client).close()
        run("mount", "-o", "remount,ro", self.path)

    def mend(self) -> None:
        """Make it writable again."""
        run("mount", "-o", "remount,rw", self.path)


class Disk:
    """An ext4 file system, which Linux makes read-only under open files if its disk fails."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("mkfs.ext4 is not installed")
        self.path = directory / "mounted"
        self.path.mkdir()
        self._image = directory / "image"
        with self._image.open("wb") as file:
            file.truncate(8 << 20)
        run("mkfs.ext4", "-q", self._image)
        self._mount()

    def _mount(self) -> None:
        mount("-o", "loop", self._image, self.path)

    def fail(self, client: SentryClient | None = None) -> None:
        """Do what a disk that fails has Linux do."""
        del client
        run("mount", "-o", "remount,abort", self.path)

    def mend(self) -> None:
        """Do what an administrator does then; nobody may have a file open."""
        run("umount", self.path)
        run("fsck.ext4", "-p", self._image, codes=(0, 1))
        self._mount()


@pytest.fixture(params=[Small, Disk], ids=["remounted", "failed"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Small | Disk]:
    """A file system that can be made read-only."""
    yield from unmounted_later(tmp_path, request.param)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    """A file system that can be filled."""
    yield from unmounted_later(tmp_path, Small)


def unmounted_later(directory: Path, kind: Callable[[Path], Small | Disk]) -> Iterator[Any]:
    """Mount and, at last, unmount, be a file open or not."""
    try:
        yield kind(directory)
    finally:
        subprocess.run(["umount", "-l", directory / "mounted"], capture_output=True, check=False)


@pytest.fixture(params=["outbox", "file"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a client keeps there: an outbox, or its reports."""
    # Nobody but `flush()` tries again, so that nothing is open when a disk is mended.
    monkeypatch.setattr(pace, "_FIRST_PAUSE", 60.0)
    return str(request.param)


@pytest.fixture
def make(
    server: SentryServer, make_client: Callable[..., SentryClient], kind: str
) -> Callable[[Path], SentryClient]:
    """Make a client with a file in a directory."""
    if kind == "outbox":
        return lambda directory: make_client(server.dsn, outbox=directory / "outbox.db")
    return lambda directory: make_client(f"sqlite:///{directory}/reports.db")


def capture(client: SentryClient, number: int) -> bool:
    """Capture reports of 20 kB; return what `flush()` does."""
    for _ in range(number):
        event = client.build_message("x")
        assert event is not None
        client.send({**event, "extra": {"text": "x" * 20_000}})
    return client.flush(10.0)


#: Three reports on a good file system, and three on one that fails: those are sent without the
#: outbox; where there is no server, they are lost and counted.
AFTER = {
    "outbox": (True, {"captured": 6, "sent": 6, "queued": 0, "discarded": {}}),
    "file": (False, {"captured": 6, "sent": 3, "queued": 0, "discarded": {"send_error": 3}}),
}


def test_read_only(
    mounted: Small | Disk,
    make: Callable[[Path], SentryClient],
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A file system that becomes read-only costs the file alone, is logged once, and may mend."""
    client = make(mounted.path)
    assert capture(client, 3)
    mounted.fail(client)

    assert (capture(client, 3), client.stats()) == AFTER[kind]
    assert caplog.text.count(CANNOT[kind]) == 1
    mounted.mend()
    assert capture(client, 3)
    assert client.stats()["sent"] == AFTER[kind][1]["sent"] + 3


def test_disk_full(
    small: Small,
    make: Callable[[Path], SentryClient],
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """So does one that is full, until there is room again."""
    client = make(small.path)
    assert capture(client, 3)
    small.fill()

    assert (capture(client, 3), client.stats()) == AFTER[kind]
    assert caplog.text.count(CANNOT[kind]) == 1
    small.empty()
    assert capture(client, 3)
    assert client.stats()["sent"] == AFTER[kind][1]["sent"] + 3


@pytest.mark.parametrize("kind", ["outbox"], indirect=True)
def test_waiting_when_it_becomes_read_only(
    server: SentryServer, small: Small, make: Callable[[Path], SentryClient]
) -> None:
    """What an outbox held by then waits until it can be removed, and is sent once."""
    client = make(small.path)
    server.answers += [Answer(fault="hang_up") for _ in range(9)]
    assert capture(client, 3)
    small.fail(client)
    server.answers.clear()
    client.flush(10.0)
    client.flush(10.0)
    small.mend()

    assert client.flush(10.0)
    ids = [event["event_id"] for event in server.events]
    assert len(ids) == len(set(ids)) == 3
    assert list(read_reports(small.path / "outbox.db")) == []
    assert client.stats() == {"captured": 3, "sent": 3, "queued": 0, "discarded": {}}


def test_read_only_from_the_start(small: Small, make: Callable[[Path], SentryClient]) -> None:
    """On one that is read-only when the client is built, the file is refused at once."""
    small.fail()

    with pytest.raises(ConfigurationError, match="cannot be written by this process"):
        make(small.path)


@pytest.mark.parametrize("kind", ["file"], indirect=True)
def test_failed_from_the_start(tmp_path: Path, make: Callable[[Path], SentryClient]) -> None:
    """So it is where the disk has failed, of which the permissions tell nothing."""
    for disk in unmounted_later(tmp_path, Disk):
        disk.fail()

        with pytest.raises(ConfigurationError, match="cannot be used: "):
            make(disk.path)
