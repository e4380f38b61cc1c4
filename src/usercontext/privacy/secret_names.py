"""Names whose values are secrets, in whatever was collected: shown, but never their values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "FILTERED",
    "add_secret_names",
    "forget_secret_names",
    "is_secret",
    "is_secret_parameter",
]

#: What stands in place of a value that was withheld.
FILTERED = "[Filtered]"

# Matched anywhere in a name, whatever its case: "X-Api-Key", "sessionid", "user[password]".
# "auth" covers authorization and oauth, "key" api_key, "session" and "sid" their cookies.
_SECRET_WORDS = (
    "auth",
    "token",
    "secret",
    "password",
    "passwd",
    "pwd",
    "key",
    "jwt",
    "bearer",
    "sso",
    "saml",
    "csrf",
    "xsrf",
    "credential",
    "session",
    "sid",
    "identity",
    "assertion",
    "cf_clearance",
    "client-principal",
    "dpop",
    "hmac",
    "logged_in",
    "oidc",
    "passcode",
    "passphrase",
    "remember",
    "signature",
    "verifier",
)
# Too short, or too common within other words, to be matched but as a word of its own.
_SECRET_PARTS = frozenset({
    "autologin", "castgc", "cert", "creds", "cvc", "cvv", "otp", "pass", "pin", "pw", "sess", "sig",
    "tgc", "totp",
})  # fmt: skip
# What else is a secret in a query or cookie: a step of OAuth or CAS, a signed URL.
_SECRET_PARAMETERS = frozenset({
    "code", "hash", "magic", "nonce", "policy", "relaystate", "sign", "state", "ticket",
})  # fmt: skip
_BETWEEN = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")

# What apps have added, for the whole process: a name that is secret in one place is so in all.
_added: frozenset[str] = frozenset()


def is_secret(name: str) -> bool:
    """Return whether a header, cookie, parameter or variable of this name may hold a secret."""
    folded = name.lower()
    if any(word in folded for word in _SECRET_WORDS):
        return True
    if _added and any(word in folded for word in _added):
        return True
    return not _SECRET_PARTS.isdisjoint(_BETWEEN.split(name if name.islower() else _split(name)))


def _split(name: str) -> str:
    return "-".join(_BETWEEN.split(name)).lower()


def is_secret_parameter(name: str) -> bool:
    """Return whether a parameter of a query, or a cookie, of this name may hold a secret."""
    return name.lower() in _SECRET_PARAMETERS or is_secret(name)


def add_secret_names(names: Iterable[str]) -> None:
    """Take further words for secret, wherever they stand in a name and in whatever case."""
    global _added  # noqa: PLW0603
    _added = _added.union(name.lower() for name in names)


def forget_secret_names() -> None:
    """Take for secret only what is so from the start."""
    global _added  # noqa: PLW0603
    _added = frozenset()
