"""Pyramid: its security policy names the user, and what its exception views answer is reported."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

pyramid = pytest.importorskip("pyramid")

from pyramid.config import Configurator  # noqa: E402
from pyramid.events import NewRequest  # noqa: E402
from pyramid.httpexceptions import HTTPInternalServerError  # noqa: E402
from pyramid.response import Response  # noqa: E402
from pyramid.threadlocal import get_current_request  # noqa: E402

from tests.driver import environ_of, wsgi_request  # noqa: E402
from usercontext import (  # noqa: E402
    ConfigurationError,
    RequestData,
    User,
    capture_exception,
    get_user,
    init,
    set_user,
    wsgi,
)
from usercontext.clients.base import BaseClient  # noqa: E402
from usercontext.frameworks.pyramid import request_user  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usercontext.testing import RecordingClient

ADDRESSES = RequestData(include_ip=True)
CLIENT = BaseClient()


class Account:
    """A model with a field that must never leave."""

    def __init__(self, name: str) -> None:
        self.id = name
        self.name = name.title()
        self.password_hash = "x"


class Policy:
    """A security policy that finds the user by a header, and counts how often it is asked."""

    def __init__(self, identity: Any = Account) -> None:
        self.make = identity
        self.asked = 0
        self.is_open = True

    def identity(self, request: Any) -> Any:
        if not self.is_open:
            raise ConnectionError("the transaction is over")
        self.asked += 1
        name = request.headers.get("X-User")
        return None if name is None else self.make(name)

    def authenticated_userid(self, request: Any) -> Any:
        return request.headers.get("X-User")

    def permits(self, request: Any, context: Any, permission: str) -> bool:
        return True


def fail(_request: Any) -> Any:
    """Fail as a view does."""
    raise LookupError("no such thing")


def by_header(request: Any) -> dict[str, str]:
    """Name the user that a header names: the resolver of a setting."""
    return {"id": f"header:{request.headers['X-User']}"}


def configure(view: Any = fail, policy: Any = None, **settings: Any) -> Any:
    """Configure an app of one view, our settings among its own."""
    names = {name.replace("__", "."): value for name, value in settings.items()}
    config = Configurator(settings=names)
    config.set_security_policy(Policy() if policy is None else policy)
    config.include("usercontext.frameworks.pyramid")
    config.add_route("view", "/{rest:.*}")
    config.add_view(view, route_name="view")
    return config


def make_app(view: Any = fail, policy: Any = None, **settings: Any) -> Any:
    """Make an app of one view."""
    return configure(view, policy, **settings).make_wsgi_app()


def get(app: Any, name: str | None = "ada") -> bytes:
    """Send a request of somebody, or of nobody."""
    return wsgi_request(app, environ_of(**({} if name is None else {"x_user": name})))


def failing(app: Any, name: str | None = "ada") -> LookupError:
    """Send a request that fails; return its error."""
    with pytest.raises(LookupError) as caught:
        get(app, name)
    return caught.value


def users_of(recorder: RecordingClient) -> list[Any]:
    """Return the users that the reports name, in order."""
    return [event.get("user") for event in recorder.events]


ADA = {"id": "ada", "name": "Ada"}

# --- the ready resolver -------------------------------------------------------------------------


def test_without_a_resolver_the_security_policy_names_the_user(
    usercontext_recorder: RecordingClient,
) -> None:
    """Of the identity the report has id and name, and never the model."""
    error = failing(make_app())
    (event,) = usercontext_recorder.events
    assert event["user"] == ADA
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is False
    assert get_user(error=error) == User(**ADA)


def test_an_anonymous_request_is_nobodys(usercontext_recorder: RecordingClient) -> None:
    """Whom the policy does not know is nobody, also after somebody's request."""
    app = make_app()
    failing(app)
    failing(app, None)
    assert users_of(usercontext_recorder) == [ADA, None]


