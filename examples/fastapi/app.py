"""A small shop on FastAPI that tells its error reports who the customer is.

Customers log in for a token and send it as `Authorization: Bearer ...`. Some orders have no price,
and so some requests fail: each report names the customer whose request it was.
"""

import os
import secrets
from collections.abc import AsyncIterator
from typing import Any

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.requests import HTTPConnection

import usercontext
from usercontext import RequestData, get_user, use_user
from usercontext.frameworks.fastapi import CurrentUser, RequiredUser, UserContext

CUSTOMERS = {
    "ada": {"id": 1, "username": "ada", "email": "ada@shop.example"},
    "bob": {"id": 2, "username": "bob", "email": "bob@shop.example"},
    "cleo": {"id": 3, "username": "cleo", "email": "cleo@shop.example"},
    "dan": {"id": 4, "username": "dan", "email": "dan@shop.example"},
    "admin": {"id": 9, "username": "admin", "email": "admin@shop.example"},
}
PRICES = {1: 12.50, 2: 3.20, 3: 99.00}
TOKENS: dict[str, str] = {}


def customer_of(connection: HTTPConnection) -> dict[str, Any] | None:
    """Find who makes a request: asked once a request, and only if a report needs to know."""
    token = connection.headers.get("authorization", "").removeprefix("Bearer ")
    return CUSTOMERS.get(TOKENS.get(token, ""))


usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))

app = FastAPI(title="Shop")
UserContext(
    app,
    resolver=customer_of,
    # A proxy on this machine may say whose address it forwards; nobody else may.
    request_data=RequestData(include_ip=True, trusted_proxies=["127.0.0.1", "::1"]),
)


class Login(BaseModel):
    """What a customer logs in with; a real shop would ask for a password too."""

    username: str


def admin_only(request: Request) -> None:
    """Refuse everybody but the admin."""
    customer = customer_of(request)
    if customer is None or customer["username"] != "admin":
        raise HTTPException(403, "only the admin may do this")


@app.post("/login")
async def login(credentials: Login) -> dict[str, str]:
    """Give a customer a token."""
    if credentials.username not in CUSTOMERS:
        raise HTTPException(401, "nobody here has that name")
    token = secrets.token_urlsafe(16)
    TOKENS[token] = credentials.username
    return {"token": token}


@app.get("/orders/{number}")
async def order(number: int) -> dict[str, float]:
    """Show an order; one without a price is the bug of this shop."""
    return {"total": PRICES[number]}


@app.get("/stock/{number}")
def stock(number: int) -> dict[str, bool]:
    """Look something up in a worker thread, as every `def` endpoint of FastAPI runs."""
    return {"in_stock": PRICES[number] < 50}


@app.post("/orders/{number}/invoice", status_code=202)
async def invoice(number: int, tasks: BackgroundTasks) -> dict[str, str]:
    """Accept at once, and write the invoice when the response has been sent."""
    tasks.add_task(write_invoice, number)
    return {"status": "accepted"}


def write_invoice(number: int) -> None:
    """Write an invoice; its failure is reported with the customer whose request asked for it."""
    try:
        PRICES[number] * 1.19
    except KeyError:
        usercontext.capture_exception()


@app.get("/orders/{number}/export")
async def export(number: int) -> StreamingResponse:
    """Stream some orders as lines, and go on after one that fails."""
    return StreamingResponse(lines(number), media_type="text/csv")


async def lines(last: int) -> AsyncIterator[str]:
    """Yield a line for each order."""
    for number in (1, 2, last):
        try:
            yield f"{number},{PRICES[number]}\n"
        except KeyError:
            usercontext.capture_exception()
            yield f"{number},unknown\n"


@app.post("/orders/{number}/photo")
async def photo(number: int, request: Request) -> dict[str, float | None]:
    """Take a photo of an order, of any size, also where the price is not known."""
    size = len(await request.body())
    try:
        return {"bytes": size, "total": PRICES[number]}
    except KeyError:
        usercontext.capture_exception()
        return {"bytes": size, "total": None}


@app.get("/as/{username}/orders/{number}", dependencies=[Depends(admin_only)])
async def as_customer(username: str, number: int) -> dict[str, float]:
    """Show an order as a customer sees it: for this block, reports name that customer."""
    with use_user(CUSTOMERS[username]):
        return await order(number)


@app.get("/me")
async def me(user: CurrentUser) -> Any:
    """Show what a report of this request would say."""
    return user.to_dict() if user else None


@app.get("/basket")
def basket(user: RequiredUser) -> dict[str, str | None]:
    """Show a customer's basket; a visitor is answered 401."""
    return {"basket of": user.username}


@app.exception_handler(500)
async def apologise(request: Request, error: Exception) -> JSONResponse:
    """Answer for the bug of this shop, which is reported without this."""
    user = get_user()
    return JSONResponse({"sorry": user.username if user else None}, status_code=500)


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, port=8000)
