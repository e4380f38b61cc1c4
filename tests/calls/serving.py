"""A real uvicorn on 127.0.0.1 for an app of a test, and what its resolvers know."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn

import usercontext

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "after_the_call",
    "bearer",
    "forget",
    "has_noted",
    "named",
    "note",
    "noted",
    "serving",
    "start_later",
    "token",
    "until_cancelled",
    "who",
]

#: Whom work that outlives its call had for its user, and that it has noted so.
noted: list[str] = []
has_noted = threading.Event()
#: Set by who has called, once the call is over.
after_the_call = threading.Event()

PEOPLE = {f"Bearer {name}-token": {"id": name} for name in ("ada", "bob", "eve")}


def bearer(request: Any) -> dict[str, str] | None:
    """Find who sends a request by its token: a resolver."""
    if request is None:
        return None
    found = request.headers.get("authorization", "")
    return PEOPLE.get(found) or ({"id": found[7:-6]} if found.startswith("Bearer user") else None)


def token(name: str | None) -> dict[str, str]:
    """Return the header that says who is asking."""
    return {} if name is None else {"authorization": f"Bearer {name}-token"}


def who() -> str:
    """Return whom a call has for its user here."""
    user = usercontext.get_user()
    return "nobody" if user is None or user.id is None else user.id


def note() -> None:
    """Note whom this has for its user."""
    noted.append(who())
    has_noted.set()


def forget() -> None:
    """Begin with nothing noted."""
    noted.clear()
    has_noted.clear()
    after_the_call.clear()


def start_later() -> None:
    """Start a thread that notes its user when the call that starts it is over."""

    def later() -> None:
        after_the_call.wait(10)
        note()

    threading.Thread(target=usercontext.bind(later), daemon=True).start()


async def until_cancelled() -> None:
    """Wait for the end of the call, and note whose it was."""
    try:
        await asyncio.sleep(30)
    finally:
        note()


def named(events: list[Any]) -> list[tuple[str, str | None]]:
    """Return the class of the error and the user's id of each report."""
    return [
        (event["exception"]["values"][-1]["type"], (event.get("user") or {}).get("id"))
        for event in events
    ]


@contextmanager
def serving(app: Any, **options: Any) -> Iterator[str]:
    """Serve an app; yield its address, and stop at the end."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)  # uvicorn tells nobody
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
        listener.close()
