"""honeybadger: the one hook before a notice, chained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from honeybadger import honeybadger
from honeybadger.contrib.asgi import ASGIHoneybadger
from honeybadger.notice import Notice

from tests.clients.serving import BOTH, serve
from tests.driver import asgi_request, plain_asgi_app, scope_of
from usercontext import asgi, init, set_user
from usercontext.clients.honeybadger import HoneybadgerClient
from usercontext.clients.log_fields import FIELDS
from usercontext.testing import client_conformance

if TYPE_CHECKING:
    from collections.abc import Iterator

ADA = {"id": 1, "username": "ada", "email": "ada@shop.example"}
ADAS = {"user_id": "1", "user_name": "ada", "user_email": "ada@shop.example"}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Keep the context of every notice that would be sent."""
    kept: list[Any] = []

    class Connection:
        @staticmethod
        def send_notice(_config: Any, notice: Any) -> None:
            kept.append(notice.payload["request"])

    monkeypatch.setattr(type(honeybadger), "_connection", lambda _self: Connection)
    before = honeybadger.config.before_notify
    honeybadger.configure(api_key="x", environment="test")
    yield kept
    honeybadger.configure(before_notify=before)
    honeybadger.reset_context()


def report() -> None:
    """Report an error that was handled."""
    honeybadger.notify(LookupError("no such order"))


def contexts(sent: list[Any]) -> list[Any]:
    """Return the context of each notice."""
    return [request["context"] for request in sent]


def test_it_conforms(sent: list[Any]) -> None:
    """Honeybadger passes the suite that every client does."""

    def make_client() -> HoneybadgerClient:
        honeybadger.configure(before_notify=lambda notice: notice)
        return HoneybadgerClient()

    def users() -> list[Any]:
        named = [
            {field: one[name] for field, name in FIELDS.items() if name in one}
            for one in contexts(sent)
        ]
        sent.clear()
        return named

    client_conformance(make_client, report=report, users=users)


@BOTH
def test_a_notice_names_the_user(interface: str, sent: list[Any]) -> None:
    """The user's keys stand in the context beside the app's own; stale ones are gone."""

    def handler() -> None:
        honeybadger.set_context(user_id="9", user_email="bob@shop.example", cart=3)
        report()

    serve(interface, handler, HoneybadgerClient(), resolver=lambda _: {"id": 1})
    assert contexts(sent) == [{"cart": 3, "user_id": "1"}]


def test_an_error_reported_outside_names_its_user(sent: list[Any]) -> None:
    """Honeybadger's middleware outside of ours finds the user on the exception."""

    def fail() -> None:
        set_user(ADA)
        raise LookupError("no such order")

    inner = asgi.UserContextMiddleware(plain_asgi_app(fail), clients=[HoneybadgerClient()])
    with pytest.raises(LookupError):
        asgi_request(ASGIHoneybadger(inner, api_key="x"), scope_of(x_forwarded_for="6.6.6.6"))
    (context,) = contexts(sent)
    assert {name: context[name] for name in ADAS} == ADAS
    assert "6.6.6.6" not in str(sent)
    assert "203.0.113.9" not in str(sent)


def test_the_hook_of_the_app_still_runs(sent: list[Any]) -> None:
    """What before_notify was configured first is given the notice, and may drop it."""
    seen: list[Any] = []
    honeybadger.configure(before_notify=lambda notice: seen.append(notice.context))
    serve("wsgi", report, HoneybadgerClient(), resolver=lambda _: ADA)
    assert seen == [ADAS]
    assert sent == []


def test_a_hook_configured_later_is_chained(sent: list[Any]) -> None:
    """Its integrations configure honeybadger when the app is loaded; that happens once."""
    seen: list[Any] = []
    init(None, clients=[HoneybadgerClient()])
    honeybadger.configure(before_notify=lambda notice: seen.append(notice.context))
    for _ in range(2):
        serve("wsgi", report, resolver=lambda _: ADA)
    assert seen == [ADAS, ADAS]


def test_the_username_that_django_told_is_replaced(sent: list[Any]) -> None:
    """Its integration sets `username` beside `user_id`: two identities are never blended."""

    def handler() -> None:
        honeybadger.set_context(username="bob", user_id=9)
        report()

    serve("wsgi", handler, HoneybadgerClient(), resolver=lambda _: {"id": 1})
    assert contexts(sent) == [{"user_id": "1"}]


def test_outside_of_requests_nothing_is_changed(sent: list[Any]) -> None:
    """A job's own context stays."""
    init(None, clients=[HoneybadgerClient()])
    honeybadger.set_context(user_id="worker")
    report()
    assert contexts(sent) == [{"user_id": "worker"}]


def test_the_environ_that_a_plugin_collected_tells_no_address(sent: list[Any]) -> None:
    """REMOTE_ADDR and the headers that tell an address are removed where it was not asked for."""
    made = Notice(exception=LookupError(), config=honeybadger.config, context={})

    def handler() -> None:
        peer = {"REMOTE_ADDR": "203.0.113.9", "REMOTE_HOST": "203.0.113.9"}
        told = {**peer, "HTTP_X_REAL_IP": "6.6.6.6", "HTTP_A": "b"}
        made.payload["request"]["cgi_data"] = told
        honeybadger.config.before_notify(made)

    serve("wsgi", handler, HoneybadgerClient())
    assert made.payload["request"]["cgi_data"] == {"HTTP_A": "b"}


def test_the_hook_of_the_app_may_change_the_notice(sent: list[Any]) -> None:
    """The payload is made when it has run."""
    seen: list[Any] = []

    def group(notice: Any) -> Any:
        seen.append("payload" in vars(notice))
        return notice

    honeybadger.configure(before_notify=group)
    serve("wsgi", report, HoneybadgerClient(), resolver=lambda _: ADA)
    assert seen == [False]
    assert contexts(sent) == [ADAS]
