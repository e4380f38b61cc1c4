"""Keyed hashes that stand in for ids: the same person is seen to be the same, and is not named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["checked_key", "digest", "hash_id"]

_MIN_KEY = 16
_MAX_KEY = 64  # of blake2b


def hash_id(
    value: object,
    *,
    key: bytes | str,
    rotate: str | None = None,
    now: datetime | None = None,
) -> str:
    """Return a pseudonym for an id: the same for the same value and key, useless without it.

    It is what a `hash` rule makes of the same value with the same key.

    Args:
        value: what is to be hidden, as text.
        key: at least 16 secret bytes. Unkeyed hashes are not offered: whoever can list the ids
            can undo them.
        rotate: `"daily"` gives another pseudonym each day (UTC), so that days cannot be joined.
        now: the time that `rotate` goes by, instead of the clock's; with a time zone.

    Raises:
        ConfigurationError: the key is missing or too short, or `rotate` is unknown.

    .. versionadded:: 0.1.0
    """
    secret = checked_key(key, "key")
    if rotate is None:
        return digest(str(value), secret)
    if rotate != "daily":
        raise ConfigurationError(f'rotate must be "daily" or None, not {rotate!r:.80}')
    from datetime import UTC, datetime

    day = (now or datetime.now(UTC)).astimezone(UTC).date().isoformat()
    return digest(str(value), bytes.fromhex(digest(day, secret)))


def checked_key(key: object, option: str) -> bytes:
    """Return a key as bytes, refusing one that is too short."""
    if isinstance(key, str):
        key = key.encode()
    if not isinstance(key, bytes):
        raise ConfigurationError(
            f"{option} must be bytes, at least {_MIN_KEY} of them, not {type(key).__name__}"
        )
    if len(key) < _MIN_KEY:
        raise ConfigurationError(
            f"{option} has {len(key)} bytes and needs at least {_MIN_KEY}: make one with "
            "secrets.token_bytes(32)"
        )
    return key


def digest(text: str, key: bytes) -> str:
    """Return a text's keyed hash: blake2b (RFC 7693) of 20 bytes, in hex."""
    from hashlib import blake2b

    if len(key) > _MAX_KEY:
        key = blake2b(key).digest()
    return blake2b(text.encode("utf-8", "surrogatepass"), key=key, digest_size=20).hexdigest()
