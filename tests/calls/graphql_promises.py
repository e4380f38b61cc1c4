"""What every GraphQL library keeps: the same tests, for a server that each module starts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.calls.serving import named, token

__all__ = ["Promises", "ask", "ask_by_websocket", "ask_on_one_websocket"]

PROTOCOL = "graphql-transport-ws"

#: What each protocol calls an operation that is sent, and what it gives.
WORDS = {PROTOCOL: ("subscribe", "next"), "graphql-ws": ("start", "data")}


def ask(base: str, caller: str | None, query: str, **more: Any) -> Any:
    """Send an operation over HTTP; return its answer."""
    body = {"query": query, **more}
    return httpx.post(f"{base}/", json=body, headers=token(caller), timeout=20).json()


async def ask_by_websocket(
    base: str,
    caller: str | None,
    query: str,
    payload: dict[str, str] | None = None,
    protocol: str = PROTOCOL,
) -> list[str]:
    """Send one operation over a websocket of its own; return what it gave."""
    return (await ask_on_one_websocket(base, caller, [query], payload, protocol))[0]


async def ask_on_one_websocket(
    base: str,
    caller: str | None,
    queries: list[str],
    payload: dict[str, str] | None = None,
    protocol: str = PROTOCOL,
) -> list[Any]:
    """Send operations at once over one websocket; return what each gave."""
    url = base.replace("http", "ws") + "/"
    headers = token(caller)
    async with connect(url, subprotocols=[protocol], additional_headers=headers) as socket:
        await socket.send(json.dumps({"type": "connection_init", "payload": payload or {}}))
        await socket.recv()
        return await _subscribed(socket, queries, *WORDS[protocol])


async def _subscribed(socket: Any, queries: list[str], start: str, result: str) -> list[Any]:
    for number, query in enumerate(queries):
        message = {"type": start, "id": str(number), "payload": {"query": query}}
        await socket.send(json.dumps(message))
    given: list[list[str]] = [[] for _ in queries]
    ended: set[int] = set()
    while len(ended) < len(queries):
        async with asyncio.timeout(20):
            message = json.loads(await socket.recv())
        number = int(message["id"])
        if message["type"] == result:
            data = message["payload"].get("data") or {}
            given[number] += [one for one in data.values() if one is not None]
        # The older protocol does not say that a query is complete.
        if message["type"] in ("complete", "error") or not queries[number].startswith("sub"):
            ended.add(number)
    return given


class Promises:
    """The tests; a module gives them `base`, the address of its server."""

    protocol = PROTOCOL

    @pytest.mark.parametrize("field", ["who", "whoSlowly"])
    def test_every_operation_has_its_own_caller(self, base: str, field: str) -> None:
        """Callers alternate, and each operation is of who sends it."""
        callers = ["ada", "bob", None, "ada", None]
        seen = [ask(base, caller, f"{{ {field} }}")["data"][field] for caller in callers]
        assert seen == [caller or "nobody" for caller in callers]

    def test_an_error_names_its_caller(self, base: str, recorder: Any) -> None:
        """A resolver's own exception is reported once, with its caller, operation and path."""
        for caller in ("ada", None, "bob"):
            ask(base, caller, "query Shop { mine: boom, who }", operationName="Shop")
        assert named(recorder.events) == [
            ("RuntimeError", "ada"),
            ("RuntimeError", None),
            ("RuntimeError", "bob"),
        ]
        call = recorder.events[0]["contexts"]["call"]
        assert call == {"type": "graphql", "name": "Shop", "path": "mine"}

    def test_answers_are_no_errors(self, base: str, recorder: Any) -> None:
        """What does not parse, is not valid or is refused on purpose reports nothing."""
        for query in ("{ refuse }", "{ nothing }", "{", "query($a: Int!) { who }"):
            assert ask(base, "ada", query)["errors"]
        assert recorder.events == []

    def test_what_is_reported_holds_no_argument(self, base: str, recorder: Any) -> None:
        """Neither literals nor variables of an operation leave."""
        query = (
            'query Shop($user: String!) { become(user: $user), b: become(user: "s3cret"), boom }'
        )
        ask(base, "ada", query, variables={"user": "t0psecret"}, operationName="Shop")
        shown = json.dumps({**recorder.events[0], "user": None, "exception": None})
        assert "s3cret" not in shown
        assert "t0psecret" not in shown

    def test_a_subscription_has_its_caller_to_its_end(self, base: str) -> None:
        """Everything that a subscription yields is of who has opened the websocket."""
        for caller in ("ada", None, "bob"):
            given = self._ask_by_websocket(base, caller, "subscription { ticks }")
            assert given == [caller or "nobody"] * 3

    def test_operations_of_one_websocket_are_apart(self, base: str) -> None:
        """`set_user()` in one operation names neither those beside it nor later ones."""
        queries = [
            'subscription { ticks(become: "mallory") }',
            "subscription { ticks }",
            'subscription { ticks(become: "eve") }',
            "subscription { ticks }",
        ]
        asking = ask_on_one_websocket(base, "ada", queries, protocol=self.protocol)
        given = asyncio.run(asking)
        assert given == [["mallory"] * 3, ["ada"] * 3, ["eve"] * 3, ["ada"] * 3]

    def test_a_subscription_that_fails_is_reported(self, base: str, recorder: Any) -> None:
        """What a subscription raises after its first results names its caller, once."""
        assert self._ask_by_websocket(base, "bob", "subscription { fails }") == ["bob"]
        assert named(recorder.events) == [("RuntimeError", "bob")]

    def _ask_by_websocket(self, base: str, caller: str | None, query: str) -> list[str]:
        return asyncio.run(ask_by_websocket(base, caller, query, protocol=self.protocol))
