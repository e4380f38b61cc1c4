"""Ready resolvers for tokens, sessions and API keys, whatever the framework."""

from usercontext.resolvers.api_key import ApiKey
from usercontext.resolvers.jwt import JwtClaims
from usercontext.resolvers.oidc import OidcSession

__all__ = ["ApiKey", "JwtClaims", "OidcSession"]
