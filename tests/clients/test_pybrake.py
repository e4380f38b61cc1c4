"""pybrake: a filter of a notifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pybrake
import pytest

from tests.clients.serving import BOTH, serve
from usercontext import RequestData, init, set_user
from usercontext.clients.pybrake import PybrakeClient
from usercontext.testing import client_conformance

if TYPE_CHECKING:
    from collections.abc import Iterator

# pybrake asks every package that is installed for its version.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ADA = {"id": 1, "username": "ada", "plan": "pro"}


class Notifier:
    """A real notifier, and the contexts of the notices that it would send."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.real = pybrake.Notifier(
            project_id=1, project_key="key", remote_config=False, performance_stats=False
        )
        self.start_over()

    def start_over(self) -> None:
        """Have one filter, which runs last: it keeps what it is given, and drops it."""
        self.real._filters[:] = [lambda notice: self.sent.append(notice["context"])]

    def report(self) -> None:
        """Report an error that was handled."""
        self.real.notify_sync(LookupError("no such order"))

    def users(self) -> list[Any]:
        """Return and forget whom the notices named."""
        seen = [
            {
                **one.get("user", {}),
                **({"ip_address": one["userAddr"]} if "userAddr" in one else {}),
            }
            for one in self.sent
        ]
        self.sent.clear()
        return seen


@pytest.fixture
def notifier() -> Iterator[Notifier]:
    """Make a notifier that sends nothing."""
    made = Notifier()
    yield made
    made.real.close()


def test_it_conforms(notifier: Notifier) -> None:
    """The client passes the suite that every client does."""

    def make_client() -> PybrakeClient:
        notifier.start_over()
        return PybrakeClient(notifier.real)

    client_conformance(make_client, report=notifier.report, users=notifier.users)


@BOTH
def test_a_notice_names_the_user(interface: str, notifier: Notifier) -> None:
    """The user stands in the notice's context, extra keys included, with our address."""
    client = PybrakeClient(notifier.real)
    with_ip = RequestData(include_ip=True)
    serve(interface, notifier.report, client, resolver=lambda _: ADA, request_data=with_ip)
    assert notifier.users() == [{**ADA, "id": "1", "ip_address": "203.0.113.9"}]


def test_what_pybrake_takes_itself_is_replaced(notifier: Notifier) -> None:
    """Its middlewares fill in the framework's user and the peer: nobody is nobody."""

    def handler() -> None:
        notice = notifier.real.build_notice(LookupError())
        notice["context"].update(
            user={"id": 9},
            userAddr="6.6.6.6",
            headers={"X-Forwarded-For": "6.6.6.6", "x_real_ip": "6.6.6.6"},
        )
        set_user(None)
        notifier.real.send_notice_sync(notice)

    serve("wsgi", handler, PybrakeClient(notifier.real))
    (context,) = notifier.sent
    assert (context.get("user"), context.get("userAddr"), context["headers"]) == (None, None, {})


def test_an_error_that_left_its_request_names_its_user(notifier: Notifier) -> None:
    """Sent inside of its except block, the exception leads to the user."""

    def fail() -> None:
        set_user(ADA)
        raise LookupError("no such order")

    try:
        serve("wsgi", fail, PybrakeClient(notifier.real))
    except LookupError as error:
        notifier.real.notify_sync(error)
    assert notifier.users()[0]["id"] == "1"


def test_outside_of_requests_nothing_is_changed(notifier: Notifier) -> None:
    """A job's own user stays."""
    init(None, clients=[PybrakeClient(notifier.real)])
    notice = notifier.real.build_notice(LookupError())
    notice["context"]["user"] = {"id": "worker"}
    notifier.real.send_notice_sync(notice)
    assert notifier.users() == [{"id": "worker"}]


def test_a_filter_that_fails_loses_no_notice(
    notifier: Notifier, caplog: pytest.LogCaptureFixture
) -> None:
    """Pybrake would let it into the app: it is logged once, and the notice goes on its way."""

    def handler() -> None:
        notice = notifier.real.build_notice(LookupError())
        notice["context"]["headers"] = {5: "no name"}
        notifier.real.send_notice_sync(notice)

    serve("wsgi", handler, PybrakeClient(notifier.real))
    assert len(notifier.sent) == 1
    logged = [record.getMessage() for record in caplog.records]
    assert logged == ["a notice of pybrake went out without its user"]
