"""A shop as a gRPC service, with a user for every RPC."""

import os
from concurrent import futures
from typing import Any

import grpc

import usercontext
from usercontext.calls.grpc import Rpc, UserContext

PRICES = {b"1": b"12.50"}


def user_of(rpc: Rpc) -> dict[str, str] | None:
    """Return who calls; a shop of your own verifies a token in the metadata."""
    name = rpc.metadata.get("x-user")
    return None if name is None else {"id": str(name)}


def price(request: bytes, context: Any) -> bytes:
    """Return the price of an article; one that is not there fails."""
    return PRICES[request]


def serve(address: str = "127.0.0.1:50051") -> tuple[grpc.Server, int]:
    """Start the server; return it, and its port."""
    executor = futures.ThreadPoolExecutor(8)
    server = grpc.server(executor, interceptors=[UserContext(resolver=user_of)])
    handlers = {"Price": grpc.unary_unary_rpc_method_handler(price)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Shop", handlers),))
    port = server.add_insecure_port(address)
    server.start()
    return server, port


usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))

if __name__ == "__main__":
    serve()[0].wait_for_termination()
