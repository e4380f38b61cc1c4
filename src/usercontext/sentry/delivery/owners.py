"""Who keeps reports in an outbox, and who of them is gone.

An owner is named by its host, its pid and when that process began, so that neither another host's
nor a later process of the same pid is taken for it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["is_dead", "new_owner"]


def new_owner() -> str:
    """Return a name for this process's part in one file."""
    return f"{_process(os.getpid())}/{os.urandom(4).hex()}"


def is_dead(owner: str | None) -> bool:
    """Return whether an owner is known to be gone; one of another host never is."""
    if owner is None:
        return True
    host, _, rest = owner.partition("/")
    pid = rest.partition("/")[0]
    if host != _HOST or not pid.isdecimal():
        return False
    return _beginning(int(pid)) == "gone" or not owner.startswith(f"{_process(int(pid))}/")


def _process(pid: int) -> str:
    return f"{_HOST}/{pid}/{_beginning(pid)}"


def _host() -> str:
    import socket

    try:
        # Containers may share a host's name, and each has its own pids.
        space = Path("/proc/self/ns/pid").readlink().name
    except OSError:
        space = sys.platform
    return f"{socket.gethostname()}:{space}".replace("/", "_")


def _beginning(pid: int) -> str:
    """Return when a process began, in the system's ticks; "gone" if there is none."""
    if not Path("/proc/self/stat").exists():
        return _beginning_unknown(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return "gone"
    state, *fields = stat.rpartition(b")")[2].split()
    return "gone" if state in (b"Z", b"X") else fields[18].decode()


def _beginning_unknown(pid: int) -> str:
    if sys.platform == "win32":
        return ""  # os.kill() would end it; the lease's end decides.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except OSError:
        pass
    return ""


_HOST = _host()
