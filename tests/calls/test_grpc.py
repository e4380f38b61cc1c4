"""gRPC: real servers of grpcio and grpc.aio, and a real client."""

from __future__ import annotations

import asyncio
import threading
from concurrent import futures
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

import usercontext
from tests.calls.serving import named, note, start_later, who
from usercontext import RequestData
from usercontext.calls.grpc import AioUserContext, Rpc, UserContext
from usercontext.testing import RecordingClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROXY = RequestData(include_ip=True, trusted_proxies=["127.0.0.1", "::1"])
METHODS = ["unary", "reads", "writes", "both"]


def find(rpc: Rpc) -> dict[str, str] | None:
    """Find who calls by the metadata."""
    caller = rpc.metadata.get("caller")
    return None if caller is None else {"id": str(caller)}


async def find_async(rpc: Rpc) -> dict[str, str] | None:
    """Find who calls, and await something."""
    await asyncio.sleep(0)
    return find(rpc)


seen: list[str] = []
called_back = threading.Event()


def called_when_over(*_: object) -> None:
    """Note whom a callback has for its user."""
    note()
    seen.append(who())
    called_back.set()


class Shop:
    """Handlers as plain functions."""

    def unary(self, request: bytes, context: Any) -> bytes:
        return who().encode()

    def reads(self, requests: Iterator[bytes], context: Any) -> bytes:
        return ",".join(sorted({who() for _ in requests})).encode()

    def writes(self, request: bytes, context: Any) -> Iterator[bytes]:
        for _ in range(3):
            yield who().encode()

    def both(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for _ in requests:
            yield who().encode()

    def boom(self, request: bytes, context: Any) -> bytes:
        raise RuntimeError("kaboom")

    def boom_late(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield who().encode()
        raise RuntimeError("kaboom")

    def refuse(self, request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.NOT_FOUND, "sold out")
        return b""

    def later(self, request: bytes, context: Any) -> bytes:
        start_later()
        return who().encode()

    def become(self, request: bytes, context: Any) -> bytes:
        usercontext.set_user({"id": request.decode()})
        return who().encode()

    def address(self, request: bytes, context: Any) -> bytes:
        user = usercontext.get_user()
        return str(user and user.ip_address).encode()

    def endless(self, request: bytes, context: Any) -> Iterator[bytes]:
        try:
            while True:
                yield who().encode()
        finally:
            called_when_over()

    def calls_back(self, request: bytes, context: Any) -> bytes:
        context.add_callback(called_when_over)
        return who().encode()


class AioShop(Shop):
    """Handlers as coroutines and generators; `unary_def` and `writes_def` stay plain."""

    unary_def, writes_def = Shop.unary, Shop.writes

    async def unary(self, request: bytes, context: Any) -> bytes:
        before = who()
        await asyncio.sleep(0)
        return f"{before}".encode() if before == who() else b"changed"

    async def reads(self, requests: Any, context: Any) -> bytes:
        return ",".join(sorted({who() async for _ in requests})).encode()

    async def writes(self, request: bytes, context: Any) -> Any:
        for _ in range(3):
            await asyncio.sleep(0)
            yield who().encode()

    async def both(self, requests: Any, context: Any) -> Any:
        async for _ in requests:
            yield who().encode()

    async def boom(self, request: bytes, context: Any) -> bytes:
        raise RuntimeError("kaboom")

    async def boom_late(self, request: bytes, context: Any) -> Any:
        yield who().encode()
        raise RuntimeError("kaboom")

    async def refuse(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "sold out")
        return b""

    async def later(self, request: bytes, context: Any) -> bytes:
        return Shop.later(self, request, context)

    async def become(self, request: bytes, context: Any) -> bytes:
        return Shop.become(self, request, context)

    async def address(self, request: bytes, context: Any) -> bytes:
        return Shop.address(self, request, context)

    async def endless(self, request: bytes, context: Any) -> Any:
        try:
            while True:
                await asyncio.sleep(0.01)
                yield who().encode()
        finally:
            called_when_over()

    async def calls_back(self, request: bytes, context: Any) -> bytes:
        context.add_done_callback(called_when_over)
        return who().encode()


READS = {"reads", "both"}
WRITES = {"writes", "both", "boom_late", "endless", "writes_def"}
MAKE = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def handlers_of(shop: Shop) -> Any:
    """Return a generic handler with every method of a shop."""
    names = [name for name in dir(shop) if not name.startswith("_")]
    methods = {name: MAKE[name in READS, name in WRITES](getattr(shop, name)) for name in names}
    return grpc.method_handlers_generic_handler("Shop", methods)


def start_sync(
    resolver: Any, address: str, *outer: Any, options: RequestData = PROXY
) -> tuple[int, Callable[[], object]]:
    """Start a server of threads; return its port and what stops it."""
    interceptors = [*outer, UserContext(resolver=resolver, request_data=options)]
    server = grpc.server(futures.ThreadPoolExecutor(4), interceptors=interceptors)
    server.add_generic_rpc_handlers((handlers_of(Shop()),))
    port = server.add_insecure_port(address)
    server.start()
    return port, lambda: server.stop(None).wait(10)


def start_aio(
    resolver: Any, address: str, *outer: Any, options: RequestData = PROXY
) -> tuple[int, Callable[[], object]]:
    """Start a server on a loop in a thread; return its port and what stops it."""
    started, ports, loop = threading.Event(), [], asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        interceptors = [*outer, AioUserContext(resolver=resolver, request_data=options)]
        server = grpc.aio.server(interceptors=interceptors)
        server.add_generic_rpc_handlers((handlers_of(AioShop()),))
        ports.append(server.add_insecure_port(address))
        await server.start()
        started.set()
        await stop.wait()
        await server.stop(None)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(10)

    def end() -> None:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()

    return ports[0], end


class Client:
    """A channel, and who calls by it."""

    def __init__(self, target: str) -> None:
        self.channel = grpc.insecure_channel(target)

    def call(self, caller: str | None, method: str, request: bytes = b"x", *more: Any) -> str:
        """Make one RPC of whichever kind; return its answers, each once."""
        metadata = (*(() if caller is None else (("caller", caller),)), *more)
        reads, writes = method in READS, method in WRITES
        kind = f"{'stream' if reads else 'unary'}_{'stream' if writes else 'unary'}"
        rpc = getattr(self.channel, kind)(f"/Shop/{method}")
        sent = iter([request, request]) if reads else request
        found = rpc(sent, metadata=metadata, timeout=20)
        answers = [one.decode() for one in found] if writes else [found.decode()]
        return ",".join(sorted(set(answers)))


@pytest.fixture(autouse=True)
def recorder() -> RecordingClient:
    """Take the reports of the process."""
    seen.clear()
    called_back.clear()
    taken = RecordingClient()
    usercontext.init(None, client=taken)
    return taken


@pytest.fixture(
    scope="module", params=["sync", "aio", "sync, async resolver", "aio, async resolver"]
)
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of a server of each kind."""
    start = start_aio if request.param.startswith("aio") else start_sync
    port, stop = start(find_async if "async" in request.param else find, "127.0.0.1:0")
    made = Client(f"127.0.0.1:{port}")
    yield made
    made.channel.close()
    stop()


@pytest.fixture
def sees_at_once(client: Client, request: pytest.FixtureRequest) -> bool:
    """Whether a handler sees the user without awaiting it."""
    return "aio, async" not in request.node.name


@pytest.mark.parametrize("method", METHODS)
def test_every_rpc_has_its_own_caller(client: Client, method: str, sees_at_once: bool) -> None:
    """Callers alternate over one connection, and each RPC is of who sends it."""
    if not sees_at_once:
        pytest.skip("an async resolver is awaited first")
    callers = ["ada", "bob", None, "ada", None]
    answers = [client.call(caller, method) for caller in callers]
    assert answers == [caller or "nobody" for caller in callers]


def test_callers_at_once(client: Client, sees_at_once: bool) -> None:
    """Forty streams of ten callers at once are never mixed up."""
    if not sees_at_once:
        pytest.skip("an async resolver is awaited first")
    names = [f"user{number % 10}" for number in range(40)]
    with futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda name: client.call(name, "writes"), names))
    assert answers == names


@pytest.mark.parametrize("method", ["boom", "boom_late"])
def test_an_error_names_its_caller(client: Client, recorder: RecordingClient, method: str) -> None:
    """The handler's own exception is reported once, with who called, also late in a stream."""
    for caller in ("ada", None, "bob"):
        with pytest.raises(grpc.RpcError):
            client.call(caller, method)
    assert named(recorder.events) == [
        ("RuntimeError", "ada"),
        ("RuntimeError", None),
        ("RuntimeError", "bob"),
    ]
    assert recorder.events[0]["transaction"] == f"/Shop/{method}"


def test_abort_is_an_answer(client: Client, recorder: RecordingClient) -> None:
    """`abort()` reports nothing, and the client is told what it says."""
    with pytest.raises(grpc.RpcError) as told:
        client.call("ada", "refuse")
    assert told.value.code() is grpc.StatusCode.NOT_FOUND
    assert recorder.events == []


def test_who_is_set_in_one_rpc_is_of_no_other(client: Client) -> None:
    """`set_user()` in a handler names that RPC alone."""
    assert client.call("ada", "become", b"mallory") == "mallory"
    assert client.call(None, "unary") == "nobody"


def test_the_address_is_the_clients(client: Client) -> None:
    """The peer's address is found, and behind a trusted proxy the one that it forwards."""
    assert client.call(None, "address") == "127.0.0.1"
    assert client.call(None, "address", b"", ("x-forwarded-for", "203.0.113.9")) == "203.0.113.9"


def test_a_cancelled_stream_ends_with_its_caller(client: Client, sees_at_once: bool) -> None:
    """What a generator does when its client has gone is of that client."""
    stream = client.channel.unary_stream("/Shop/endless")(b"", metadata=(("caller", "ada"),))
    first = next(stream)
    stream.cancel()
    assert called_back.wait(10)
    assert not sees_at_once or (first, seen) == (b"ada", ["ada"])


def test_a_callback_has_the_user_of_its_rpc(client: Client, sees_at_once: bool) -> None:
    """What is called when an RPC is over still knows whose it was."""
    client.call("ada", "calls_back")
    assert called_back.wait(10)
    assert not sees_at_once or seen == ["ada"]


def test_plain_functions_on_an_aio_server() -> None:
    """They run in a thread, with the caller of their RPC."""
    port, stop = start_aio(find, "127.0.0.1:0")
    client = Client(f"127.0.0.1:{port}")
    methods, callers = ("unary_def", "writes_def"), ("ada", None)
    answers = [client.call(caller, method) for method in methods for caller in callers]
    client.channel.close()
    stop()
    assert answers == ["ada", "nobody", "ada", "nobody"]


@pytest.mark.parametrize(
    ("target", "address"), [("[::1]:0", "::1"), ("unix:{path}", "None")], ids=["ipv6", "unix"]
)
def test_other_peers(target: str, address: str, tmp_path: Any) -> None:
    """An address of IPv6 is found, and over a socket of the file system there is none."""
    path = target.format(path=tmp_path / "shop")
    port, stop = start_sync(find, path)
    client = Client(path if path.startswith("unix") else f"[::1]:{port}")
    answer = client.call("ada", "address")
    client.channel.close()
    stop()
    assert answer == address


@pytest.mark.parametrize("start", [start_sync, start_aio])
def test_a_sentry_scope_of_the_process_is_left_alone(start: Any) -> None:
    """With sentry-sdk's client, who calls is never written where later callers read."""
    import sentry_sdk
    from sentry_sdk.transport import Transport

    from usercontext.clients.sentry_sdk import SentrySdkClient

    sent: list[Any] = []

    class Kept(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            sent.append(envelope.get_event())

    sentry_sdk.init("https://k@127.0.0.1:1/1", transport=Kept)
    usercontext.init(None, clients=[SentrySdkClient()])
    calls = [
        (name, method) for name in ("ada", None) for method in ("becomes", "boom", "boom_late")
    ]
    call_all(start, (), PROXY, *calls)
    told = [(event.get("user") or {}).get("id") for event in sent]
    scopes = (sentry_sdk.get_global_scope(), sentry_sdk.get_isolation_scope())
    sentry_sdk.init()
    assert told == ["ada", "ada", None, None]
    assert [scope._user for scope in scopes] == [None, None]


def call_all(start: Any, outer: Any, options: RequestData, *calls: tuple[str | None, str]) -> None:
    """Start a server, make calls one after another, and stop it."""
    port, stop = start(find, "127.0.0.1:0", *outer, options=options)
    client = Client(f"127.0.0.1:{port}")
    for name, method in calls:
        with suppress(grpc.RpcError):
            client.call(name, method)
    client.channel.close()
    stop()


def spans_of(start: Any, options: RequestData, *calls: tuple[str, str]) -> list[Any]:
    """Make calls to a server that OpenTelemetry's own interceptor traces; return the spans."""
    from opentelemetry.instrumentation import grpc as traced
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from usercontext.clients.opentelemetry import OpenTelemetryClient

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    usercontext.init(None, clients=[OpenTelemetryClient(tracer_provider=provider)])
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    make = traced.server_interceptor if start is start_sync else traced.aio_server_interceptor
    call_all(start, [make(provider)], options, *calls)
    return list(exporter.get_finished_spans())


@pytest.mark.parametrize("start", [start_sync, start_aio])
def test_opentelemetry_names_the_caller_on_the_server_span(start: Any) -> None:
    """The span that OpenTelemetry's own interceptor has opened names who calls."""
    calls = [(name, method) for name in ("ada", "bob") for method in ("unary", "writes", "boom")]
    spans = spans_of(start, PROXY, *calls)
    assert [span.attributes.get("user.id") for span in spans] == ["ada"] * 3 + ["bob"] * 3


ADDRESSES = ("net.peer.ip", "client.address")


@pytest.mark.parametrize("start", [start_sync, start_aio])
@pytest.mark.parametrize(
    ("options", "left"),
    [
        (RequestData(), [None, None]),
        (PROXY, ["127.0.0.1", "127.0.0.1"]),
        (RequestData(include_ip=True, anonymize_ip="mask"), [None, "127.0.0.0"]),
    ],
    ids=["without", "with", "anonymised"],
)
def test_the_address_on_the_server_span(start: Any, options: RequestData, left: list[str]) -> None:
    """Without `include_ip` the span loses the peer that its instrumentation wrote."""
    for span in spans_of(start, options, ("ada", "unary"), ("ada", "writes")):
        assert [span.attributes.get(name) for name in ADDRESSES] == left
