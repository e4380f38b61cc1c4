"""A small API on Django REST framework, in one file, whose reports name who sent the token.

The authentication runs inside the view, where Django's own middlewares are long through. The
middleware needs nothing for that: it asks when something fails.
"""

import os

import django
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.urls import path

import usercontext
from usercontext import RequestData

PRICES = {1: 12.50, 2: 3.20, 3: 99.00}

settings.configure(
    SECRET_KEY=os.environ.get("SECRET_KEY", "not a secret: this is an example"),
    ALLOWED_HOSTS=["localhost", "127.0.0.1", "testserver"],
    ROOT_URLCONF=__name__,
    WSGI_APPLICATION=f"{__name__}.application",
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "rest_framework",
        "rest_framework.authtoken",
        "usercontext.frameworks.django",
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ.get("SHOP_DATABASE", "shop.db"),
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    MIDDLEWARE=["usercontext.frameworks.django.UserContextMiddleware"],
    USERCONTEXT={"request_data": RequestData(include_ip=True)},
)
# In a project of several files this ends settings.py: servers, commands and workers all pass there.
usercontext.init(os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"))
django.setup()

# What follows needs models, and those need the settings.
from django.contrib.auth.models import User  # noqa: E402
from rest_framework.authentication import TokenAuthentication  # noqa: E402
from rest_framework.authtoken.models import Token  # noqa: E402
from rest_framework.exceptions import NotFound  # noqa: E402
from rest_framework.permissions import IsAuthenticatedOrReadOnly  # noqa: E402
from rest_framework.request import Request  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402


class Orders(APIView):
    """Orders by their number; one without a price is the bug of this shop."""

    authentication_classes = (TokenAuthentication,)
    permission_classes = (IsAuthenticatedOrReadOnly,)

    def get(self, _request: Request, number: int) -> Response:
        """Show an order. Number 0 is the customer's mistake, and no report."""
        if number == 0:
            raise NotFound
        return Response({"total": PRICES[number]})

    def post(self, _request: Request, number: int) -> Response:
        """Take an order, and report by hand what is odd about it."""
        if number not in PRICES:
            usercontext.capture_message(f"order {number} has no price", level="warning")
        return Response({"status": "accepted"}, status=202)


urlpatterns = [path("orders/<int:number>", Orders.as_view())]
application = get_wsgi_application()


def prepare() -> None:
    """Make the database, with a few customers in it."""
    call_command("migrate", verbosity=0)
    for name in ("ada", "bob"):
        customer, _ = User.objects.get_or_create(username=name, email=f"{name}@shop.example")
        Token.objects.get_or_create(user=customer, key=f"{name}-s-token")


if __name__ == "__main__":
    prepare()
    call_command("runserver", "8000", use_reloader=False)
