"""What a request holds and nobody asked for does not leave in the text of an error."""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from typing import Any
from urllib.parse import quote

import pytest

import usercontext
from tests.driver import asgi_request, plain_asgi_app
from tests.requests_of import scope_of
from usercontext import RequestData, asgi
from usercontext.exceptions import ConfigurationError
from usercontext.privacy.known_values import KnownValues
from usercontext.sentry import SentryClient
from usercontext.testing import RecordingClient

SECRET = "tiger é&two"
QUERY = scope_of(query_string=b"q=tigers")
BASIC = b64encode(b"ada:" + SECRET.encode()).decode()


@pytest.fixture(autouse=True)
def _reset() -> Any:
    yield
    usercontext.testing.reset()


def text_of(
    said: str, *, options: RequestData | None = None, data: Any = None, **request: Any
) -> str:
    """Return the text of an error in the report of a request."""
    recorder = RecordingClient()
    usercontext.init(client=recorder)

    def fail() -> None:
        usercontext.set_request_data(data)
        usercontext.capture_exception(RuntimeError(said))

    app = asgi.UserContextMiddleware(plain_asgi_app(fail), request_data=options or RequestData())
    asgi_request(app, scope_of() | request)
    text: str = recorder.events[-1]["exception"]["values"][-1]["value"]
    return text


REQUESTS = {
    "query": {"query_string": f"q={quote(SECRET)}".encode()},
    "cookie": {"headers": [(b"cookie", f"prefs={quote(SECRET)}".encode())]},
    "bearer": {"headers": [(b"authorization", f"Bearer {SECRET}".encode("latin-1", "replace"))]},
    "basic": {"headers": [(b"authorization", f"Basic {BASIC}".encode())]},
    "api key": {"headers": [(b"x-api-key", SECRET.encode("latin-1"))]},
    "data": {"data": {"nested": [{"password": SECRET}]}},
}
REQUESTS |= {
    "referer": {"headers": [(b"referer", f"https://shop.example/?q={quote(SECRET)}#x".encode())]},
    "query of a proxy": {"headers": [(b"x-forwarded-query", f"q={quote(SECRET)}".encode())]},
    "URL of a proxy": {"headers": [(b"x-original-url", f"/a?q={quote(SECRET)}".encode())]},
    "CSV": {"data": {"upload": f'email,password\nada@shop.example,"{SECRET}"'}},
}
SPELLINGS = {
    "plain": SECRET,
    "percent": quote(SECRET, safe=""),
    "JSON": json.dumps(SECRET),
    "repr": repr(SECRET),
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=list(SPELLINGS))
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=list(REQUESTS))
def test_withheld_value(request_: dict[str, Any], spelling: str) -> None:
    """A value that was withheld is replaced, however the error spells it."""
    assert "two" not in text_of(f"no user for {spelling}!", **request_)


def test_token_of_basic_auth() -> None:
    """The encoded form of a name and password is replaced as well."""
    assert BASIC not in text_of(f"refused {BASIC}", **REQUESTS["basic"])


def test_what_was_asked_for_stays() -> None:
    """A value of the query stays where the query is reported, unless its name is a secret's."""
    options = RequestData(include_query_string=True)
    query = b"colour=yellow&token=tigers"
    said = text_of("yellow and tigers", options=options, query_string=query)
    assert said == "yellow and [Filtered]"


def test_address() -> None:
    """The client's address is replaced unless it is reported."""
    said = "limit of 203.0.113.9 reached, 203-0-113-9, 198.51.100.7"
    shown = "limit of [Filtered] reached, [Filtered], 198.51.100.7"
    assert text_of(said, client=("203.0.113.9", 1)) == shown
    options = RequestData(include_ip=True)
    assert text_of(said, options=options, client=("203.0.113.9", 1)) == said


@pytest.mark.parametrize(
    ("option", "shown"), [("safe", "no [Filtered]"), ("full", "no tigers"), ("none", "")]
)
@pytest.mark.parametrize("by_client", [True, False])
def test_option(option: Any, shown: str, by_client: bool) -> None:
    """`exception_text` is an option of `init()` and of the client itself."""
    recorder = RecordingClient(**({"exception_text": option} if by_client else {}))
    usercontext.init(client=recorder, **({} if by_client else {"exception_text": option}))

    def fail() -> None:
        usercontext.capture_exception(RuntimeError("no tigers"))

    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(fail)), QUERY)
    assert recorder.events[-1]["exception"]["values"][-1]["value"] == shown


def test_wrong_option() -> None:
    """An unknown word raises at once, in both places."""
    with pytest.raises(ConfigurationError, match='"safe" or "full" or "none"'):
        usercontext.init(None, exception_text="some")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match='"safe" or "full" or "none"'):
        SentryClient(None, exception_text="some")  # type: ignore[arg-type]


def test_message_and_chained_cause() -> None:
    """Messages and causes are looked through as well."""
    recorder = RecordingClient()
    usercontext.init(client=recorder)

    def fail() -> None:
        usercontext.capture_message("seen tigers")
        try:
            try:
                raise LookupError("tigers")
            except LookupError as error:
                raise RuntimeError("worse") from error
        except RuntimeError as error:
            usercontext.capture_exception(error)

    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(fail)), QUERY)
    message, error = recorder.events
    texts = [value["value"] for value in error["exception"]["values"]]
    assert [*texts, message["logentry"]["message"]] == ["[Filtered]", "worse", "seen [Filtered]"]


def test_logged_error() -> None:
    """An error among the arguments of a log record is told without its input."""
    recorder = RecordingClient()
    usercontext.init(client=recorder, capture_logging="ERROR")
    try:
        int("hunter2")
    except ValueError as error:
        logging.getLogger("shop").error("no number: %s", error)
    assert "hunter2" not in json.dumps(recorder.events[-1]["logentry"])
    assert "no number" in recorder.events[-1]["logentry"]["formatted"]


def test_short_values_stay() -> None:
    """A value of less than six characters stands in texts by chance."""
    known = KnownValues(["tiger", "tigers"])
    assert known.without("a tiger among tigers") == "a tiger among [Filtered]"


def test_secret_names() -> None:
    """`secret_names` adds words to those that make a name a secret's, wherever it stands."""
    recorder = RecordingClient()
    options = RequestData(include_query_string=True)
    usercontext.init(client=recorder, request_data=options, secret_names=["Birth"])

    def fail() -> None:
        usercontext.capture_exception(RuntimeError("born 1815-12-10"))

    query = b"date_of_birth=1815-12-10&a=1"
    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(fail)), scope_of(query_string=query))
    event = recorder.events[-1]
    assert event["request"]["query_string"] == "date_of_birth=[Filtered]&a=1"
    assert event["exception"]["values"][-1]["value"] == "born [Filtered]"


@pytest.mark.parametrize("names", ["birth", ["b"], [5], [" "]])
def test_wrong_secret_names(names: Any) -> None:
    """What is not a list of words, or a letter that nearly every name holds, raises at once."""
    with pytest.raises(ConfigurationError, match="secret_names"):
        usercontext.init(None, secret_names=names)
