"""Identity that is carried to a job or another service: a small signed text, and what reads it.

It holds the fields asked for and nothing else, is bound to one receiver, and expires. What is
unsigned, changed, too old or meant for something else is ignored, counted and said once.
"""

from __future__ import annotations

import os
import re
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import b2a_base64
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from hashlib import blake2b, sha256
from hmac import compare_digest
from json import JSONEncoder, loads
from json.encoder import encode_basestring_ascii as encode_text
from time import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

from usercontext.checks import listed, seconds, secret
from usercontext.diagnostics import warn_once
from usercontext.exceptions import ConfigurationError
from usercontext.optional import importing
from usercontext.user import IDENTITY_FIELDS, User

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from itsdangerous import Signer
    from itsdangerous.signer import SigningAlgorithm

__all__ = ["HEADER", "CarriedIdentity"]

#: The header of requests to other services. Not W3C baggage: instrumentation hands that on to
#: every host that is called.
HEADER: Final = "usercontext-carried"

#: Where the keys are read from if none are given: separated by commas or spaces, newest first.
KEYS_VARIABLE: Final = "USERCONTEXT_CARRIED_KEYS"

_ENCODER: Final = JSONEncoder(separators=(",", ":"))

# RFC 4648, section 5; `urlsafe_b64encode` does the same by way of two functions more.
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_IDENTITY: Final = frozenset(IDENTITY_FIELDS)

_MIN_KEY: Final = 32
_MAX_LENGTH: Final = 1024
_MAX_AUDIENCE: Final = 100
# What is signed (the key's id, the content, when it was signed), and the signature.
_SHAPE: Final = re.compile(r"(([\w-]{8})\.([\w-]+)\.([\w-]{8}))\.([\w-]{43})", re.ASCII)
_MAKE_ONE: Final = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'

_REFUSED: Final = {
    "malformed": "is not a signed identity of ours: something else wrote into its place",
    "unknown_key": "is signed with the key %s, and this process has %s; give CarriedIdentity the "
    "same keys on both sides, and a new one everywhere before it comes first",
    "forged": "was changed on its way, or signed by somebody without the key",
    "expired": "was signed more than max_age seconds ago: give CarriedIdentity a larger max_age if "
    "jobs wait so long",
    "early": "was signed in the future: the clocks of the two machines are apart by more than "
    "leeway seconds; set them, or give CarriedIdentity a larger leeway",
    "audience": "is meant for another audience: give CarriedIdentity the same audience on both "
    "sides",
    "receiver": "was made for another job or host, and was copied here",
    "untrusted": "came from a peer that is not one of trusted_proxies: add the addresses of the "
    "services that call this one, if it was one of them",
    "nobody": "names nobody: it holds none of id, username, email and ip_address",
}


