"""The gRPC example: a failing RPC is reported with its caller."""

from types import ModuleType

import pytest

pytest.importorskip("grpc.aio")
import grpc

from usercontext.testing import RecordingClient


def test_an_rpc_names_its_caller(shop: ModuleType, usercontext_recorder: RecordingClient) -> None:
    """RPCs of ada, of bob and of nobody over one channel are reported as such."""
    server, port = shop.serve("127.0.0.1:0")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        price = channel.unary_unary("/Shop/Price")
        assert price(b"1", timeout=10) == b"12.50"
        for metadata in ((("x-user", "ada"),), (("x-user", "bob"),), ()):
            with pytest.raises(grpc.RpcError):
                price(b"7", metadata=metadata, timeout=10)
    server.stop(None).wait(10)
    users = [(event.get("user") or {}).get("id") for event in usercontext_recorder.events]
    assert users == ["ada", "bob", None]
