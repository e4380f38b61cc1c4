"""How apps of every framework are wrapped, checked by type checkers and never run."""

from __future__ import annotations

from typing import Any, assert_type

from usercontext.frameworks import (
    aiohttp,
    blacksheep,
    bottle,
    channels,
    connexion,
    django,
    django_bolt,
    emmett,
    falcon,
    litestar,
    pyramid,
    quart,
    robyn,
    sanic,
    starlette,
    tornado,
)
from usercontext.types import Resolver

# Each is checked, whether or not its framework is installed beside the type checker.
app: Any = None

ready: list[Resolver] = [
    aiohttp.request_user,
    blacksheep.request_user,
    bottle.request_user,
    channels.scope_user,
    connexion.request_user,
    django.request_user,
    falcon.request_user,
    litestar.request_user,
    pyramid.request_user,
    quart.request_user,
    sanic.request_user,
    starlette.request_user,
    tornado.request_user,
]

aiohttp.setup(app, resolver=aiohttp.request_user)
aiohttp.UserContext(resolver=aiohttp.request_user, resolve="eager")
blacksheep.UserContext(app, resolver=blacksheep.request_user)
bottle.UserContext(resolver=bottle.request_user)
channels.UserContext(app, resolver=channels.scope_user)
connexion.UserContext(app, resolver=connexion.request_user)
assert_type(django_bolt.UserContext(resolver=django.request_user), type[Any])
emmett.UserContext(app, resolver=str)
falcon.UserContext(app, resolver=falcon.request_user)
litestar.UserContext(resolver=litestar.request_user)
pyramid.includeme(app)
quart.UserContext(app, resolver=quart.request_user)
robyn.UserContext(app, resolver=str)
sanic.UserContext(app, resolver=sanic.request_user)
starlette.UserContext(app, resolver=starlette.request_user)
tornado.UserContext(app, resolver=tornado.request_user)
django.UserContextMiddleware(app)

aiohttp.setup(app, resolvers=[])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
bottle.UserContext(resolvers=[])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
channels.UserContext(app, resolvers=[])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
litestar.UserContext(resolvers=[])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
quart.UserContext(app, resolve="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
sanic.UserContext(app, resolver="me")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
tornado.UserContext(app, resolvers=[])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
