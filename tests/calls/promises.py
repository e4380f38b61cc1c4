"""What every MCP server keeps: the same tests, for the libraries and transports that serve it.

A module gives them a fixture `base`, the address of a server, `session_of`, which opens a session
there, and `recorder`. Its tools are `who`, `who_sync`, `slow`, `boom`, `boom_sync`, `refuse`,
`become`, `note`, `peer`, `later` and `endless`; it has a resource `shop://who` and `shop://boom`,
and a prompt `who`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import usercontext
from tests.calls.serving import named, start_later, until_cancelled, who

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.calls.mcp_sessions import Session

__all__ = ["CallersPromises", "Promises", "add_tools"]


def add_tools(server: Any, refusal: type[Exception]) -> None:
    """Give a server, of whichever library, what the tests call."""

    @server.tool(name="who")
    async def who_here() -> str:
        return who()

    @server.tool()
    def who_sync() -> str:
        return who()

    @server.tool()
    async def slow(others: int) -> str:
        import asyncio

        seen = {who()}
        for _ in range(others):
            await asyncio.sleep(0)
            seen.add(who())
        return ",".join(sorted(seen))

    @server.tool()
    async def become(user: str) -> str:
        usercontext.set_user({"id": user})
        return who()

    @server.tool()
    async def note() -> str:
        try:
            raise ValueError("handled")
        except ValueError:
            usercontext.capture_exception()
        return who()

    @server.tool()
    async def peer() -> str:
        user = usercontext.get_user()
        return str(user and user.ip_address)

    _add_long(server)
    _add_failing(server, refusal)
    _add_resources(server)


def _add_long(server: Any) -> None:
    @server.tool()
    async def later() -> str:
        start_later()
        return who()

    @server.tool()
    async def endless() -> str:
        await until_cancelled()
        return who()


def _add_failing(server: Any, refusal: type[Exception]) -> None:
    @server.tool()
    async def boom() -> str:
        raise RuntimeError("kaboom")

    @server.tool()
    def boom_sync() -> str:
        raise LookupError("kaboom")

    @server.tool()
    async def refuse() -> str:
        raise refusal("sold out")


def _add_resources(server: Any) -> None:
    @server.resource("shop://who")
    async def who_reads() -> str:
        return who()

    @server.resource("shop://boom")
    async def boom_reads() -> str:
        raise RuntimeError("kaboom")

    @server.prompt(name="who")
    async def who_prompts() -> str:
        return who()

    @server.prompt(name="boom")
    async def boom_prompts() -> str:
        raise RuntimeError("kaboom")


class CallersPromises:
    """Whose each call is: also where no `UserContext` is there, behind the middleware alone."""

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls, base: str, session_of: Callable[..., Session]) -> Session:
        """Return a session that ada has opened."""
        return session_of(base, "ada")

    @pytest.mark.parametrize("tool", ["who", "who_sync"])
    def test_every_call_has_its_own_caller(self, session: Session, tool: str) -> None:
        """Callers in one session alternate, and each call is of who sends it."""
        callers = ["ada", "bob", None, "ada", None, "eve"]
        seen = [session.tool(caller, tool) for caller in callers]
        assert seen == [caller or "nobody" for caller in callers]

    def test_who_is_set_in_one_call_is_of_no_other(self, session: Session) -> None:
        """`set_user()` in a tool names that call alone."""
        assert session.tool("ada", "become", user="mallory") == "mallory"
        assert [session.tool(name, "who") for name in ("ada", None)] == ["ada", "nobody"]

    def test_what_a_call_reports_names_its_caller(self, session: Session, recorder: Any) -> None:
        """A report made inside of a tool is of its caller, after others' calls as well."""
        for caller in ("bob", None, "ada"):
            session.tool(caller, "note")
        assert named(recorder.events) == [
            ("ValueError", "bob"),
            ("ValueError", None),
            ("ValueError", "ada"),
        ]

    def test_sessions_at_once(self, base: str, session_of: Callable[..., Session]) -> None:
        """Ten users at once, each in a session of another, are never mixed up."""
        names = [f"user{number}" for number in range(10)]
        sessions = [session_of(base, name) for name in names]

        def calls(number: int) -> str:
            caller = names[number]
            return sessions[number - 1].tool(caller, "slow", others=20)

        with ThreadPoolExecutor(10) as pool:
            assert list(pool.map(calls, range(10))) == names


class Promises(CallersPromises):
    """All of it; each module runs them for every transport of its library."""

    def test_resources_and_prompts_have_their_reader(self, session: Session) -> None:
        """Reading a resource and asking for a prompt are calls like any other."""
        for reader in ("bob", "ada"):
            read = session.ask(reader, "resources/read", {"uri": "shop://who"})
            assert read["result"]["contents"][0]["text"] == reader
            asked = session.ask(reader, "prompts/get", {"name": "who"})
            assert asked["result"]["messages"][0]["content"]["text"] == reader

    @pytest.mark.parametrize(
        ("tool", "error"), [("boom", "RuntimeError"), ("boom_sync", "LookupError")]
    )
    def test_an_error_names_its_caller(
        self, session: Session, recorder: Any, tool: str, error: str
    ) -> None:
        """The tool's own exception is reported once, with who called it."""
        for caller in ("ada", "bob", None):
            session.tool(caller, tool)
        assert named(recorder.events) == [(error, "ada"), (error, "bob"), (error, None)]
        assert recorder.events[0]["transaction"] == f"tools/call {tool}"

    @pytest.mark.parametrize(
        ("method", "params"),
        [("resources/read", {"uri": "shop://boom"}), ("prompts/get", {"name": "boom"})],
    )
    def test_errors_of_resources_and_prompts(
        self, session: Session, recorder: Any, method: str, params: object
    ) -> None:
        """A resource's and a prompt's exception is reported once, as the app raised it."""
        session.ask("bob", method, params)
        assert [user for _, user in named(recorder.events)] == ["bob"]

    def test_answers_are_no_errors(self, session: Session, recorder: Any) -> None:
        """A refusal on purpose, an unknown tool and arguments that do not fit report nothing."""
        session.ask("ada", "tools/call", {"name": "refuse", "arguments": {}})
        session.ask("ada", "tools/call", {"name": "nothing", "arguments": {}})
        session.ask("ada", "tools/call", {"name": "become", "arguments": {"user": []}})
        assert named(recorder.events) == []

    def test_the_address_is_of_the_message(self, session: Session) -> None:
        """The client's address is found in the request that brought the message."""
        assert session.tool("ada", "peer") == "127.0.0.1"
