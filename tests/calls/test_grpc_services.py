"""gRPC between two of our own services: real servers and channels, sync and async."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import itsdangerous
import pytest

import usercontext
from usercontext.calls.grpc import AioUserContext, UserContext
from usercontext.carried import HEADER, CarriedIdentity
from usercontext.resolvers import CarriedUser
from usercontext.services.grpc import CarryingInterceptor, aio_interceptors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

assert itsdangerous.__name__, "what these tests are skipped without"

ADA = {"id": "ada"}
CARRIED = CarriedIdentity(keys=["a key of thirty-two bytes or more"], audience="shop")
KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]


def believing(**options: Any) -> CarriedUser:
    """Return the resolver of a service that is called by this machine."""
    given = {"trusted_proxies": ["127.0.0.1"], "hosts": ["localhost"], **options}
    return CarriedUser(CARRIED, **given)


def _who() -> bytes:
    user = usercontext.get_user()
    return b"nobody" if user is None else str(user.id).encode()


def _answer(_request: Any, _context: Any) -> bytes:
    return _who()


def _stream(_request: Any, _context: Any) -> Iterator[bytes]:
    yield _who()


async def _answer_async(_request: Any, _context: Any) -> bytes:
    return _who()


async def _stream_async(_request: Any, _context: Any) -> AsyncIterator[bytes]:
    yield _who()


def handlers(answer: Any, stream: Any) -> Any:
    """Return a service with a method for each kind of call."""
    methods = {
        kind: getattr(grpc, f"{kind}_rpc_method_handler")(
            stream if kind.endswith("stream") else answer
        )
        for kind in KINDS
    }
    return grpc.method_handlers_generic_handler("shop", methods)


@contextmanager
def serving(resolver: Any) -> Iterator[str]:
    """Run a server, and return where it is."""
    interceptors = [UserContext(resolver=resolver)]
    server = grpc.server(ThreadPoolExecutor(2), interceptors=interceptors)
    server.add_generic_rpc_handlers([handlers(_answer, _stream)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def ask(address: str, *, kind: str = "unary_unary", metadata: Any = None) -> str:
    """Call a server once, and return who the user is there."""
    carrying = CarryingInterceptor("http://localhost", carried=CARRIED)
    with grpc.insecure_channel(address) as channel:
        call = getattr(grpc.intercept_channel(channel, carrying), kind)(f"/shop/{kind}")
        request: Any = iter([b""]) if kind.startswith("stream") else b""
        answer = call(request, metadata=metadata)
        return (next(answer) if kind.endswith("stream") else answer).decode()


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_knows_the_user(kind: str) -> None:
    """Each kind of call carries its user, and a call of nobody's carries nobody."""
    with serving(believing()) as address:
        with usercontext.isolation_scope(user=ADA):
            assert ask(address, kind=kind) == "ada"
        assert ask(address, kind=kind) == "nobody"


@pytest.mark.parametrize("kind", KINDS)
def test_an_async_service_knows_the_user(kind: str) -> None:
    """Each kind of call of grpc.aio carries its user, whose async resolver is awaited."""

    async def find(_request: object) -> dict[str, str]:
        return ADA

    @asynccontextmanager
    async def serving_async() -> AsyncIterator[str]:
        server = grpc.aio.server(interceptors=[AioUserContext(resolver=believing())])
        server.add_generic_rpc_handlers([handlers(_answer_async, _stream_async)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        yield f"127.0.0.1:{port}"
        await server.stop(None)

    async def requests() -> AsyncIterator[bytes]:
        yield b""

    async def call() -> str:
        interceptors = aio_interceptors("http://localhost", carried=CARRIED)
        async with (
            serving_async() as address,
            grpc.aio.insecure_channel(address, interceptors=interceptors) as channel,
        ):
            with usercontext.isolation_scope(resolver=find):
                request: Any = requests() if kind.startswith("stream") else b""
                answer = getattr(channel, kind)(f"/shop/{kind}")(request)
                if kind.endswith("stream"):
                    answer = anext(aiter(answer))
                return str((await answer).decode())

    assert asyncio.run(call()) == "ada"


def test_a_line_of_the_apps_own_is_replaced() -> None:
    """Metadata that was copied from another call names nobody."""
    copied = CARRIED.sign(ADA, ("host", "localhost"))
    with serving(believing()) as address:
        assert ask(address, metadata=[(HEADER, copied), ("other", "kept")]) == "nobody"


def test_another_service_does_not_believe_it() -> None:
    """What was signed for one host is refused by another."""
    other = believing(hosts=["billing.internal"])
    with serving(other) as address, usercontext.isolation_scope(user=ADA):
        assert ask(address) == "nobody"


def test_a_stranger_is_not_believed() -> None:
    """A peer that is not one of trusted_proxies is refused."""
    strict = believing(trusted_proxies=["10.0.0.0/8"])
    with serving(strict) as address, usercontext.isolation_scope(user=ADA):
        assert ask(address) == "nobody"


def test_plain_channels_are_for_this_machine() -> None:
    """A host without credentials is refused, with what to write."""
    with pytest.raises(usercontext.ConfigurationError, match="allow_plain_http=True"):
        CarryingInterceptor("http://billing.internal")
    with pytest.raises(usercontext.ConfigurationError, match="is not an origin"):
        aio_interceptors("https://*.internal")
