"""A small shop on Connexion that tells its error reports who the customer is.

`openapi.yaml` says that customers send a key, and `check_key` knows whose it is; `request_user`
only passes that on. Some orders have no price, and so some requests fail: each report names the
customer whose request it was.
"""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from connexion import AsyncApp
from connexion.exceptions import OAuthProblem
from connexion.resolver import Resolver
from starlette.responses import StreamingResponse

import usercontext
from usercontext import RequestData
from usercontext.frameworks.connexion import UserContext, request_user

CUSTOMERS = {
    "ada-key": {"sub": "1", "username": "ada", "email": "ada@shop.example"},
    "bob-key": {"sub": "2", "username": "bob", "email": "bob@shop.example"},
}
PRICES = {1: 12.50, 2: 3.20, 3: 99.00}


def check_key(key: str) -> dict[str, Any]:
    """Find whose key it is, or refuse it."""
    if key not in CUSTOMERS:
        raise OAuthProblem("nobody here has that key")
    return CUSTOMERS[key]


async def order(number: int) -> dict[str, float]:
    """Show an order; one without a price is the bug of this shop."""
    return {"total": PRICES[number]}


def stock(number: int) -> dict[str, bool]:
    """Look something up in a worker thread, as every `def` endpoint of Connexion runs."""
    return {"in_stock": PRICES[number] < 50}


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


usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))

app = AsyncApp(__name__, specification_dir=Path(__file__).parent)
UserContext(app, resolver=request_user, request_data=RequestData(include_ip=True))
app.add_api(
    "openapi.yaml",
    resolver=Resolver({"order": order, "stock": stock, "export": export}.__getitem__),
    arguments={"module": __name__},
)