@pytest.mark.parametrize(
    ("identity", "user"),
    [
        pytest.param(str, {"id": "ada"}, id="a userid"),
        pytest.param(
            lambda name: {"userid": name, "tokens": ["t"]}, {"id": "ada"}, id="a ticket's mapping"
        ),
        pytest.param(
            lambda name: {"email": "ada@shop.example", "roles": ["admin"]},
            {"id": "ada", "email": "ada@shop.example"},
            id="claims",
        ),
        pytest.param(lambda name: {"id": 7, "ssn": "x"}, {"id": "7"}, id="a mapping with an id"),
        pytest.param(lambda name: object(), {"id": "ada"}, id="an object of no use"),
    ],
)
def test_an_identity_gives_its_fields_and_no_more(
    identity: Any, user: dict[str, str], usercontext_recorder: RecordingClient
) -> None:
    """What is not a field of a user stays, and the policy's userid stands in for an id."""
    failing(make_app(policy=Policy(identity)))
    assert users_of(usercontext_recorder) == [user]


def test_an_app_without_a_security_policy_has_nobody(
    usercontext_recorder: RecordingClient,
) -> None:
    """Pyramid says None then, and so does the report."""
    config = Configurator()
    config.include("usercontext.frameworks.pyramid")
    config.add_route("view", "/cart")
    config.add_view(fail, route_name="view")
    failing(config.make_wsgi_app())
    assert users_of(usercontext_recorder) == [None]


def test_the_policy_is_asked_for_reports_only() -> None:
    """A request that reports nothing pays for no identity, nor does one that is answered 404."""
    policy = Policy()

    def view(request: Any) -> Any:
        raise pyramid.httpexceptions.HTTPNotFound

    assert b"404" in get(make_app(view, policy))
    assert get(make_app(lambda _: Response("ok"), policy)) == b"ok"
    assert policy.asked == 0


def test_the_user_is_found_before_the_views_transaction_is_over(
    usercontext_recorder: RecordingClient,
) -> None:
    """A tween as pyramid_tm's closes what the policy asks before the error comes out."""
    policy = Policy()
    config = configure(policy=policy)
    config.registry.policy = policy
    config.add_tween(f"{__name__}.closing_tween")
    failing(config.make_wsgi_app())
    assert users_of(usercontext_recorder) == [ADA]


def closing_tween(handler: Any, registry: Any) -> Any:
    """Close what the policy needs when the request is through."""

    def tween(request: Any) -> Any:
        try:
            return handler(request)
        finally:
            registry.policy.is_open = False

    return tween


def test_an_error_of_a_tween_names_its_user(usercontext_recorder: RecordingClient) -> None:
    """Outside of all views, the policy is asked while Pyramid still has a current request."""
    policy = Policy(lambda name: get_current_request() and Account(name))
    config = configure(lambda _: Response("ok"), policy)
    config.add_tween(f"{__name__}.failing_tween")
    failing(config.make_wsgi_app())
    assert users_of(usercontext_recorder) == [ADA]


def failing_tween(handler: Any, registry: Any) -> Any:
    """Fail outside of all views."""
    return fail


# --- resolvers of the app -----------------------------------------------------------------------


@pytest.mark.parametrize("resolver", [by_header, f"{__name__}.by_header"])
def test_a_setting_names_the_resolver(resolver: Any, usercontext_recorder: RecordingClient) -> None:
    """As a function or a dotted name; it is called with Pyramid's request."""
    failing(make_app(usercontext__resolver=resolver))
    assert users_of(usercontext_recorder) == [{"id": "header:ada"}]


def test_the_resolver_gets_the_views_own_request() -> None:
    """The very request of the view, with what the app has put on it."""
    seen: list[Any] = []
    app = make_app(
        lambda request: Response(str(seen.append((get_user(), request)))),
        usercontext__resolver=seen.append,
    )
    get(app)
    resolved, (_, served) = seen
    assert resolved is served


def test_a_resolver_of_init_is_asked_before_the_policy() -> None:
    """Whoever set one for the process gets Pyramid's request, and the policy is not asked."""
    init(None, resolver=by_header)
    policy, seen = Policy(), []
    get(make_app(lambda _: Response(str(seen.append(get_user()))), policy))
    assert seen == [User(id="header:ada")]
    assert policy.asked == 0


