"""A small chat on Channels, in one file, that tells its error reports who is chatting.

The middleware of Channels stands inside of the authentication, Django's in `MIDDLEWARE`:
each asks the one that has authenticated its requests.
"""

import os

import django
from channels.auth import AuthMiddlewareStack
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.contrib.auth import authenticate, get_user_model
from django.contrib.auth import login as log_in
from django.core.asgi import get_asgi_application
from django.core.exceptions import PermissionDenied
from django.core.management import call_command
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

import usercontext
from usercontext.frameworks.channels import UserContextMiddleware

PRICES = {1: 12.50, 2: 3.20, 3: 99.00}

settings.configure(
    SECRET_KEY=os.environ.get("SECRET_KEY", "not a secret: this is an example"),
    ALLOWED_HOSTS=["localhost", "127.0.0.1", "testserver"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "usercontext.frameworks.django",
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ.get("SHOP_DATABASE", "shop.db"),
        }
    },
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    MIDDLEWARE=[
        "usercontext.frameworks.django.UserContextMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
)
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


class Chat(AsyncWebsocketConsumer):
    """Answers `order 7` with a price; an order without one is the bug of this shop."""

    async def receive(self, text_data: str) -> None:
        """Answer a message, or end the connection with an error."""
        number = int(text_data.removeprefix("order "))
        await self.send(f"{PRICES[number]:.2f}")


class Help(WebsocketConsumer):
    """Takes questions in a thread, and reports those that nobody can answer."""

    def receive(self, text_data: str) -> None:
        """Answer a question."""
        usercontext.capture_message("nobody knows", level="warning")
        self.send(f"we will look into it: {text_data}")


urlpatterns = [path("login", login)]
websockets = URLRouter([path("chat", Chat.as_asgi()), path("help", Help.as_asgi())])
application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": AuthMiddlewareStack(UserContextMiddleware(websockets)),
    }
)


def prepare() -> None:
    """Make the database, with a few customers in it."""
    call_command("migrate", verbosity=0)
    customers = get_user_model().objects
    if customers.exists():
        return
    for name in ("ada", "bob"):
        customers.create_user(name, f"{name}@shop.example", f"{name}'s password")


if __name__ == "__main__":
    import uvicorn

    prepare()
    uvicorn.run(application, port=8000, lifespan="off")
