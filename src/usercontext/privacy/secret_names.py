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
    "appcheck",
    "origin-verify",
    # What others call a password, as it is written in forms of theirs.
    "passwor", "kennwort", "wachtwoord", "contrase", "senha", "motdepasse", "mot_de_passe",
    "parola", "\u043f\u0430\u0440\u043e\u043b\u044c", "\u5bc6\u7801", "\u5bc6\u78bc",
    "\u30d1\u30b9\u30ef\u30fc\u30c9", "\ube44\ubc00\ubc88\ud638",
)  # fmt: skip
# Codes that let somebody in, whatever stands between their words.
_CODES = re.compile(
    r"(?:security|access|verification|confirmation|activation|recovery|backup|mfa|2fa|sms|otp|oob"
    r"|one-?time)[-_ .]?code"
)
# Too short, or too common within other words, to be matched but as a word of its own.
_SECRET_PARTS = frozenset({
    "autologin", "castgc", "cert", "creds", "cvc", "cvv", "otp", "pass", "pin", "pw", "sess", "sig",
    "ssn", "tgc", "totp",
})  # fmt: skip
# What else is a secret in a query or cookie: a step of OAuth or CAS, a signed URL.
_SECRET_PARAMETERS = frozenset({
    "__client", "code", "gcp_iap_uid", "hash", "invitation", "invite", "magic", "nonce",
    "persistent_login", "policy", "relaystate", "sign", "state", "ticket", "trusted_device",
})  # fmt: skip
_BETWEEN = re.compile(r"[^A-Za-z]+|(?<=[a-z])(?=[A-Z])")

# What apps have added, for the whole process: a name that is secret in one place is so in all.
_added: frozenset[str] = frozenset()


def is_secret(name: str) -> bool:
    """Return whether a header, cookie, parameter or variable of this name may hold a secret."""
    folded = name.lower() if name.isascii() else _normalized(name)
    if any(word in folded for word in _SECRET_WORDS):
        return True
    if _added and any(word in folded for word in _added):
        return True
    if "code" in folded and _CODES.search(folded) is not None:
        return True
    parts = _BETWEEN.split(name if name.islower() else _split(name))
    if "pass" in folded and any(map(_is_pass, parts)):
        return True
    return not _SECRET_PARTS.isdisjoint(parts)


def _is_pass(part: str) -> bool:
    """Return whether a word ends as "newpass" does, and not as "bypass"."""
    return part.endswith("pass") and not part.endswith(("bypass", "compass", "trespass", "surpass"))


def _normalized(name: str) -> str:
    """Return a name in small letters, letters of other widths as usual ones."""
    from unicodedata import normalize  # only a name with such letters needs it

    return normalize("NFKC", name).lower()


def _split(name: str) -> str:
    return "-".join(_BETWEEN.split(name)).lower()


def is_secret_parameter(name: str) -> bool:
    """Return whether a parameter of a query, or a cookie, of this name may hold a secret."""
    folded = name.lower()
    # A cookie of that prefix is one that others must not get to write.
    return folded in _SECRET_PARAMETERS or folded.startswith("__host-") or is_secret(name)


def add_secret_names(names: Iterable[str]) -> None:
    """Take further words for secret, wherever they stand in a name and in whatever case."""
    global _added  # noqa: PLW0603
    _added = _added.union(name.lower() for name in names)


def forget_secret_names() -> None:
    """Take for secret only what is so from the start."""
    global _added  # noqa: PLW0603
    _added = frozenset()