def test_a_resolver_further_out_is_asked_before_the_policy(
    usercontext_recorder: RecordingClient,
) -> None:
    """It shares its request and its report, and is given the request it was written for."""
    app = wsgi.UserContextMiddleware(make_app(), resolver=lambda request: {"id": request.root_url})
    failing(app)
    assert users_of(usercontext_recorder) == [{"id": "https://shop.example/"}]


def test_an_eager_resolver_gets_a_request_of_pyramids(
    usercontext_recorder: RecordingClient,
) -> None:
    """Asked before Pyramid begins, it gets one with the app's registry, and so its policy."""
    failing(make_app(usercontext__resolve="eager"))
    assert users_of(usercontext_recorder) == [ADA]


def test_an_async_resolver_is_run_aside(usercontext_recorder: RecordingClient) -> None:
    """Over WSGI it runs when the report needs it."""

    async def resolver(request: Any) -> object:
        await asyncio.sleep(0)
        return request_user(request)

    failing(make_app(usercontext__resolver=resolver))
    assert users_of(usercontext_recorder) == [ADA]


# --- errors that are answered -------------------------------------------------------------------


def answering(status: int, *, reporting: bool = False) -> Any:
    """Make an exception view."""

    def view(error: Exception, request: Any) -> Any:
        if reporting:
            capture_exception(error)
        return Response("sorry", status=status)

    return view


@pytest.mark.parametrize(("status", "reports"), [(500, 1), (409, 0), (503, 0)])
def test_an_exception_view_that_answers_500_has_handled_nothing(
    status: int, reports: int, usercontext_recorder: RecordingClient
) -> None:
    """A page for the 500 is not a remedy; any other answer is."""
    config = configure()
    config.add_exception_view(answering(status), context=LookupError)
    assert get(config.make_wsgi_app()) == b"sorry"
    assert users_of(usercontext_recorder) == [ADA] * reports


def test_an_exception_view_that_reports_is_the_only_one(
    usercontext_recorder: RecordingClient,
) -> None:
    """What the app has reported is not reported again as unhandled."""
    config = configure()
    config.add_exception_view(answering(500, reporting=True), context=Exception)
    get(config.make_wsgi_app())
    (event,) = usercontext_recorder.events
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is True


def test_an_exception_view_finds_the_user_by_the_error() -> None:
    """As the current user, and by the error alone."""
    seen: list[User | None] = []

    def view(error: Exception, request: Any) -> Any:
        seen.extend([get_user(), get_user(error=error)])
        return Response("sorry", status=500)

    config = configure()
    config.add_exception_view(view, context=Exception)
    get(config.make_wsgi_app())
    assert seen == [User(**ADA)] * 2


def test_an_http_exception_is_an_answer(usercontext_recorder: RecordingClient) -> None:
    """Raised or returned, also as a 500, it is what the app has to say."""

    def view(request: Any) -> Any:
        raise HTTPInternalServerError

    assert b"500" in get(make_app(view))
    assert usercontext_recorder.events == []


def test_an_attempt_that_is_repeated_is_no_report(usercontext_recorder: RecordingClient) -> None:
    """An execution policy of the app, as pyramid_retry's, has the last word on what failed."""
    attempts: list[int] = []

    def view(request: Any) -> Any:
        attempts.append(1)
        return Response("ok") if len(attempts) == 2 else fail(request)

    def twice(environ: Any, router: Any) -> Any:
        with router.request_context(environ) as request:
            response = router.invoke_request(request)
        with router.request_context(environ) as request:
            return router.invoke_request(request) if response.status_int == 500 else response

    config = configure(view)
    config.set_execution_policy(twice)
    config.add_exception_view(answering(500), context=Exception)
    assert get(config.make_wsgi_app()) == b"ok"
    assert usercontext_recorder.events == []


# --- streams, subrequests, several apps ---------------------------------------------------------


