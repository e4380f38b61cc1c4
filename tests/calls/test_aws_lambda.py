"""AWS Lambda: handlers as Lambda calls them, plain and with Mangum and apig-wsgi inside."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from apig_wsgi import make_lambda_handler
from mangum import Mangum

import usercontext
from tests.calls.serving import named, who
from usercontext import RequestData, asgi, wsgi
from usercontext.calls.aws_lambda import BatchUserContext, UserContext
from usercontext.exceptions import ConfigurationError
from usercontext.testing import RecordingClient

if TYPE_CHECKING:
    from collections.abc import Callable

ADDRESS = RequestData(include_ip=True)


class Invocation:
    """What Lambda gives a handler beside the event."""

    function_name = "shop"

    def __init__(self, milliseconds: int = 3000) -> None:
        self.milliseconds = milliseconds

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


class FlushedClient(RecordingClient):
    """Notes which reports have left, and how long there was for it."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[int] = []
        self.given: list[float] = []

    def flush(self, timeout: float = 2.0) -> bool:
        self.left.append(len(self.events))
        self.given.append(timeout)
        return True


@pytest.fixture(autouse=True)
def recorder() -> FlushedClient:
    """Take the reports of the process."""
    taken = FlushedClient()
    usercontext.init(None, client=taken)
    return taken


def http_event(caller: str | None, address: str = "203.0.113.9") -> dict[str, Any]:
    """Return an event of a Function URL or an HTTP API."""
    headers = {"host": "shop.example", **({} if caller is None else {"x-caller": caller})}
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/x",
        "rawQueryString": "",
        "headers": headers,
        "isBase64Encoded": False,
        "requestContext": {
            "stage": "$default",
            "http": {"method": "GET", "path": "/x", "protocol": "HTTP/1.1", "sourceIp": address},
        },
    }


def rest_event(address: str) -> dict[str, Any]:
    """Return an event of a REST API."""
    return {
        "httpMethod": "GET",
        "path": "/x",
        "headers": {"x-caller": "ada"},
        "multiValueHeaders": {"x-caller": ["ada"]},
        "requestContext": {"identity": {"sourceIp": address}},
    }


def balancer_event(address: str) -> dict[str, Any]:
    """Return an event of an application load balancer, which a client has lied to."""
    return {
        "httpMethod": "GET",
        "path": "/x",
        "headers": {"x-forwarded-for": f"198.51.100.7, {address}"},
        "requestContext": {"elb": {"targetGroupArn": "arn"}},
    }


def find(event: Any) -> dict[str, str] | None:
    """Find who calls by a header of the event."""
    caller = event.get("headers", {}).get("x-caller")
    return None if caller is None else {"id": caller}


def test_every_invocation_has_its_own_user() -> None:
    """Warm starts keep nothing: callers alternate, and there is nobody outside."""
    handler = UserContext(lambda event, context: who(), resolver=find)
    callers = ["ada", "bob", None, "ada", None]
    seen = [handler(http_event(caller), Invocation()) for caller in callers]
    assert seen == [caller or "nobody" for caller in callers]
    assert who() == "nobody"


def fails(event: Any, context: Any) -> None:
    """Fail, as handlers do."""
    raise RuntimeError("kaboom")


def test_an_error_leaves_before_the_handler_returns(recorder: FlushedClient) -> None:
    """The unhandled error is reported once, with its user, and sent in the time that is left."""
    with pytest.raises(RuntimeError):
        UserContext(fails, resolver=find)(http_event("ada"), Invocation(600))
    assert named(recorder.events) == [("RuntimeError", "ada")]
    assert recorder.left == [1]
    assert recorder.given == [0.5]
    assert recorder.events[0]["transaction"] == "shop"


@pytest.mark.parametrize("event", [http_event("ada"), rest_event("203.0.113.9")])
def test_the_address_is_of_the_gateway(event: Any, recorder: FlushedClient) -> None:
    """The client's address is the one that API Gateway was connected to."""
    with pytest.raises(RuntimeError):
        UserContext(fails, resolver=find, request_data=ADDRESS)(event, Invocation())
    assert recorder.events[0]["user"] == {"id": "ada", "ip_address": "203.0.113.9"}
    assert recorder.events[0]["request"]["method"] == "GET"


def test_the_address_of_a_load_balancer_is_what_it_wrote(recorder: FlushedClient) -> None:
    """Of a header that the client began, the end is the load balancer's."""
    with pytest.raises(RuntimeError):
        UserContext(fails, request_data=ADDRESS)(balancer_event("203.0.113.9"), Invocation())
    assert recorder.events[0]["user"] == {"ip_address": "203.0.113.9"}


