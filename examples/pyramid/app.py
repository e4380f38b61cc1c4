"""A small shop on Pyramid that tells its error reports who the customer is.

Customers log in, Pyramid's session remembers them, and its security policy says who they are.
Some orders have no price, and so some requests fail: each report names the customer whose
request it was.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Thread
from typing import Any

from pyramid.authentication import SessionAuthenticationHelper
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPForbidden, HTTPUnauthorized
from pyramid.response import Response
from pyramid.security import Allowed, Denied
from pyramid.session import SignedCookieSessionFactory

import usercontext
from usercontext import RequestData, bind, use_user


@dataclass
class Customer:
    """A customer as a database would give one; no report ever shows the card."""

    id: int
    username: str
    email: str
    card: str = "4111 1111 1111 1111"


CUSTOMERS = {
    name: Customer(number, name, f"{name}@shop.example")
    for number, name in [(1, "ada"), (2, "bob"), (3, "cleo"), (4, "dan"), (9, "admin")]
}
PRICES = {1: 12.50, 2: 3.20, 3: 99.00}


class SecurityPolicy:
    """Says who makes a request: whom the session remembers."""

    def __init__(self) -> None:
        self.session = SessionAuthenticationHelper()

    def identity(self, request: Any) -> Customer | None:
        """Return the customer."""
        return CUSTOMERS.get(self.session.authenticated_userid(request) or "")

    def authenticated_userid(self, request: Any) -> str | None:
        """Return the name of a customer who is one still."""
        customer = self.identity(request)
        return None if customer is None else customer.username

    def permits(self, request: Any, context: Any, permission: str) -> Allowed | Denied:
        """Let the admin do what the others may not."""
        if self.authenticated_userid(request) == "admin":
            return Allowed("the admin")
        return Denied("the admin only")

    def remember(self, request: Any, userid: str, **options: Any) -> Any:
        """Keep a customer in the session."""
        return self.session.remember(request, userid, **options)

    def forget(self, request: Any, **options: Any) -> Any:
        """Forget the customer."""
        return self.session.forget(request, **options)


def login(request: Any) -> dict[str, str]:
    """Remember a customer; a real shop would ask for a password too."""
    username = request.POST["username"]
    if username not in CUSTOMERS:
        raise HTTPUnauthorized
    SecurityPolicy().remember(request, username)
    return {"welcome": username}


def order(request: Any) -> dict[str, float]:
    """Show an order; one without a price is the bug of this shop."""
    return {"total": PRICES[number_of(request)]}


def number_of(request: Any) -> int:
    """Return the number of the order that a request is about."""
    return int(request.matchdict["number"])


def invoice(request: Any) -> dict[str, str]:
    """Accept at once, and write the invoice in a thread, which `bind` gives this request's user."""
    Thread(target=bind(write_invoice), args=(number_of(request),)).start()
    request.response.status = 202
    return {"status": "accepted"}


def write_invoice(number: int) -> None:
    """Write an invoice; its failure is reported with the customer whose request asked for it."""
    try:
        PRICES[number] * 1.19
    except KeyError:
        usercontext.capture_exception()


def export(request: Any) -> Response:
    """Stream some orders as lines, and go on after one that fails."""
    return Response(app_iter=lines(number_of(request)), content_type="text/csv", charset="utf-8")


def lines(last: int) -> Iterator[bytes]:
    """Yield a line for each order."""
    for number in (1, 2, last):
        try:
            yield f"{number},{PRICES[number]}\n".encode()
        except KeyError:
            usercontext.capture_exception()
            yield f"{number},unknown\n".encode()


def photo(request: Any) -> dict[str, float | None]:
    """Take a photo of an order, of any size, also where the price is not known."""
    size = len(request.body)
    try:
        return {"bytes": size, "total": PRICES[number_of(request)]}
    except KeyError:
        usercontext.capture_exception()
        return {"bytes": size, "total": None}


def as_customer(request: Any) -> dict[str, float]:
    """Show an order as a customer sees it: for this block, reports name that customer."""
    if not request.has_permission("act"):
        raise HTTPForbidden
    with use_user(CUSTOMERS[request.matchdict["username"]]):
        return order(request)


def sorry(error: Exception, request: Any) -> dict[str, str]:
    """Make the page for every error: it is reported all the same, as nothing is mended by it."""
    request.response.status = 500
    return {"sorry": "we have been told"}


ROUTES = {
    "/login": login,
    "/orders/{number}": order,
    "/orders/{number}/invoice": invoice,
    "/orders/{number}/export": export,
    "/orders/{number}/photo": photo,
    "/as/{username}/orders/{number}": as_customer,
}


def make_app() -> Any:
    """Configure the shop; without a resolver, the security policy names the customer."""
    # A proxy on this machine may say whose address it forwards; nobody else may.
    request_data = RequestData(include_ip=True, trusted_proxies=["127.0.0.1", "::1"])
    config = Configurator(settings={"usercontext.request_data": request_data})
    secret = os.environ.get("SECRET_KEY", "not a secret: this is an example")
    config.set_session_factory(SignedCookieSessionFactory(secret))
    config.set_security_policy(SecurityPolicy())
    config.include("usercontext.frameworks.pyramid")
    for path, view in ROUTES.items():
        config.add_route(path, path)
        config.add_view(view, route_name=path, renderer="json")
    config.add_exception_view(sorry, context=Exception, renderer="json")
    return config.make_wsgi_app()


usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))
application = make_app()
