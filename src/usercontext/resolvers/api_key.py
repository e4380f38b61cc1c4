"""API keys: a pseudonym of the key, never the key itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usercontext.checks import is_async
from usercontext.exceptions import ConfigurationError
from usercontext.privacy.pseudonyms import checked_key, digest
from usercontext.resolvers._credential import Credential

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ApiKey"]


class ApiKey:
    """Resolve the user by the API key of a request, hashed with a key of yours.

    The id is what `usercontext.privacy.hash_id(api_key, key=hash_key)` returns: the same for the
    same API key, and of no use to whoever reads the reports. It is not checked whether the API
    key is a right one: without `lookup`, who sends a wrong one is a user that nobody knows.

    Args:
        header: the header that holds the API key.
        hash_key: at least 16 secret bytes.
        scheme: the word before the API key in the header, such as "ApiKey"; by default none.
        cookie: a cookie that is read where the header is absent.
        lookup: called with the hash, and returns the user whose key it is, or None. What your
            database keeps of API keys is then their hashes.

    Raises:
        ConfigurationError: `hash_key` is missing or too short, or an option is wrong.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        header: str = "x-api-key",
        *,
        hash_key: bytes | str,
        scheme: str | None = None,
        cookie: str | None = None,
        lookup: Callable[[str], object] | None = None,
    ) -> None:
        self._credential = Credential(header, scheme, cookie)
        self._key = checked_key(hash_key, "hash_key")
        self._lookup = _checked_lookup(lookup)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __call__(self, request: Any) -> object:
        """Return the user of a request, or None where it has no API key."""
        found = self._credential.of(request)
        if found is None:
            return None
        hashed = digest(found, self._key)
        return {"id": hashed} if self._lookup is None else self._lookup(hashed)


def _checked_lookup(lookup: Callable[[str], object] | None) -> Callable[[str], object] | None:
    if lookup is None:
        return None
    if not callable(lookup):
        raise ConfigurationError(f"lookup must be a function, not {type(lookup).__name__}")
    if is_async(lookup):
        raise ConfigurationError(
            "lookup must not be async: write an `async def` resolver that calls ApiKey(...) "
            "without lookup, and awaits the user of the id that it returns"
        )
    return lookup