class CarriedIdentity:
    """Signs who the current user is for a job or service, and reads what another has signed.

    Both sides have the same keys and the same audience. The text is signed, not encrypted:
    whoever can look into the queue can read it, which is why the id alone is carried by default.

    Args:
        keys: secrets of at least 32 bytes each. The first signs, all of them are accepted: to
            change it, add the new one behind the old one everywhere, then put it first, and
            later leave out the old one. None: what USERCONTEXT_CARRIED_KEYS has, separated by
            commas or spaces.
        audience: the system that believes what is signed here, such as "shop".
        fields: the user's fields that are carried; extras by their names.
        max_age: seconds for which a text is accepted, the time that a job waits included.
        leeway: seconds by which the clocks of two machines may differ.

    Raises:
        ConfigurationError: an option is missing or wrong; the message names the fix.
        MissingDependencyError: itsdangerous is not installed.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        keys: Sequence[bytes | str] | None = None,
        *,
        audience: str | None = None,
        fields: Iterable[str] = ("id",),
        max_age: float = 86_400,
        leeway: float = 30,
    ) -> None:
        self.audience: str = _checked_audience(audience)
        self.fields: tuple[str, ...] = _checked_fields(fields)
        self.max_age: float = seconds("max_age", max_age, least=1)
        self.leeway: float = seconds("leeway", leeway, least=0)
        self._signers = _signers_of(_checked_keys(keys))
        self._key_id, self._signer = next(iter(self._signers.items()))
        # The same at every call.
        self._opening = f'[{encode_text(self.audience)},"'
        self._counts: dict[str, int] = {}
        self._counting = threading.Lock()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(key_ids={list(self._signers)}, audience={self.audience!r}, "
            f"fields={self.fields!r}, max_age={self.max_age!r}, leeway={self.leeway!r})"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("a CarriedIdentity is not pickled: its keys would be in the clear there")

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Short names of the keys, for logs and support; no key can be told from its name."""
        return tuple(self._signers)

    def sign(self, user: User | Mapping[str, Any] | None, receiver: Sequence[str]) -> str | None:
        """Return the text that carries a user to one receiver; None where there is nobody.

        Args:
            user: the user, scrubbed already; only `fields` of it are taken.
            receiver: what the text is for, such as `("job", name, id)`. It is accepted for
                nothing else.
        """
        carried = self._carried_of(user)
        if carried is None:
            return None
        content = f'{self._opening}{_digest_of(receiver)}",{_encoded_dict(carried)}]'
        encoded = b2a_base64(content.encode(), newline=False).translate(_URL_SAFE, b"=")
        value = f"{self._key_id}.{encoded.decode()}.{int(time()):08x}".encode()
        text = self._signer.sign(value).decode()
        if len(text) > _MAX_LENGTH:
            self._note_length()
            return None
        return text

    def _carried_of(self, user: User | Mapping[str, Any] | None) -> dict[str, Any] | None:
        if user is None:
            return None
        values = user.to_dict() if isinstance(user, User) else user
        carried = {name: values[name] for name in self.fields if values.get(name) is not None}
        return None if _IDENTITY.isdisjoint(carried) else carried

    def _note_length(self) -> None:
        self._count("too_long")
        warn_once(
            "carried: too_long",
            "a user is not carried: the text with %s would be longer than %d bytes; carry the id "
            "alone, and load the rest where the job runs",
            ", ".join(self.fields),
            _MAX_LENGTH,
        )

    def is_for(self, text: object, receiver: Sequence[str]) -> bool:
        """Return whether a text says that it is for this receiver; its signature is not checked.

        Tells the own mark of a job that is sent again from one copied from another job.
        """
        found = _parts_of(text)
        content = None if found is None else _content_of(found[3])
        return content is not None and content[1] == _digest_of(receiver)

    def read(self, text: object, receiver: Sequence[str]) -> User | None:
        """Return the user that a text carries to this receiver; None where it is not accepted.

        Args:
            text: what was found in the message or header; None where there was nothing.
            receiver: as it was given to `sign`.
        """
        if text is None:
            return None
        try:
            return self._believed(text, receiver)
        except _RefusedError as refused:
            self._refuse(refused.reason, *refused.args)
            return None

    def _believed(self, text: object, receiver: Sequence[str]) -> User:
        found = _parts_of(text)
        if found is None:
            raise _RefusedError("malformed")
        signer = self._signers.get(found[2])
        if signer is None:
            raise _RefusedError("unknown_key", found[2], ", ".join(self._signers))
        # Compared as text: base64 can spell the same bytes in several ways, and only one is ours.
        if not compare_digest(signer.get_signature(found[1]), found[5].encode()):
            raise _RefusedError("forged")
        self._check_age(found[4])
        return self._user_of(_content_of(found[3]), receiver)

    def _check_age(self, issued: str) -> None:
        age = time() - int(issued, 16)
        if age > self.max_age + self.leeway:
            raise _RefusedError("expired")
        if age < -self.leeway:
            raise _RefusedError("early")

    def _user_of(self, content: list[Any] | None, receiver: Sequence[str]) -> User:
        if content is None:
            raise _RefusedError("malformed")
        audience, digest, fields = content
        if audience != self.audience:
            raise _RefusedError("audience")
        if digest != _digest_of(receiver):
            raise _RefusedError("receiver")
        user = User.of(fields)
        if user is None or user.identity is None:
            raise _RefusedError("nobody")
        return user

    def stats(self) -> dict[str, int]:
        """Return how many texts this process has refused, by reason; empty where none was.

        The reasons: malformed, unknown_key, forged, expired, early (signed in the future),
        audience, receiver (of another job or host), untrusted (from another peer), nobody; and
        too_long, for those not signed.
        """
        with self._counting:
            return dict(self._counts)

    def _count(self, reason: str) -> None:
        with self._counting:
            self._counts[reason] = self._counts.get(reason, 0) + 1

    def refuse(self, reason: str) -> None:
        """Count a text that is not even read, and say so once.

        Args:
            reason: one that `stats()` knows, such as "untrusted".
        """
        self._refuse(reason)

    def _refuse(self, reason: str, *args: object) -> None:
        self._count(reason)
        why = _REFUSED[reason]
        warn_once(f"carried: {reason}", f"a carried identity is ignored: it {why}", *args)


