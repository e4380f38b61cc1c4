"""A shop on Django, in one file: REST framework, Celery, structlog, admins who act as customers.

An order that fails, the job that writes its invoice later, and every log line of both name the
customer; where an admin looks at the shop in a customer's name, the admin is named as well.
"""

import os

import django
import structlog
from celery import Celery
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import include, path

import usercontext
from usercontext.carried import CarriedIdentity
from usercontext.clients.structlog import StructlogClient
from usercontext.jobs.celery import UserContext

PRICES = {1: 12.5}
# In production: USERCONTEXT_CARRIED_KEYS, and no key in the code.
KEY = os.environ.get("SHOP_KEY", "keep-this-secret-and-out-of-the-code")

settings.configure(
    SECRET_KEY=os.environ.get("SECRET_KEY", "not a secret: this is an example"),
    ALLOWED_HOSTS=["localhost", "127.0.0.1", "testserver"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "hijack",
        "rest_framework",
        "usercontext.frameworks.django",
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ.get("SHOP_DATABASE", "shop.db"),
        }
    },
    MIDDLEWARE=[
        "usercontext.frameworks.django.UserContextMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "hijack.middleware.HijackUserMiddleware",
    ],
    # django-hijack shows a banner in pages.
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    },
)
structlog.configure(
    processors=[structlog.contextvars.merge_contextvars, structlog.processors.JSONRenderer()]
)
# Ends settings.py: the web server, commands and Celery's workers all pass here.
usercontext.init(
    os.environ.get("USERCONTEXT_DSN", "sqlite:///reports.db"),
    clients=[StructlogClient(resolve=True)],
    carried=CarriedIdentity(keys=[KEY], audience="shop"),
)
django.setup()

# What follows needs Django's settings.
from rest_framework.decorators import api_view  # noqa: E402
from rest_framework.request import Request  # noqa: E402
from rest_framework.response import Response  # noqa: E402

celery = Celery("shop", broker=os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
celery.conf.worker_hijack_root_logger = False
UserContext(celery)
log = structlog.get_logger()


@celery.task(name="app.write_invoice")
def write_invoice(number: int) -> str:
    """Write the invoice of an order; an order without a price fails."""
    log.info("writing", number=number)
    return f"{PRICES[number]:.2f}"


@api_view()
def order(request: Request, number: int) -> Response:
    """Show an order; one without a price is the bug of this shop."""
    log.info("asked", number=number)
    return Response({"total": PRICES[number]})


@api_view(["POST"])
def invoice(request: Request, number: int) -> Response:
    """Have an invoice written later."""
    write_invoice.delay(number)
    return Response({"status": "accepted"}, status=202)


urlpatterns = [
    path("orders/<int:number>", order),
    path("orders/<int:number>/invoice", invoice),
    path("hijack/", include("hijack.urls")),
]
application = get_wsgi_application()