def test_a_streamed_body_knows_its_user(usercontext_recorder: RecordingClient) -> None:
    """A body that is made after Pyramid is through still asks the policy, and reports its error."""
    seen: list[User | None] = []

    def chunks() -> Iterator[bytes]:
        seen.append(get_user())
        yield b"x"
        raise LookupError("no more")

    failing(make_app(lambda _: Response(app_iter=chunks())))
    assert seen == [User(**ADA)]
    assert users_of(usercontext_recorder) == [ADA]
    assert get_user() is None


def test_a_subrequest_is_part_of_its_request(usercontext_recorder: RecordingClient) -> None:
    """A view that another one calls works for the same user, and fails for them, once."""

    def view(request: Any) -> Any:
        if request.path == "/sub":
            set_user({"id": "changed"})
            return fail(request)
        return request.invoke_subrequest(request.blank("/sub"), use_tweens=True)

    failing(make_app(view))
    assert users_of(usercontext_recorder) == [{"id": "changed"}]


def test_each_app_has_its_own_settings(usercontext_recorder: RecordingClient) -> None:
    """Two apps in a process name their users each in its own way."""
    failing(make_app(usercontext__resolver=by_header))
    failing(make_app())
    assert users_of(usercontext_recorder) == [{"id": "header:ada"}, ADA]


def test_ours_inside_ours_reports_once(usercontext_recorder: RecordingClient) -> None:
    """A middleware around it without options changes nothing."""
    failing(wsgi.UserContextMiddleware(make_app()))
    assert users_of(usercontext_recorder) == [ADA]


def test_requests_announce_their_events_to_those_who_listen() -> None:
    """Ours listens while an app is made, which brings no request the events of its own."""
    silent, heard = configure(lambda _: Response("ok")), configure(lambda _: Response("ok"))
    seen: list[Any] = []
    heard.add_subscriber(seen.append, NewRequest)
    for config in (silent, heard):
        get(config.make_wsgi_app())
    assert not silent.registry.has_listeners
    assert [type(event) for event in seen] == [NewRequest]


def test_a_second_app_of_one_configuration_is_served_too(
    usercontext_recorder: RecordingClient,
) -> None:
    """However many apps are made of it."""
    config = configure(policy=Policy())
    for _ in range(2):
        failing(config.make_wsgi_app())
    assert users_of(usercontext_recorder) == [ADA, ADA]


def test_included_twice_is_as_good_as_once(usercontext_recorder: RecordingClient) -> None:
    """Pyramid itself includes it once."""
    config = configure()
    config.include("usercontext.frameworks.pyramid")
    failing(config.make_wsgi_app())
    assert users_of(usercontext_recorder) == [ADA]


# --- settings -----------------------------------------------------------------------------------


def test_settings_may_be_the_texts_of_an_ini_file(usercontext_recorder: RecordingClient) -> None:
    """Objects by dotted name, lists by lines, numbers and flags as they are written."""
    app = make_app(
        usercontext__request_data=f"{__name__}.ADDRESSES",
        usercontext__clients=f"{__name__}.CLIENT",
        usercontext__scrub="$user.name\n$user.email",
        usercontext__resolver_timeout="0.5",
        usercontext__detached_ttl="none",
        usercontext__resolver_thread="false",
        usercontext__never_store_ip="false",
    )
    failing(app)
    assert users_of(usercontext_recorder) == [{"id": "ada", "ip_address": "203.0.113.9"}]


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("resolvr", "x", "did you mean resolver"),
        ("resolver", "nowhere.at_all", r"usercontext\.resolver cannot be read: No module named"),
        ("never_store_ip", "ture", r"usercontext\.never_store_ip .*write true or false"),
        ("resolver_timeout", "soon", r"usercontext\.resolver_timeout cannot be read"),
        ("resolver", 7, "resolver must be a function of the request"),
    ],
)
def test_a_wrong_setting_names_itself(setting: str, value: Any, message: str) -> None:
    """It is refused when the app is made."""
    with pytest.raises(ConfigurationError, match=message):
        make_app(**{f"usercontext__{setting}": value})
