"""`User.of` and the user objects of real frameworks: their identity, and nothing else of them."""

from __future__ import annotations

import subprocess
import sys

import flask
import flask_login
import pytest
from starlette.authentication import BaseUser, SimpleUser, UnauthenticatedUser
from werkzeug.local import LocalProxy

from usercontext.exceptions import InvalidUserError
from usercontext.user import User

DJANGO = """
import warnings
import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

import uuid
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser, User as Account
from django.db import models
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import SafeString
from usercontext.exceptions import InvalidUserError
from usercontext.user import User

ann = Account(
    pk=42,
    username="ann",
    email="ann@example.org",
    first_name="Ann",
    last_name="Lee",
    password="hash",
)
"""

TABLES = """
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
call_command("migrate", verbosity=0)
ann.save()
"""


class Member(flask_login.UserMixin):
    """A user as Flask-Login's documentation builds one."""

    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)


class Tokened(Member):
    """A user whose session holds a token in place of the id, as Flask-Login recommends."""

    def get_id(self) -> str:
        """Return what stands in the session."""
        return "secret"


class Keyed(BaseUser):
    """A user of which Starlette knows only a key."""

    is_authenticated = True
    identity = "key-1"


class Named(BaseUser):
    """A user of which Starlette knows only a name."""

    is_authenticated = True
    display_name = "Ann"


def test_starlette_simple_user() -> None:
    """Starlette's own user is its name, which is its identity as well."""
    user = User.of(SimpleUser("ann"))
    assert user is not None
    assert user.username == "ann"
    assert user.name is None


def test_starlette_unauthenticated_user() -> None:
    """Starlette's user of an unauthenticated request is nobody."""
    assert User.of(UnauthenticatedUser()) is None


@pytest.mark.parametrize(
    ("value", "user"), [(Keyed(), User(id="key-1")), (Named(), User(username="Ann"))]
)
def test_starlette_parts_that_are_not_implemented(value: BaseUser, user: User) -> None:
    """What a user class of Starlette leaves out is absent, although reading it raises."""
    assert User.of(value) == user


def test_starlette_base_user() -> None:
    """A user class that implements nothing identifies nobody."""
    assert User.of(BaseUser()) is None


def test_flask_login_user() -> None:
    """The attributes of a user of Flask-Login are read, of no other name than ours."""
    member = Member(id=7, username="ann", email="ann@example.org", name="Ann", password="hash")
    assert User.of(member) == User(id=7, username="ann", email="ann@example.org", name="Ann")


def test_flask_login_token() -> None:
    """The token of a session is not reported in the place of an id."""
    assert User.of(Tokened(id=7)) == User(id=7)


def test_flask_login_get_id() -> None:
    """Without an `id`, what `get_id()` returns is the id."""
    assert User.of(Tokened()) == User(id="secret")


def test_flask_login_without_id() -> None:
    """A user without an id may have other fields, although `get_id()` raises."""
    assert User.of(Member(username="ann")) == User(username="ann")


def test_flask_login_anonymous_user() -> None:
    """Flask-Login's anonymous user is nobody."""
    assert User.of(flask_login.AnonymousUserMixin()) is None


def test_flask_login_current_user() -> None:
    """`current_user`, a proxy, is the user it stands for."""
    app = flask.Flask(__name__)
    app.secret_key = "secret"
    manager = flask_login.LoginManager(app)
    manager.request_loader(lambda request: Member(id=request.args["id"]))
    with app.test_request_context("/?id=9"):
        assert User.of(flask_login.current_user) == User(id="9")


def test_a_proxy_of_nothing_is_invalid() -> None:
    """A proxy that stands for nothing here raises our error, not its own."""

    def missing() -> object:
        raise RuntimeError("working outside of request context")

    with pytest.raises(InvalidUserError):
        User.of(LocalProxy(missing))


@pytest.mark.parametrize(
    "statement",
    [
        """assert User.of(ann) == User(42, "ann", "ann@example.org", name="Ann Lee")""",
        """assert User.of(SimpleLazyObject(lambda: ann)) == User.of(ann)""",
        """assert User.of(AnonymousUser()) is None""",
        """assert User.of(SimpleLazyObject(AnonymousUser)) is None""",
        """assert User.of(Account()) is None""",
        """assert User.of(Account(username=SafeString("ann"))) == User(username="ann")""",
        """
class Customer(AbstractBaseUser):
    number = models.UUIDField(primary_key=True)
    email = models.EmailField()
    USERNAME_FIELD = "email"
    class Meta:
        app_label = "auth"

number = uuid.UUID(int=1)
customer = Customer(number=number, email="ann@example.org", password="hash")
assert User.of(customer) == User(number, "ann@example.org", "ann@example.org")
""",
        """
import asyncio

async def main():
    try:
        User.of(SimpleLazyObject(lambda: Account.objects.get(pk=1)))
    except InvalidUserError as error:
        assert "SynchronousOnlyOperation" in str(error)
    else:
        raise AssertionError

asyncio.run(main())
""",
        TABLES
        + """
account = Account.objects.only("username").get()
with CaptureQueriesContext(connection) as queries:
    assert User.of(account) == User(42, "ann")
assert queries.captured_queries == []
""",
        TABLES
        + """
class Chatty(Account):
    class Meta:
        proxy = True
        app_label = "auth"
    def get_full_name(self):
        return Account.objects.get(pk=self.pk).first_name

account = Chatty.objects.get()
with CaptureQueriesContext(connection) as queries:
    assert User.of(account) == User(42, "ann", "ann@example.org")
assert queries.captured_queries == []
assert account.get_full_name() == "Ann"
""",
        TABLES
        + """
from django.db import transaction
account = Account.objects.get()
try:
    with transaction.atomic():
        try:
            Account.objects.create(username="ann")
        except Exception:
            assert User.of(account) == User.of(ann)
            raise
except Exception:
    assert User.of(account) == User.of(ann)
""",
    ],
    ids=[
        "user",
        "lazy",
        "anonymous",
        "lazy anonymous",
        "unsaved",
        "safe text",
        "own model",
        "async",
        "deferred fields",
        "a name that queries",
        "broken transaction",
    ],
)
def test_django(statement: str) -> None:
    """Django's users give their key, names and address; those of nobody give nothing.

    In a process of its own, since Django is configured once in each.
    """
    command = [sys.executable, "-W", "error", "-c", DJANGO + statement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