class _RefusedError(Exception):
    """A text is not accepted; `args` are what the log line says beside the reason."""

    def __init__(self, reason: str, *args: object) -> None:
        super().__init__(*args)
        self.reason = reason


def _parts_of(text: object) -> re.Match[str] | None:
    """Take what looks like a text of ours apart."""
    if not isinstance(text, str) or len(text) > _MAX_LENGTH:
        return None
    return _SHAPE.fullmatch(text)


def _content_of(encoded: str) -> list[Any] | None:
    try:
        content = loads(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, list) and len(content) == 3 else None


def _encode(value: object) -> str:
    # An encoder of any value costs ten times as much, and nearly all are text.
    return encode_text(value) if isinstance(value, str) else _ENCODER.encode(value)


def _encoded_dict(values: Mapping[str, object]) -> str:
    return "{" + ",".join([f"{_encode(name)}:{_encode(values[name])}" for name in values]) + "}"


def _digest_of(receiver: Sequence[str]) -> str:
    # With the length of each part: a name that holds a separator is not another job.
    parts = "".join([f"{len(part)}:{part}" for part in receiver]).encode("utf-8", "surrogatepass")
    return blake2b(parts, digest_size=12).hexdigest()


def _signers_of(keys: list[bytes]) -> dict[str, Signer]:
    with importing("itsdangerous", "carried", purpose="CarriedIdentity"):
        from itsdangerous import Signer
    signers = {}
    for key in keys:
        # The key itself is derived once, as HMAC would do it at each call.
        derived = Signer(
            key, salt="usercontext.carried", key_derivation="hmac", digest_method=sha256
        ).derive_key()
        name = urlsafe_b64encode(blake2b(b"key id", key=derived, digest_size=6).digest()).decode()
        signers[name] = Signer(derived, key_derivation="none", algorithm=_prepared(derived))
    if len(signers) < len(keys):
        raise ConfigurationError("keys has the same key twice: give each of them once")
    return signers


def _prepared(key: bytes) -> SigningAlgorithm:
    """Return HMAC-SHA-256 (RFC 2104) with the key's part of it done once, a third of its work."""
    from itsdangerous.signer import SigningAlgorithm

    block = key.ljust(64, b"\0")  # a derived key has 32 bytes
    inner = sha256(bytes(byte ^ 0x36 for byte in block))
    outer = sha256(bytes(byte ^ 0x5C for byte in block))

    class Prepared(SigningAlgorithm):
        def get_signature(self, key: bytes, value: bytes) -> bytes:  # noqa: ARG002
            signed, hashed = outer.copy(), inner.copy()
            hashed.update(value)
            signed.update(hashed.digest())
            return signed.digest()

    return Prepared()


def _checked_keys(keys: object) -> list[bytes]:
    if keys is None:
        keys = os.environ.get(KEYS_VARIABLE, "").replace(",", " ").split()
    what = "keys, the one that signs first"
    if isinstance(keys, AbstractSet | Mapping):
        raise ConfigurationError(
            f"keys must be a list of {what}: {type(keys).__name__} has no first; write "
            "keys=[NEW, OLD]"
        )
    given = listed("keys", keys, what, "[NEW, OLD]")
    checked = [
        secret(f"keys: number {number}", key, _MIN_KEY, _MAKE_ONE)
        for number, key in enumerate(given, 1)
    ]
    if not checked:
        raise ConfigurationError(
            f"CarriedIdentity needs keys: write keys=[KEY], or set {KEYS_VARIABLE}; make one with "
            f"{_MAKE_ONE}"
        )
    return checked


def _checked_audience(audience: object) -> str:
    if not isinstance(audience, str) or not 0 < len(audience) <= _MAX_AUDIENCE:
        raise ConfigurationError(
            "CarriedIdentity needs an audience, the name of the system that believes what is "
            f'signed, of {_MAX_AUDIENCE} characters at most: write audience="shop"'
        )
    return audience


def _checked_fields(fields: object) -> tuple[str, ...]:
    names = listed("fields", fields, "names", '("id",)')
    if not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError('fields must hold names alone: write fields=("id", "plan")')
    if _IDENTITY.isdisjoint(names):
        raise ConfigurationError(
            f"fields must hold one of {', '.join(IDENTITY_FIELDS)}, or nobody is named: write "
            f"fields={('id', *names)!r}"
        )
    return tuple(dict.fromkeys(names))
