"""The calls of every library over every transport, in one form for the matrix."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tests.calls.serving import bearer, has_noted, serving, token, who

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["TRANSPORTS", "Transport"]


class Transport:
    """One way to call a library's server.

    Attributes:
        package: the library's distribution.
        name: the transport.
        callers: who calls; "" is nobody.
    """

    package = ""
    name = ""

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve what is called."""
        yield

    def call(self, caller: str | None, what: str) -> str:
        """Make a call of `who`, `slow`, `boom` or `later`; return whom it had for its user."""
        raise NotImplementedError

    def stream(self, caller: str | None) -> list[str] | None:
        """Return whom each part of a stream had for its user; None where there are no streams."""
        del caller
        return None

    def cancel(self, caller: str | None) -> bool:
        """Begin a call and cancel it; False where nothing can be cancelled."""
        del caller
        return False


# --- MCP ------------------------------------------------------------------------------------------


class Mcp(Transport):
    """The official SDK, or fastmcp; all calls in a session that somebody else has opened."""

    def __init__(self, package: str, name: str) -> None:
        self.package = package
        self.name = name
        self._local = threading.local()

    @contextmanager
    def serving(self) -> Iterator[None]:
        from usercontext.asgi import UserContextMiddleware

        module = import_module(f"tests.calls.test_{self.package}")
        server = module.MCPServer("shop") if self.package == "mcp" else None
        if server is None:
            server = module.server_of()
        else:
            module.add_tools(server, module.ToolError)
        module.UserContext(server)
        app = module.app_of(server, self.name)
        self._opened: list[Any] = []
        with serving(UserContextMiddleware(app, resolver=bearer)) as self._base:
            yield
            for session in self._opened:
                session.close()

    def _session(self) -> Any:
        """Return a session of this thread's own: the streams of SSE are not to be mixed."""
        from tests.calls.mcp_sessions import Session, SseSession

        if not hasattr(self._local, "session"):
            kind = SseSession if self.name == "sse" else Session
            self._local.session = kind(self._base, "mallory")
            self._opened.append(self._local.session)
        return self._local.session

    def call(self, caller: str | None, what: str) -> str:
        arguments = {"others": 3} if what == "slow" else {}
        return str(self._session().tool(caller, what, **arguments))

    def stream(self, caller: str | None) -> list[str]:
        return self._session().tool(caller, "slow", others=5).split(",")

    def cancel(self, caller: str | None) -> bool:
        if self.name == "stateless":
            return False
        session = self._session()
        asked = threading.Thread(
            target=lambda: session.post(caller, "tools/call", {"name": "endless", "arguments": {}}),
            daemon=True,
        )
        number = next(session.numbers) + 1
        asked.start()
        for _ in range(50):
            session.post(caller, "notifications/cancelled", {"requestId": number}, is_request=False)
            if has_noted.wait(0.1):
                # 1.x answers what was cancelled, too, by the stream of this session.
                del self._local.session
                return True
        return False


# --- gRPC -----------------------------------------------------------------------------------------


class Grpc(Transport):
    """grpcio, with a server of threads or of a loop; all callers by one channel."""

    package = "grpcio"

    def __init__(self, name: str) -> None:
        self.name = name

    @contextmanager
    def serving(self) -> Iterator[None]:
        from tests.calls import test_grpc

        start = test_grpc.start_aio if self.name == "grpc.aio" else test_grpc.start_sync
        port, stop = start(test_grpc.find, "127.0.0.1:0")
        self._client = test_grpc.Client(f"127.0.0.1:{port}")
        yield
        self._client.channel.close()
        stop()

    def call(self, caller: str | None, what: str) -> str:
        import grpc

        with suppress(grpc.RpcError):
            return str(self._client.call(caller, {"who": "unary", "slow": "both"}.get(what, what)))
        return "failed"

    def stream(self, caller: str | None) -> list[str]:
        return str(self._client.call(caller, "writes")).split(",")

    def cancel(self, caller: str | None) -> bool:
        metadata = () if caller is None else (("caller", caller),)
        stream = self._client.channel.unary_stream("/Shop/endless")(b"", metadata=metadata)
        next(stream)
        stream.cancel()
        return has_noted.wait(10)


# --- GraphQL --------------------------------------------------------------------------------------

FIELDS = {"slow": "whoSlowly"}


class GraphqlHttp(Transport):
    """Operations over HTTP."""

    name = "HTTP"

    def __init__(self, package: str, module: str, make: Callable[[Any], Any]) -> None:
        self.package = package
        self._module = module
        self._make = make

    @contextmanager
    def serving(self) -> Iterator[None]:
        from usercontext.asgi import UserContextMiddleware

        app = self._make(import_module(f"tests.calls.{self._module}"))
        with serving(UserContextMiddleware(app, resolver=bearer)) as self._base:
            yield

    def call(self, caller: str | None, what: str) -> str:
        from tests.calls.graphql_promises import ask

        field = FIELDS.get(what, what)
        return str((ask(self._base, caller, f"{{ {field} }}").get("data") or {}).get(field))


