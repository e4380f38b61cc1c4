"""Raygun: the one callback of a sender, chained."""

from __future__ import annotations

from typing import Any

import pytest
from raygun4py.raygunprovider import RaygunSender

from tests.clients.serving import BOTH, serve
from usercontext import RequestData, set_user
from usercontext.clients.raygun import RaygunClient
from usercontext.testing import client_conformance

ADA = {"id": 1, "username": "ada", "email": "ada@shop.example", "name": "Ada Lovelace"}


class Sender(RaygunSender):
    """Keeps what it would post."""

    def __init__(self) -> None:
        super().__init__("key")
        self.sent: list[Any] = []

    def _post(self, raygunMessage: Any) -> Any:  # noqa: N803 - its name there
        self.sent.append(raygunMessage.get_details())
        return 202, ""

    def report(self) -> None:
        """Report an error that was handled."""
        try:
            raise LookupError("no such order")
        except LookupError:
            self.send_exception()

    def users(self) -> list[Any]:
        """Return and forget whom the reports named, in our words."""
        names = {"identifier": "id", "firstName": "username", "email": "email"}
        seen = [
            {
                ours: details["user"][theirs]
                for theirs, ours in names.items()
                if theirs in details["user"]
            }
            for details in self.sent
        ]
        self.sent.clear()
        return seen


def test_it_conforms() -> None:
    """Raygun passes the suite that every client does; it takes no address of a user."""
    sender = Sender()

    def make_client() -> RaygunClient:
        sender.before_send_callback = None
        return RaygunClient(sender)

    client_conformance(make_client, report=sender.report, users=sender.users, takes_address=False)


@BOTH
def test_a_report_names_the_user(interface: str) -> None:
    """The whole user replaces that of the process."""
    sender = Sender()
    sender.set_user({"identifier": "9", "uuid": "x"})
    serve(interface, sender.report, RaygunClient(sender), resolver=lambda _: ADA)
    assert sender.sent[0]["user"] == {
        "identifier": "1",
        "isAnonymous": False,
        "firstName": "ada",
        "fullName": "Ada Lovelace",
        "email": "ada@shop.example",
    }


def test_an_error_that_left_its_request_names_its_user() -> None:
    """Sent inside of its except block, the exception leads to the user."""
    sender = Sender()

    def fail() -> None:
        set_user(ADA)
        raise LookupError("no such order")

    try:
        serve("wsgi", fail, RaygunClient(sender))
    except LookupError:
        sender.send_exception()
    assert sender.sent[0]["user"]["identifier"] == "1"


@pytest.mark.parametrize(("include", "address"), [(True, "203.0.113.9"), (False, None)])
def test_the_address_is_ours(include: bool, address: str | None) -> None:
    """What Raygun takes of the request is replaced, or removed."""
    sender = Sender()
    request = {"iPAddress": "6.6.6.6", "headers": {"X-Forwarded-For": "6.6.6.6"}}
    details: Any = {"request": request}

    def handler() -> None:
        assert sender.before_send_callback is not None
        sender.before_send_callback(details)

    data = RequestData(include_ip=include)
    serve("wsgi", handler, RaygunClient(sender), request_data=data)
    assert details["request"]["iPAddress"] == address
    assert ("X-Forwarded-For" in details["request"]["headers"]) is include


def test_the_callback_of_the_app_still_runs() -> None:
    """What was set first is given the report, and may drop it."""
    sender = Sender()
    seen: list[Any] = []
    sender.on_before_send(seen.append)
    serve("wsgi", sender.report, RaygunClient(sender), resolver=lambda _: ADA)
    assert seen[0]["user"]["identifier"] == "1"
    assert sender.sent == []


def test_a_callback_that_fails_loses_no_report(caplog: pytest.LogCaptureFixture) -> None:
    """Raygun would let it into the app: it is logged once, and the report goes on its way."""
    sender = Sender()
    details: Any = {"request": {"headers": {5: "no name"}}}

    def handler() -> None:
        assert sender.before_send_callback is not None
        assert sender.before_send_callback(details) is details

    serve("wsgi", handler, RaygunClient(sender))
    logged = [record.getMessage() for record in caplog.records]
    assert logged == ["a report of raygun went out without its user"]
