"""Ready resolvers for tokens, sessions and API keys, whatever the framework."""

from usercontext.resolvers.api_key import ApiKey
from usercontext.resolvers.carried import CarriedUser, first_of
from usercontext.resolvers.jwt import JwtClaims
from usercontext.resolvers.oidc import OidcSession

__all__ = ["ApiKey", "CarriedUser", "JwtClaims", "OidcSession", "first_of"]
