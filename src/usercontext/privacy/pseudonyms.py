"""Keyed hashes that stand in for ids: the same person is seen to be the same, and is not named."""

from __future__ import annotations

from usercontext.exceptions import ConfigurationError

__all__ = ["checked_key", "digest"]

_MIN_KEY = 16
_MAX_KEY = 64  # of blake2b


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
