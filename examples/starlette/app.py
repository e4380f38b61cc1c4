"""A small shop on Starlette whose customers Starlette's own AuthenticationMiddleware finds.

`request_user` only passes on what authentication found, so there is one place that knows customers.
A websocket is a request too: an order book that reports the customer who is connected.
"""

import base64
import binascii
import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    BaseUser,
    SimpleUser,
)
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import usercontext
from usercontext import RequestData
from usercontext.frameworks.starlette import UserContext, request_user

PASSWORDS = {"ada": "lovelace", "bob": "builder"}
PRICES = {1: 12.50, 2: 3.20, 3: 99.00}


class BasicAuthentication(AuthenticationBackend):
    """Finds the customer who sends a name and a password with each request."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """Return who sends the request, or None for a visitor."""
        scheme, _, value = conn.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            username, _, password = base64.b64decode(value).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise AuthenticationError("these are not credentials") from error
        if password == "" or PASSWORDS.get(username) != password:
            raise AuthenticationError("nobody here has that name and password")
        return AuthCredentials(["customer"]), SimpleUser(username)


async def order(request: Request) -> Response:
    """Show an order; one without a price is the bug of this shop."""
    return JSONResponse({"total": PRICES[request.path_params["number"]]})


async def invoice(request: Request) -> Response:
    """Accept at once, and write the invoice when the response has been sent."""
    task = BackgroundTask(write_invoice, request.path_params["number"])
    return JSONResponse({"status": "accepted"}, status_code=202, background=task)


def write_invoice(number: int) -> None:
    """Write an invoice; its failure is reported with the customer whose request asked for it."""
    try:
        PRICES[number] * 1.19
    except KeyError:
        usercontext.capture_exception()


async def export(request: Request) -> Response:
    """Stream some orders as lines, and go on after one that fails."""
    return StreamingResponse(lines(request.path_params["number"]), media_type="text/csv")


async def lines(last: int) -> AsyncIterator[str]:
    """Yield a line for each order."""
    for number in (1, 2, last):
        try:
            yield f"{number},{PRICES[number]}\n"
        except KeyError:
            usercontext.capture_exception()
            yield f"{number},unknown\n"


async def order_book(websocket: WebSocket) -> None:
    """Answer each order number with its price, for as long as the customer stays."""
    await websocket.accept()
    async for text in websocket.iter_text():
        try:
            await websocket.send_text(str(PRICES[int(text)]))
        except (KeyError, ValueError):
            usercontext.capture_exception()
            await websocket.send_text("unknown")


usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))

app = Starlette(
    routes=[
        Route("/orders/{number:int}", order),
        Route("/orders/{number:int}/invoice", invoice, methods=["POST"]),
        Route("/orders/{number:int}/export", export),
        WebSocketRoute("/book", order_book),
    ],
    middleware=[Middleware(AuthenticationMiddleware, backend=BasicAuthentication())],
)
# Around authentication: the resolver is only asked when that has happened.
UserContext(app, resolver=request_user, request_data=RequestData(include_ip=True))

if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, port=8000)
