"""Names whose values are secrets, in whatever was collected: shown, but never their values."""

from __future__ import annotations

__all__ = ["FILTERED", "is_secret"]

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
    "credentials",
    "session",
    "sid",
    "identity",
)


def is_secret(name: str) -> bool:
    """Return whether a header, cookie, parameter or variable of this name may hold a secret."""
    folded = name.lower()
    return any(word in folded for word in _SECRET_WORDS)
