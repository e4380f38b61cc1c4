"""A shop's chat on Socket.IO, with a user for every event."""

import os

import socketio

import usercontext
from usercontext.calls.socketio import Event, UserContext

PRICES = {1: 12.5}


def user_of(event: Event) -> dict[str, str] | None:
    """Return who has connected; a shop of your own verifies what the client sent."""
    name = (event.auth or {}).get("user")
    return None if name is None else {"id": name}


usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))
server = socketio.Server(async_mode="threading")
UserContext(server, resolver=user_of)


@server.event
def connect(sid: str, environ: dict, auth: object) -> None:
    """Let everybody in."""


@server.event
def price(sid: str, article: int) -> str:
    """Return the price of an article; one that is not there fails."""
    return f"{PRICES[article]:.2f}"


app = socketio.WSGIApp(server)