class GraphqlSocket(GraphqlHttp):
    """Operations over websockets, each of which asks by a connection of its own."""

    def __init__(self, package: str, module: str, make: Any, protocol: str) -> None:
        super().__init__(package, module, make)
        self.name = protocol
        self._protocol = protocol

    def _ask(self, caller: str | None, query: str) -> list[str]:
        from tests.calls.graphql_promises import ask_by_websocket

        return asyncio.run(ask_by_websocket(self._base, caller, query, None, self._protocol))

    def call(self, caller: str | None, what: str) -> str:
        return ",".join(self._ask(caller, f"{{ {FIELDS.get(what, what)} }}"))

    def stream(self, caller: str | None) -> list[str]:
        return self._ask(caller, "subscription { ticks }")

    def cancel(self, caller: str | None) -> bool:
        asyncio.run(self._leave(caller))
        return has_noted.wait(10)

    async def _leave(self, caller: str | None) -> None:
        from websockets.asyncio.client import connect

        from tests.calls.graphql_promises import WORDS

        url, start = self._base.replace("http", "ws") + "/", WORDS[self._protocol][0]
        async with connect(
            url, subprotocols=[self._protocol], additional_headers=token(caller)
        ) as socket:
            await socket.send(json.dumps({"type": "connection_init", "payload": {}}))
            await socket.recv()
            payload = {"query": "subscription { endless }"}
            await socket.send(json.dumps({"type": start, "id": "1", "payload": payload}))
            await socket.recv()


def _strawberry(module: Any) -> Any:
    schema = module.schema_of()
    module.UserContext(schema)
    return module.GraphQL(schema)


def _ariadne_by_old_protocol(module: Any) -> Any:
    app = module.GraphQL(module.SCHEMA)
    module.UserContext(app)
    return app


def _graphene(module: Any) -> Any:
    return module.GraphQLApp(module.schema_of())


NEW, OLD = "graphql-transport-ws", "graphql-ws"


# --- Connect, Socket.IO, AWS Lambda ---------------------------------------------------------------


class Connect(Transport):
    """connectrpc, over ASGI or WSGI."""

    package = "connectrpc"

    def __init__(self, name: str) -> None:
        self.name = name

    @contextmanager
    def serving(self) -> Iterator[None]:
        from tests.calls import test_connectrpc

        with test_connectrpc.served(self.name.lower()) as self._base:
            yield

    def call(self, caller: str | None, what: str) -> str:
        from tests.calls import test_connectrpc

        name = {"slow": "Who"}.get(what, what.capitalize())
        return ",".join(test_connectrpc.call(self._base, caller, name))

    def stream(self, caller: str | None) -> list[str]:
        from tests.calls import test_connectrpc

        return test_connectrpc.call(self._base, caller, "Ticks")

    def cancel(self, caller: str | None) -> bool:
        from tests.calls import test_connectrpc

        if self.name == "WSGI":
            return False
        test_connectrpc.call(self._base, caller, "Endless", timeout_ms=300)
        return has_noted.wait(10)


class Socketio(Transport):
    """python-socketio, by one transport of its client."""

    package = "python-socketio"

    def __init__(self, name: str) -> None:
        self.name = name

    @contextmanager
    def serving(self) -> Iterator[None]:
        from tests.calls import test_socketio

        kind, self._by = self.name.split(", ")
        with test_socketio.served(kind.lower()) as self._base:
            yield

    def call(self, caller: str | None, what: str) -> str:
        return asyncio.run(self._call(caller, {"slow": "who"}.get(what, what)))

    async def _call(self, caller: str | None, what: str) -> str:
        from tests.calls import test_socketio

        transports = None if self._by == "upgrade" else [self._by]
        async with test_socketio.Clients(self._base, transports) as clients:
            client = await clients.open(caller)
            try:
                return str(await client.call(what, timeout=0.5 if what == "boom" else 10))
            except Exception:
                return "failed"


class Lambda(Transport):
    """Handlers of AWS Lambda, called as its runtime does: one invocation after another."""

    package = "usercontext"
    name = "AWS Lambda"

    @contextmanager
    def serving(self) -> Iterator[None]:
        from tests.calls.serving import start_later
        from usercontext.calls.aws_lambda import UserContext

        def handle(event: Any, context: object) -> str:
            del context
            if event["what"] == "boom":
                raise RuntimeError("kaboom")
            if event["what"] == "later":
                start_later()
            return who()

        def find(event: Any) -> Any:
            return None if event["caller"] is None else {"id": event["caller"]}

        self._handle = UserContext(handle, resolver=find)
        yield

    def call(self, caller: str | None, what: str) -> str:
        with suppress(RuntimeError):
            return str(self._handle({"caller": caller, "what": what}, None))
        return "failed"


TRANSPORTS: list[Transport] = [
    *(Mcp("mcp", name) for name in ("stateful", "stateless", "json", "sse")),
    *(Mcp("fastmcp", name) for name in ("stateful", "stateless", "json", "sse")),
    Grpc("grpcio"),
    Grpc("grpc.aio"),
    GraphqlHttp("strawberry-graphql", "test_strawberry", _strawberry),
    GraphqlSocket("strawberry-graphql", "test_strawberry", _strawberry, NEW),
    GraphqlHttp("ariadne", "test_ariadne", lambda module: module.app_of()),
    GraphqlSocket("ariadne", "test_ariadne", lambda module: module.app_of(), NEW),
    GraphqlSocket("ariadne", "test_ariadne", _ariadne_by_old_protocol, OLD),
    GraphqlHttp("graphene", "test_graphene", _graphene),
    GraphqlSocket("graphene", "test_graphene", _graphene, OLD),
    Connect("ASGI"),
    Connect("WSGI"),
    *(Socketio(f"ASGI, {by}") for by in ("polling", "websocket", "upgrade")),
    Socketio("WSGI, polling"),
    Lambda(),
]
