"""Where a request carries its credential, on any framework."""

from __future__ import annotations

from typing import Any, Final

from usercontext.exceptions import ConfigurationError

__all__ = ["Credential"]

# Servers take headers of 8 to 64 KiB: what is longer than this is not a token of anybody.
_MAX_LENGTH: Final = 16_384


class Credential:
    """Finds a credential in a header, or in a cookie where the header has none.

    Args:
        header: the header's name.
        scheme: the word before the credential, such as Bearer (RFC 9110, 11.4); None where the
            header holds nothing else.
        cookie: the cookie's name; None: no cookie is read.

    Raises:
        ConfigurationError: a name is empty or no str.
    """

    def __init__(self, header: str, scheme: str | None, cookie: str | None) -> None:
        for option, value in (("header", header), ("scheme", scheme), ("cookie", cookie)):
            is_name = isinstance(value, str) and value.strip() == value != ""
            if not is_name and (value is not None or option == "header"):
                raise ConfigurationError(
                    f"{option} must be a name without spaces around it, not {value!r:.80}"
                )
        self._header = header
        self._scheme = scheme
        self._cookie = cookie

    def of(self, request: Any) -> str | None:
        """Return the credential that a request carries, or None.

        The request is Starlette's, Werkzeug's or Django's, or another with such `headers` and
        `cookies`.
        """
        found = self._without_scheme(request.headers.get(self._header))
        if found is None and self._cookie is not None:
            cookies = getattr(request, "cookies", None)
            found = (request.COOKIES if cookies is None else cookies).get(self._cookie)
        return found if found and len(found) <= _MAX_LENGTH else None

    def _without_scheme(self, value: str | None) -> str | None:
        if value is None or self._scheme is None:
            return value
        scheme, _, credential = value.partition(" ")
        return credential.strip() if scheme.lower() == self._scheme.lower() else None
