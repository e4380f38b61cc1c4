"""A small shop on Django, in one file, that tells its error reports who the customer is.

Customers log in with Django's own authentication. Some orders have no price, and so some requests
fail: each report names the customer whose request it was. Django answers errors with a page of
its own, so no wrapper would see them; the middleware in `MIDDLEWARE` reports them.
"""

import os
from collections.abc import Iterator
from threading import Thread

import django
from django.conf import settings
from django.contrib.auth import authenticate, get_user_model
from django.contrib.auth import login as log_in
from django.core.exceptions import PermissionDenied
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

import usercontext
from usercontext import RequestData, bind, use_user

PRICES = {1: 12.50, 2: 3.20, 3: 99.00}

settings.configure(
    SECRET_KEY=os.environ.get("SECRET_KEY", "not a secret: this is an example"),
    ALLOWED_HOSTS=["localhost", "127.0.0.1", "testserver"],
    ROOT_URLCONF=__name__,
    WSGI_APPLICATION=f"{__name__}.application",
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "usercontext.frameworks.django",  # for `manage.py check`
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ.get("SHOP_DATABASE", "shop.db"),
        }
    },
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    MIDDLEWARE=[
        # Needs no resolver here: it asks for `request.user`, and only if a report needs to know.
        "usercontext.frameworks.django.UserContextMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    USERCONTEXT={"request_data": RequestData(include_ip=True)},
)
# In a project of several files this ends settings.py: servers, commands and workers all pass there.
usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))
django.setup()


def login(request: HttpRequest) -> HttpResponse:
    """Log a customer in; a real shop has a form, and CsrfViewMiddleware too."""
    customer = authenticate(
        request, username=request.POST["username"], password=request.POST["password"]
    )
    if customer is None:
        raise PermissionDenied
    log_in(request, customer)
    return JsonResponse({"welcome": customer.get_username()})


def order(_request: HttpRequest, number: int) -> HttpResponse:
    """Show an order; one without a price is the bug of this shop."""
    return JsonResponse({"total": PRICES[number]})


def invoice(_request: HttpRequest, number: int) -> HttpResponse:
    """Accept at once, and write the invoice in a thread, which `bind` gives this request's user."""
    Thread(target=bind(write_invoice), args=(number,)).start()
    return JsonResponse({"status": "accepted"}, status=202)


def write_invoice(number: int) -> None:
    """Write an invoice; its failure is reported with the customer whose request asked for it."""
    try:
        PRICES[number] * 1.19
    except KeyError:
        usercontext.capture_exception()


def export(_request: HttpRequest, number: int) -> StreamingHttpResponse:
    """Stream some orders as lines, and go on after one that fails."""
    return StreamingHttpResponse(lines(number), content_type="text/csv")


def lines(last: int) -> Iterator[str]:
    """Yield a line for each order."""
    for number in (1, 2, last):
        try:
            yield f"{number},{PRICES[number]}\n"
        except KeyError:
            usercontext.capture_exception()
            yield f"{number},unknown\n"


def as_customer(request: HttpRequest, username: str, number: int) -> HttpResponse:
    """Show an order as a customer sees it: for this block, reports name that customer."""
    if not request.user.is_superuser:
        raise PermissionDenied
    with use_user(get_user_model().objects.get(username=username)):
        return order(request, number)


urlpatterns = [
    path("login", login),
    path("orders/<int:number>", order),
    path("orders/<int:number>/invoice", invoice),
    path("orders/<int:number>/export", export),
    path("as/<str:username>/orders/<int:number>", as_customer),
]

application = get_wsgi_application()


def prepare() -> None:
    """Make the database, with a few customers in it."""
    call_command("migrate", verbosity=0)
    customers = get_user_model().objects
    if customers.exists():
        return
    for name in ("ada", "bob"):
        customers.create_user(name, f"{name}@shop.example", f"{name}'s password")
    customers.create_superuser("admin", "admin@shop.example", "admin's password")


if __name__ == "__main__":
    prepare()
    call_command("runserver", "8000", use_reloader=False)
