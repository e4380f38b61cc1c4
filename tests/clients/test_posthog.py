"""PostHog: a context for each request, and the one hook before an event, chained."""

from __future__ import annotations

import asyncio
from typing import Any

import posthog
import pytest

from tests.clients.serving import BOTH, serve
from tests.driver import (
    asgi_call,
    asgi_request,
    environ_of,
    plain_asgi_app,
    plain_wsgi_app,
    scope_of,
    wsgi_request,
)
from usercontext import RequestData, asgi, init, resolve_user, set_user, wsgi
from usercontext.clients.posthog import FIELDS, PosthogClient
from usercontext.exceptions import ConfigurationError
from usercontext.testing import client_conformance

ADA = {"id": 1, "username": "ada", "email": "ada@shop.example"}
BROWSER = "0199b2ec-7a5e-7d70-8b56-f5c2d1f3a0aa"


class Project(posthog.Posthog):
    """A client that drops what it would send, and keeps it."""

    def __init__(self) -> None:
        super().__init__("phc_key", before_send=self.keep, send=False)
        self.sent: list[Any] = []

    def keep(self, event: Any) -> None:
        """Keep an event, and drop it."""
        self.sent.append(event)

    def report(self) -> None:
        """Capture an event that names nobody."""
        self.capture("ordered", properties={"cart": 3})

    def ids(self) -> list[Any]:
        """Return whom the events named; None where PostHog made a person up."""
        return [
            None if "$process_person_profile" in event["properties"] else event["distinct_id"]
            for event in self.sent
        ]

    def users(self) -> list[Any]:
        """Return and forget whom the events named, in our words."""
        names = {**FIELDS, "ip_address": "$ip"}
        seen = []
        for user_id, event in zip(self.ids(), self.sent, strict=True):
            given = event["properties"]
            user = {field: given[name] for field, name in names.items() if name in given}
            seen.append(user if user_id is None else {"id": user_id, **user})
        self.sent.clear()
        return seen


@pytest.fixture
def project() -> Project:
    """Make a client that sends nothing."""
    return Project()


def test_it_conforms(project: Project) -> None:
    """PostHog passes the suite that every client does."""

    def make_client() -> PosthogClient:
        project.before_send = project.keep
        return PosthogClient(project)

    client_conformance(make_client, report=project.report, users=project.users)


@BOTH
def test_an_event_names_the_user(interface: str, project: Project) -> None:
    """An event without a distinct id is the user's, and so counts for a person again."""
    serve(interface, project.report, PosthogClient(project), resolver=lambda _: ADA)
    (event,) = project.sent
    assert event["distinct_id"] == "1"
    given = event["properties"]
    assert (given["cart"], given["user_name"], given["user_email"]) == (3, "ada", ADA["email"])
    assert "$process_person_profile" not in given


@BOTH
def test_an_exception_names_the_user(interface: str, project: Project) -> None:
    """What error tracking captures is an event like any other."""

    def handler() -> None:
        project.capture_exception(LookupError("no such order"))

    serve(interface, handler, PosthogClient(project), resolver=lambda _: ADA)
    assert project.ids() == ["1"]


def test_the_email_stands_in_for_an_id(project: Project) -> None:
    """A user without id is told by the username, or the email."""
    user = {"email": "ada@shop.example"}
    serve("wsgi", project.report, PosthogClient(project), resolver=lambda _: user)
    assert project.ids() == ["ada@shop.example"]


def test_nobody_stays_a_person_made_up(project: Project) -> None:
    """Without a user the event keeps its random id, and counts for no person."""
    serve("wsgi", project.report, PosthogClient(project))
    assert project.ids() == [None]


@pytest.mark.parametrize(
    "given",
    [
        {"distinct_id": "9"},
        {"distinct_id": BROWSER, "properties": {"$process_person_profile": False}},
    ],
)
def test_a_given_id_wins_whole(given: dict[str, Any], project: Project) -> None:
    """Neither the id nor our fields are put in its place, where it means nobody either."""
    client = PosthogClient(project)
    serve("wsgi", lambda: project.capture("x", **given), client, resolver=lambda _: ADA)
    (event,) = project.sent
    assert event["distinct_id"] == given["distinct_id"]
    assert "user_email" not in event["properties"]


def test_an_identified_context_wins(project: Project) -> None:
    """So does the id that a handler gives PostHog's context."""

    def handler() -> None:
        posthog.identify_context("9")
        project.report()

    serve("wsgi", handler, PosthogClient(project), resolver=lambda _: ADA)
    assert project.ids() == ["9"]


def test_the_properties_of_the_app_win(project: Project) -> None:
    """An event that names one of our fields itself is left as it is."""
    client = PosthogClient(project)

    def handler() -> None:
        project.capture("x", properties={"user_email": "bob@shop.example"})

    serve("wsgi", handler, client, resolver=lambda _: ADA)
    given = project.sent[0]["properties"]
    assert (given["user_email"], "user_name" in given) == ("bob@shop.example", False)


@BOTH
@pytest.mark.parametrize(("user", "expected"), [(ADA, "1"), (None, "2")])
def test_an_id_of_the_browser_beats_no_user(
    interface: str, user: Any, expected: str, project: Project
) -> None:
    """PostHog's middlewares believe a header, which anyone can write."""

    def handler() -> None:
        with posthog.new_context():
            posthog.identify_context("2")
            project.report()

    options: Any = {"clients": [PosthogClient(project)], "resolver": lambda _: user}
    if interface == "asgi":
        app = asgi.UserContextMiddleware(plain_asgi_app(handler), **options)
        asgi_request(app, scope_of(x_posthog_distinct_id="2"))
    else:
        wsgi_app = wsgi.UserContextMiddleware(plain_wsgi_app(handler), **options)
        wsgi_request(wsgi_app, environ_of(x_posthog_distinct_id="2"))
    assert project.ids() == [expected]


