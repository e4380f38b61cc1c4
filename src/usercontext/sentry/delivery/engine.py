"""Engines that keep reports for many machines: what each of them does, and how one is named.

An engine is somebody else's program, which runs anyway: Redis or Valkey, or PostgreSQL.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import SplitResult, urlsplit

from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "LEASE_SECONDS",
    "Address",
    "Engine",
    "EngineBounds",
    "EngineError",
    "EngineStatus",
    "Entry",
    "Row",
    "engine_address",
    "is_engine",
]

#: How long a report belongs to who has claimed it, unless that is renewed.
LEASE_SECONDS = 60.0

REDIS = ("redis", "rediss", "valkey", "valkeys")
POSTGRES = ("postgresql", "postgres")
_SCHEMES = (*REDIS, *POSTGRES)
_FORMS = 'outbox="redis://host:6379/0" or outbox="postgresql://user@host/database"'
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class EngineError(Exception):
    """Raised when an engine cannot be used now.

    Attributes:
        reason: in a few words, which hold neither a password nor anything of a report.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason: str = reason


class EngineBounds(NamedTuple):
    """What an engine may hold for one server; the oldest reports go first."""

    max_reports: int = 10_000
    max_bytes: int = 64 << 20
    max_age: float = 30 * 86_400.0


class Row(NamedTuple):
    """A report to be kept."""

    event_id: str
    payload: bytes


class Entry(NamedTuple):
    """A report that is claimed."""

    token: str
    event_id: str
    payload: bytes


class EngineStatus(NamedTuple):
    """What an engine holds for one server."""

    waiting: int
    #: How many of them somebody has claimed, and is to send.
    claimed: int
    size: int
    #: When the oldest was written, as seconds since 1970; None without any.
    oldest: float | None


class Engine(Protocol):
    """One connection to an engine, for the reports of one server; it raises EngineError alone.

    What is kept has a token. It is claimed by an owner, and removed when its end is known; what is
    claimed by somebody who is gone, others adopt.
    """

    def keep(self, rows: Sequence[Row], bounds: EngineBounds) -> tuple[list[str | None], list[str]]:
        """Write reports; return their tokens, None where one was there, and who made room."""

    def claim(self, owner: str, limit: int) -> list[Entry]:
        """Claim the oldest reports that nobody has claimed."""

    def adopt(self, owner: str, limit: int, is_dead: Callable[[str], bool]) -> list[Entry]:
        """Claim what owners had claimed whose lease is over, or who are known to be dead."""

    def extend(self, owner: str, tokens: Sequence[str]) -> None:
        """Begin the lease of what is claimed once more."""

    def free(self, owner: str, tokens: Sequence[str]) -> None:
        """Let others adopt what is claimed."""

    def remove(self, entries: Sequence[Entry]) -> None:
        """Delete what has met its end."""

    def expire(self, max_age: float) -> list[str]:
        """Delete what is older; return the ids of the events."""

    def left(self, tokens: Sequence[str]) -> set[str]:
        """Return which of some tokens are still there."""

    def leave(self, owner: str) -> None:
        """Forget an owner, who claims nothing more."""

    def paused(self) -> float:
        """Return for how many seconds nobody is to send."""

    def pause(self, seconds: float) -> None:
        """Let nobody send for so long; a longer pause stays."""

    def status(self) -> EngineStatus:
        """Return what is held."""

    def clear(self) -> int:
        """Delete all reports; return how many there were."""

    def targets(self) -> list[str]:
        """Return the DSNs of all servers that anything was kept for."""

    def close(self) -> None:
        """Close the connection; the next call opens one."""

    def abandon(self) -> None:
        """Leave the connection to the parent process."""


class Address:
    """The URL of an engine, of which no password is ever shown.

    Attributes:
        url: the whole of it, for the engine's own package.
        place: host, port and database, for the log.
        is_redis: whether it names Redis or Valkey, not PostgreSQL.
    """

    __slots__ = ("is_redis", "place", "url")

    def __init__(self, url: str, parts: SplitResult) -> None:
        self.is_redis: bool = parts.scheme in REDIS
        scheme = parts.scheme.replace("valkey", "redis") if self.is_redis else "postgresql"
        self.url: str = f"{scheme}{url[len(parts.scheme) :]}"
        host = parts.netloc.rpartition("@")[2] or "localhost"
        self.place: str = f"{parts.scheme}://{host}{parts.path}"

    def __repr__(self) -> str:
        return f"<Address {self.place}>"

    def __str__(self) -> str:
        return self.place


def is_engine(text: object) -> bool:
    """Tell whether a text is a URL, where a file's name could stand too."""
    return isinstance(text, str) and _URL.match(text) is not None


def engine_address(text: str) -> Address:
    """Read the URL of an engine.

    Raises:
        ConfigurationError: it names none. What the URL holds is not shown: it may be a password.
    """
    scheme = next(_schemes(text), "")
    if scheme not in _SCHEMES:
        raise ConfigurationError(
            f"outbox must be a file name or the URL of Redis, Valkey or PostgreSQL, which "
            f"{scheme}:// does not name: write {_FORMS}"
        )
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ConfigurationError(
            f"outbox is a URL whose host or port cannot be read: write {_FORMS}"
        ) from None
    if port == 0 or any(character.isspace() for character in text):
        raise ConfigurationError(
            f"outbox is a URL with a blank, or with a port that cannot be: write {_FORMS}"
        )
    return Address(text, parts)


def _schemes(text: str) -> Iterator[str]:
    found = _URL.match(text)
    if found is not None:
        yield found[1].lower()