@pytest.mark.parametrize(
    "event",
    [{"source": "aws.events", "detail": {}}, {"Records": [{"eventSource": "aws:s3"}]}, [], None],
)
def test_other_events_have_nobody(event: Any, recorder: FlushedClient) -> None:
    """An event of a schedule or a bucket names nobody, after somebody's as well."""
    UserContext(lambda *_: None, resolver=find)(http_event("ada"), Invocation())
    with pytest.raises(RuntimeError):
        UserContext(fails)(event, Invocation())
    assert named(recorder.events) == [("RuntimeError", None)]


def test_the_resolver_of_requests_is_not_asked() -> None:
    """`init(resolver=...)` takes requests, which an event is not."""
    usercontext.init(None, resolver=lambda request: {"id": request.headers["x-caller"]})
    assert UserContext(lambda *_: who())(http_event("ada"), Invocation()) == "nobody"


def batch(*callers: str | None) -> dict[str, Any]:
    """Return an event of a queue."""
    return {
        "Records": [
            {
                "messageId": str(number),
                "eventSource": "aws:sqs",
                "body": "",
                "headers": {} if caller is None else {"x-caller": caller},
            }
            for number, caller in enumerate(callers)
        ]
    }


def test_every_message_of_a_batch_has_its_own_user(recorder: FlushedClient) -> None:
    """Messages of one batch alternate, and each error names who sent its message."""
    seen: list[str] = []

    def handle(message: Any) -> None:
        seen.append(who())
        if seen[-1] == "bob":
            raise RuntimeError("kaboom")

    handler = BatchUserContext(handle, partial=True, resolver=find)
    answer = handler(batch("ada", "bob", None, "bob"), Invocation())
    assert seen == ["ada", "bob", "nobody", "bob"]
    assert named(recorder.events) == [("RuntimeError", "bob")] * 2
    assert answer == {"batchItemFailures": [{"itemIdentifier": "1"}, {"itemIdentifier": "3"}]}


def test_a_batch_that_failed_comes_again() -> None:
    """Without `partial` the first error is raised, once all messages have been handled."""
    seen: list[str] = []

    def handle(message: Any) -> None:
        seen.append(who())
        raise RuntimeError(who())

    with pytest.raises(RuntimeError, match="ada"):
        BatchUserContext(handle, resolver=find)(batch("ada", "bob"), Invocation())
    assert seen == ["ada", "bob"]


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    """Fail, as apps do."""
    raise KeyError("kettle")


def wsgi_app(environ: Any, start_response: Callable[..., Any]) -> list[bytes]:
    """Fail, as apps do."""
    raise KeyError("kettle")


def by_header(request: Any) -> dict[str, str]:
    """Find who sends a request."""
    return {"id": request.headers["x-caller"]}


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "with the decorator"])
@pytest.mark.parametrize("kind", ["mangum", "apig-wsgi"])
def test_apps_behind_an_adapter(kind: str, wrapped: bool, recorder: FlushedClient) -> None:
    """The middleware's report has left, once, before the handler returns."""
    if kind == "mangum":
        asyncio.set_event_loop(asyncio.new_event_loop())
        app = asgi.UserContextMiddleware(asgi_app, resolver=by_header, request_data=ADDRESS)
        handler: Any = Mangum(app, lifespan="off")
    else:
        served = wsgi.UserContextMiddleware(wsgi_app, resolver=by_header, request_data=ADDRESS)
        handler = make_lambda_handler(served)
    if wrapped:
        handler = UserContext(handler)
    with suppress(KeyError):  # apig-wsgi lets it pass, Mangum answers
        handler(http_event("ada"), Invocation())
    assert [event["user"] for event in recorder.events] == [
        {"id": "ada", "ip_address": "203.0.113.9"}
    ]
    assert recorder.left[0] == 1
    if kind == "mangum":
        asyncio.get_event_loop().close()


def test_a_message_of_an_app_behind_an_adapter_leaves(recorder: FlushedClient) -> None:
    """What a request reports without failing has left before its invocation ends."""

    def app(environ: Any, start_response: Callable[..., Any]) -> list[bytes]:
        usercontext.capture_message("seen")
        start_response("200 OK", [])
        return [b""]

    make_lambda_handler(wsgi.UserContextMiddleware(app))(http_event("ada"), Invocation())
    assert recorder.left == [1]


def test_what_is_no_handler_is_refused() -> None:
    """Anything else is refused, with what to write."""
    with pytest.raises(ConfigurationError, match="def handler"):
        UserContext("handler")  # type: ignore[arg-type]