def test_an_error_captured_outside_names_its_user(project: Project) -> None:
    """A context around ours captures it when the request is over: the exception leads there."""

    def fail() -> None:
        set_user(ADA)
        raise LookupError("no such order")

    def run() -> None:
        with posthog.new_context(client=project, capture_exceptions=True):
            posthog.identify_context("2")
            posthog.tag("$ip", "6.6.6.6")
            serve("wsgi", fail, PosthogClient(project))

    with pytest.raises(LookupError):
        run()
    (event,) = project.sent
    assert (event["distinct_id"], "$ip" in event["properties"]) == ("1", False)


@pytest.mark.parametrize(("include", "address"), [(True, "203.0.113.9"), (False, None)])
def test_the_address_is_ours(include: bool, address: str | None, project: Project) -> None:
    """What PostHog's middlewares take of the request is replaced, or removed."""

    def handler() -> None:
        posthog.tag("$ip", "6.6.6.6")
        project.report()

    data = RequestData(include_ip=include)
    serve("wsgi", handler, PosthogClient(project), request_data=data)
    assert project.sent[0]["properties"].get("$ip") == address


def test_the_hook_of_the_app_still_runs(project: Project) -> None:
    """What was set first is given the event with its user, and may change it."""
    seen: list[Any] = []
    project.before_send = lambda event: seen.append(event["distinct_id"])
    serve("wsgi", project.report, PosthogClient(project), resolver=lambda _: ADA)
    assert (seen, project.sent) == (["1"], [])


def test_a_request_has_a_context_of_its_own(project: Project) -> None:
    """What tags tell does not cross to another request, nor in from around it."""

    async def handler() -> None:
        number = len(numbers)
        numbers.append(number)
        posthog.tag("number", number)
        await asyncio.sleep(0)
        project.report()

    async def run() -> None:
        app = asgi.UserContextMiddleware(plain_asgi_app(handler), clients=[PosthogClient(project)])
        await asyncio.gather(*(asgi_call(app, scope_of()) for _ in range(5)))

    numbers: list[int] = []
    with posthog.new_context():
        posthog.tag("shared", True)
        asyncio.run(run())
    seen = [event["properties"] for event in project.sent]
    assert [(one["number"], "shared" in one) for one in seen] == [(n, False) for n in range(5)]


def test_an_error_that_passes_is_not_captured_twice(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request's context captures nothing by itself."""
    monkeypatch.setattr(posthog, "default_client", project)
    monkeypatch.setattr(posthog, "before_send", project.keep)

    def fail() -> None:
        raise LookupError("no such order")

    with pytest.raises(LookupError):
        serve("wsgi", fail, PosthogClient(project))
    assert project.sent == []


def test_an_async_resolver_is_not_asked_by_an_event(project: Project) -> None:
    """The hook is not a coroutine: it names who is known, and fails for nobody."""

    async def resolver(_: object) -> Any:
        return ADA

    async def handler() -> None:
        project.report()
        await resolve_user()
        project.report()

    serve("asgi", handler, PosthogClient(project), resolver=resolver)
    assert project.ids() == [None, "1"]


def test_an_event_of_a_streamed_body_names_the_user(project: Project) -> None:
    """It is captured when the app has returned, and the request has not ended."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"o"
        project.report()
        yield b"k"

    wrapped = wsgi.UserContextMiddleware(
        app, clients=[PosthogClient(project)], resolver=lambda _: ADA
    )
    assert wsgi_request(wrapped) == b"ok"
    assert project.ids() == ["1"]


def test_a_hook_that_fails_loses_no_event(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """What goes wrong is logged once, and the hook of the app is called."""
    event: Any = {"event": "x", "properties": 5}
    client = PosthogClient(project)
    serve("wsgi", lambda: project.before_send(event), client)
    assert project.sent == [event]
    logged = [record.getMessage() for record in caplog.records]
    assert logged == ["an event of posthog went out without its user"]


def test_outside_of_requests_nothing_is_changed(project: Project) -> None:
    """A job's own events stay."""
    init(None, clients=[PosthogClient(project)])
    project.capture("x", properties={"$ip": "6.6.6.6"})
    assert project.ids() == [None]
    assert project.sent[0]["properties"]["$ip"] == "6.6.6.6"


@pytest.mark.parametrize("is_made", [False, True])
def test_the_client_of_the_module(is_made: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`posthog.capture()` is heard too, whether its client was made before ours or not."""
    sent: list[Any] = []
    monkeypatch.setattr(posthog, "api_key", "phc_key")
    monkeypatch.setattr(posthog, "send", False)
    monkeypatch.setattr(posthog, "before_send", sent.append)
    monkeypatch.setattr(posthog, "default_client", None)
    if is_made:
        posthog.setup()
    serve("wsgi", lambda: posthog.capture("x"), PosthogClient(), resolver=lambda _: ADA)
    assert [event["distinct_id"] for event in sent] == ["1"]


def test_fields_are_checked() -> None:
    """What is not a map of names is refused."""
    with pytest.raises(ConfigurationError, match="fields must map"):
        PosthogClient(fields=["email"])  # type: ignore[arg-type]
