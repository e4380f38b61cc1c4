"""Count the instructions that a call costs over the bare library, and check the gate.

    python benchmarks/overhead_calls.py

A tool call of MCP, a unary RPC of gRPC (grpcio and grpc.aio), an event of Socket.IO and an
invocation of AWS Lambda, each driven where the library hands it over, with and without a
`UserContext`. What a library that is not installed costs is left out. Instructions are counted by
`valgrind --tool=callgrind` around the loop alone, as in `overhead.py`. Exit status 1 if a call
costs more than 1.5 times what the ASGI middleware costs a request.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from overhead import SWITCH_SOURCE

__all__ = ["main"]

GATE = 1.5

#: Of each kind of call: the package that it needs.
KINDS = {"asgi": "usercontext", "grpc": "grpc", "grpc.aio": "grpc", "mcp": "mcp"} | {
    "socketio": "socketio",
    "aws_lambda": "usercontext",
}

PROGRAM = r"""
import asyncio, ctypes, gc, sys, usercontext
from types import SimpleNamespace

kind, ours, times = sys.argv[1], sys.argv[2] == "ours", int(sys.argv[3])
usercontext.init(None)
SCOPE = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [],
         "client": ("127.0.0.1", 5000)}
DETAILS = SimpleNamespace(method="/shop.Orders/Get", invocation_metadata=())
CONTEXT = SimpleNamespace(invocation_metadata=lambda: (("authorization", "Bearer x"),),
                          peer=lambda: "ipv4:127.0.0.1:5000", add_callback=lambda callback: True)

def find(request):
    return {"id": 1}

async def send(message): pass

def asgi():
    from usercontext.asgi import UserContextMiddleware
    async def app(scope, receive, send): pass
    served = UserContextMiddleware(app, resolver=find) if ours else app
    return lambda: served(dict(SCOPE), None, send)

def grpc():
    import grpc
    from usercontext.calls.grpc import UserContext
    def handle(request, context): return request
    handler = grpc.unary_unary_rpc_method_handler(handle)
    interceptor = UserContext(resolver=find)
    def call():
        found = interceptor.intercept_service(lambda _: handler, DETAILS) if ours else handler
        return found.unary_unary(b"", CONTEXT)
    return call

def grpc_aio():
    import grpc
    from usercontext.calls.grpc import AioUserContext
    async def handle(request, context): return request
    handler = grpc.unary_unary_rpc_method_handler(handle)
    interceptor = AioUserContext(resolver=find)
    async def proceed(_): return handler
    async def call():
        found = await interceptor.intercept_service(proceed, DETAILS) if ours else handler
        return await found.unary_unary(b"", CONTEXT)
    return call

def mcp():
    from mcp.server import Server
    from usercontext.calls.mcp import UserContext
    from usercontext.asgi import UserContextMiddleware
    own = UserContext(Server("shop"))
    scope = dict(SCOPE)
    async def keep(inner, receive, send): scope.update(inner)
    asyncio.run(UserContextMiddleware(keep, resolver=find)(dict(SCOPE), None, send))
    request = SimpleNamespace(scope=scope)
    context = SimpleNamespace(request=request, method="tools/call", params={"name": "who"})
    async def call_next(_): return {}
    if not ours:
        return lambda: call_next(context)
    if hasattr(Server("x"), "middleware"):
        return lambda: own._serve(context, call_next)
    from usercontext.calls.mcp import _served
    async def call():
        return await _served(own.running(request, "tools/call", "who"), call_next, context)
    return call

def socketio():
    import socketio
    from usercontext.calls.socketio import UserContext
    server = socketio.AsyncServer(async_mode="asgi")
    @server.on("message")
    async def message(sid, data): pass
    @server.on("connect")
    async def connect(sid, environ, auth): pass
    if ours:
        UserContext(server, resolver=find)
    environ = {"asgi.scope": dict(SCOPE)}
    asyncio.run(server._trigger_event("connect", "/", "sid", environ, None))
    return lambda: server._trigger_event("message", "/", "sid", {})

def aws_lambda():
    from usercontext.calls.aws_lambda import UserContext
    def handle(event, context): return event
    handler = UserContext(handle, resolver=find) if ours else handle
    context = SimpleNamespace(function_name="shop", get_remaining_time_in_millis=lambda: 1000)
    return lambda: handler({"source": "aws.events"}, context)

make = globals()[kind.replace(".", "_")]
call = make()
switch = ctypes.CDLL(sys.argv[4])

async def run():
    for _ in range(50):
        await call()
    switch.start_counting()
    for _ in range(times):
        await call()
    switch.stop_counting()

gc.disable()
if kind in ("grpc", "aws_lambda"):
    for _ in range(50):
        call()
    switch.start_counting()
    for _ in range(times):
        call()
    switch.stop_counting()
else:
    asyncio.run(run())
"""


def instructions(kind: str, which: str, times: int = 400) -> float:
    """Return the instructions of one call."""
    with tempfile.TemporaryDirectory() as folder:
        out, switch = Path(folder) / "out", _compiled(Path(folder))
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no"]
        # No bytecode is written: the first run would else do more than the second.
        environ = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
        environ |= {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
        program = [sys.executable, "-c", PROGRAM, kind, which, str(times), str(switch)]
        subprocess.run(
            [*command, f"--callgrind-out-file={out}", *program],
            check=True,
            capture_output=True,
            env=environ,
        )
        text = out.with_name("out.1").read_text()  # what the switch asked for
    found = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) / times


def _compiled(folder: Path) -> Path:
    """Return the library that switches the counting on and off; needs a compiler."""
    source, library = folder / "switch.c", folder / "switch.so"
    source.write_text(SWITCH_SOURCE)
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    return library


def _added(kind: str) -> float:
    return instructions(kind, "ours") - instructions(kind, "bare")


def main() -> int:
    """Measure, print a table, and return whether the gate was missed."""
    kinds = [kind for kind, package in KINDS.items() if find_spec(package)]
    with ThreadPoolExecutor(2) as pool:
        added = dict(zip(kinds, pool.map(_added, kinds), strict=True))
    print("| call | instructions over the bare library | times the ASGI middleware |")
    print("| --- | --- | --- |")
    for kind, count in added.items():
        print(f"| {kind} | {count:,.0f} | {count / added['asgi']:.2f} |")
    return int(max(added.values()) > GATE * added["asgi"])


if __name__ == "__main__":
    sys.exit(main())
