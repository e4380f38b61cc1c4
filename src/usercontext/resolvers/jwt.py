"""JSON Web Tokens: the claims of those that are verified, and of no other."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from usercontext.checks import listed
from usercontext.diagnostics import failure
from usercontext.exceptions import ConfigurationError
from usercontext.optional import importing
from usercontext.resolvers._claims import checked_claims, user_of_claims
from usercontext.resolvers._credential import Credential

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["JwtClaims"]

Names: TypeAlias = "str | Sequence[str] | None"

# A server of keys that does not answer is left alone for so long.
_RETRY_SECONDS: Final = 30.0


class JwtClaims:
    """Resolve the user by the claims of a JSON Web Token, once its signature is verified.

    A token that is expired, forged, malformed, or meant for another audience names nobody, and
    nothing of it is logged. It is the app that refuses it: this is about reports alone.

    Args:
        key: the key to verify with, as PyJWT takes it, or a `jwt.PyJWKClient` that fetches keys.
            It fetches inside of the request whose report needs the user: give it a short
            `timeout`, and an ASGI app `resolver_thread=True`.
        algorithms: those that your issuer signs with, such as ["RS256"]; others are refused.
        issuer: whose tokens are taken (`iss`), or several; None takes anybody's with the
            key.
        audience: who they are for (`aud`), one or several; None takes them for any audience.
        claims: the user's fields, each with its claim; by default id, username, email and name
            from `sub`, `preferred_username`, `email` and `name`. An email whose `email_verified`
            is false is left out.
        header: the header that holds the token.
        scheme: the word before it; None where the header holds nothing else.
        cookie: a cookie that is read where the header has none.
        require: claims that a token must have; by default it must expire.
        leeway: seconds by which clocks may differ.

    Raises:
        ConfigurationError: an option is wrong, or would let forged tokens pass; the message names
            the fix.
        MissingDependencyError: PyJWT is not installed.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        key: Any,
        *,
        algorithms: Sequence[str],
        issuer: Names,
        audience: Names,
        claims: Mapping[str, str] | None = None,
        header: str = "authorization",
        scheme: str | None = "Bearer",
        cookie: str | None = None,
        require: Sequence[str] = ("exp",),
        leeway: float = 0,
    ) -> None:
        with importing("PyJWT", "jwt", purpose="JwtClaims"):
            import jwt
        self._jwt: Any = jwt
        self._algorithms = _checked_algorithms(algorithms)
        self._client: Any = key if isinstance(key, jwt.PyJWKClient) else None
        #: Whether a token is verified without fetching a key.
        self.asks_nobody: bool = self._client is None
        self._key: Any = self._checked_key(key)
        self._credential = Credential(header, scheme, cookie)
        self._claims = checked_claims(claims)
        self._retry_at = self._refresh_at = 0.0
        self._options: dict[str, Any] = {
            "issuer": _checked_names("issuer", issuer),
            "audience": _checked_names("audience", audience),
            "leeway": leeway,
            "options": {
                "require": list(require),
                "verify_aud": audience is not None,
                # PyJWT takes no number for an id, which many issuers write.
                "verify_sub": False,
                "verify_jti": False,
            },
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}(algorithms={self._algorithms!r})"

    def __call__(self, request: Any) -> dict[str, Any] | None:
        """Return the user that the token of a request names, or None."""
        token = self._credential.of(request)
        return None if token is None else user_of_claims(self._verified(token), self._claims)

    def _verified(self, token: str) -> dict[str, Any] | None:
        """Return the claims of a token that is right in every respect, or None."""
        try:
            key = self._key if self._client is None else self._fetched_key(token)
            if key is None:
                return None
            claims: dict[str, Any] = self._jwt.decode(
                token, key, algorithms=self._algorithms, **self._options
            )
        except self._jwt.InvalidTokenError:
            return None
        except Exception:  # noqa: BLE001 - whatever a forger makes of it, it is not a user
            failure("JwtClaims", "a token could not be verified: this request has no user")
            return None
        return claims

    def _fetched_key(self, token: str) -> Any:
        """Return the key that a token names; one that cannot be right has nothing fetched."""
        head = self._jwt.get_unverified_header(token)
        name = head.get("kid")
        if head.get("alg") not in self._algorithms or monotonic() < self._retry_at:
            return None
        try:
            found = _named(name, self._client.get_signing_keys())
            if found is None and monotonic() >= self._refresh_at:
                # An issuer that has changed its keys; or somebody who makes names up, who is not
                # to have the keys fetched again for each of them.
                self._refresh_at = monotonic() + _RETRY_SECONDS
                found = _named(name, self._client.get_signing_keys(refresh=True))
        except Exception:
            self._retry_at = monotonic() + _RETRY_SECONDS
            raise
        return found

    def _checked_key(self, key: Any) -> Any:
        """Return a key as PyJWT uses it, or raise the ConfigurationError that mends it."""
        if isinstance(key, self._jwt.PyJWKClient):
            if self._algorithms[0].startswith("HS"):
                raise ConfigurationError(
                    "key fetches keys that everybody can, and algorithms takes them for secrets: "
                    "name your issuer's"
                )
            return None
        if isinstance(key, self._jwt.PyJWK) and key.algorithm_name in self._algorithms:
            return key
        prepared = None
        for name in self._algorithms:
            try:
                prepared = self._jwt.get_algorithm_by_name(name).prepare_key(key)
            except NotImplementedError:
                raise ConfigurationError(
                    f"algorithms names {name!r:.80}, which PyJWT does not know: see its list, or "
                    "install cryptography for all but HS256, HS384 and HS512"
                ) from None
            except Exception:  # noqa: BLE001 - the text may hold the key
                raise ConfigurationError(
                    f"key is not a key for {name}: give the secret for HS algorithms, and the "
                    "public key (PEM) or a PyJWKClient for the others"
                ) from None
        return prepared


def _named(name: object, keys: list[Any]) -> Any:
    return next((key for key in keys if key.key_id == name), None)


def _checked_algorithms(algorithms: object) -> list[str]:
    """Refuse what lets forged tokens pass (RFC 8725, 3.1 and 3.2)."""
    names = list(listed("algorithms", algorithms, "names", '["RS256"]'))
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigurationError('algorithms must name your issuer\'s, such as ["RS256"]')
    if any(name.lower() == "none" for name in names):
        raise ConfigurationError(
            'algorithms has "none", with which anybody can write a token: name your issuer\'s'
        )
    if len({name.startswith("HS") for name in names}) > 1:
        raise ConfigurationError(
            "algorithms mixes HS with others: a public key would be taken for a secret, which "
            "everybody knows; name your issuer's"
        )
    return names


def _checked_names(option: str, names: Names) -> Names:
    if names is None:
        return None
    given = [names] if isinstance(names, str) else names
    if (
        not isinstance(given, list | tuple | set | frozenset)
        or not all(isinstance(name, str) and name for name in given)
        or not given
    ):
        raise ConfigurationError(
            f"{option} must be a name, a list of names, or None to take any, not {names!r:.80}"
        )
    return names if isinstance(names, str) else list(given)
