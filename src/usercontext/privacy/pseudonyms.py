"""Keyed hashes that stand in for ids: the same person is seen to be the same, and is not named."""

from __future__ import annotations

from usercontext.checks import secret

__all__ = ["checked_key", "digest"]

_MIN_KEY = 16
_MAX_KEY = 64  # of blake2b


def checked_key(key: object, option: str) -> bytes:
    """Return a key as bytes, refusing one that is too short."""
    return secret(option, key, _MIN_KEY, "secrets.token_bytes(32)")


def digest(text: str, key: bytes) -> str:
    """Return a text's keyed hash: blake2b (RFC 7693) of 20 bytes, in hex."""
    from hashlib import blake2b

    if len(key) > _MAX_KEY:
        key = blake2b(key).digest()
    return blake2b(text.encode("utf-8", "surrogatepass"), key=key, digest_size=20).hexdigest()
