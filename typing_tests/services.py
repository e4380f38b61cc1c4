"""How another service is told the user, and resolvers that need none of the app's code."""

from __future__ import annotations

from typing import Any

import httpx

from usercontext.carried import CarriedIdentity
from usercontext.resolvers import ApiKey, CarriedUser, JwtClaims, OidcSession, first_of
from usercontext.services.aiohttp import CarryingMiddleware
from usercontext.services.grpc import CarryingInterceptor, aio_interceptors
from usercontext.services.httpx import CarryingTransport
from usercontext.services.requests import CarryingAdapter
from usercontext.types import Resolver

HOSTS = ["billing.internal"]

client = httpx.Client(transport=CarryingTransport(hosts=HOSTS))
async_client = httpx.AsyncClient(transport=CarryingTransport(hosts=HOSTS, allow_plain_http=True))
CarryingAdapter(hosts=HOSTS, max_retries=3)
CarryingMiddleware(hosts=HOSTS)
CarryingInterceptor("billing.internal:443")
interceptors: list[Any] = aio_interceptors("billing.internal:443")

CarryingTransport()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
CarryingTransport(hosts=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

ready: list[Resolver] = [
    ApiKey(hash_key="k" * 16),
    CarriedUser(CarriedIdentity(keys=["k" * 32]), trusted_proxies=["10.0.0.0/8"]),
    JwtClaims("a secret of at least 32 bytes....", algorithms=["HS256"], issuer="i", audience="a"),
    OidcSession(key="user"),
    first_of(OidcSession(), ApiKey(hash_key="k" * 16)),
]
