"""From a call of `capture_exception()` to a finished event."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import sys
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from usercontext import User
from usercontext.exceptions import ConfigurationError, InvalidDsnError, MissingDependencyError
from usercontext.sentry import Dsn, SentryClient, Transport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Kept:
    """A transport that keeps events, and counts what is dropped."""

    def __init__(self, *, room: bool = True) -> None:
        self.events: list[dict[str, Any]] = []
        self.discarded: list[str] = []
        self.room = room

    def has_room(self) -> bool:
        return self.room

    def submit(self, event: dict[str, Any], /) -> bool:
        self.events.append(event)
        return True

    def discard(self, reason: str, /) -> None:
        self.discarded.append(reason)

    def flush(self, timeout: float = 2.0) -> bool:
        return True

    def close(self, timeout: float = 2.0) -> bool:
        return True

    def stats(self) -> dict[str, Any]:
        return {"captured": len(self.events)}


@pytest.fixture
def kept() -> Kept:
    """A transport that keeps events."""
    return Kept()


def failing() -> Exception:
    """Return an exception that has been raised."""
    try:
        raise ValueError("boom")
    except ValueError as error:
        return error


def test_capture_exception(kept: Kept) -> None:
    """A captured exception is sent under the id that is returned."""
    event_id = SentryClient(transport=kept).capture_exception(failing())

    assert kept.events[0]["event_id"] == event_id
    assert kept.events[0]["exception"]["values"][0]["value"] == "boom"


def test_capture_the_exception_being_handled(kept: Kept) -> None:
    """Without an exception, the one being handled is captured."""
    try:
        raise KeyError("handled")
    except KeyError:
        SentryClient(transport=kept).capture_exception()

    assert kept.events[0]["exception"]["values"][0]["type"] == "KeyError"


@pytest.mark.parametrize("value", [None, "text", ValueError], ids=["None", "str", "class"])
def test_capture_no_exception(kept: Kept, value: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What is not an exception is not captured, and the log says so."""
    assert SentryClient(transport=kept).capture_exception(value) is None
    assert not kept.events
    assert "without an exception" in caplog.text


def test_capture_message(kept: Kept) -> None:
    """A message is sent with its level."""
    event_id = SentryClient(transport=kept).capture_message("hello", level="warning")

    assert kept.events[0]["event_id"] == event_id
    assert kept.events[0]["level"] == "warning"


def test_nothing_without_a_dsn() -> None:
    """Without a DSN nothing is reported, and everything can be called."""
    for dsn in (None, "", "  "):
        client = SentryClient(dsn)

        assert client.capture_message("x") is None
        assert client.send({"event_id": "x"}) is None
        assert client.flush()
        assert client.close()
        assert client.stats() == {"captured": 0, "sent": 0, "queued": 0, "discarded": {}}


STOPS = [
    KeyboardInterrupt(),
    SystemExit(),
    SystemExit(0),
    GeneratorExit(),
    asyncio.CancelledError(),
]


@pytest.mark.parametrize("error", STOPS, ids=repr)
def test_stops_are_not_captured(kept: Kept, error: BaseException) -> None:
    """Ways in which a program or task stops are not failures."""
    assert SentryClient(transport=kept).capture_exception(error) is None
    assert kept.discarded == []


@pytest.mark.parametrize("status", [1, "cannot go on"])
def test_an_exit_that_tells_of_a_failure_is_captured(kept: Kept, status: object) -> None:
    """Servers end a worker that hangs by `SystemExit(1)`."""
    assert SentryClient(transport=kept).capture_exception(SystemExit(status))


def test_other_base_exceptions_are_captured(kept: Kept) -> None:
    """A BaseException of the app's own is captured."""

    class Special(BaseException):
        pass

    assert SentryClient(transport=kept).capture_exception(Special())


# Who is named


def test_user(kept: Kept) -> None:
    """A user given with the call is sent as it is."""
    client = SentryClient(transport=kept)
    client.capture_message("x", user=User(id=7, plan="pro"))
    client.capture_message("x", user={"id": 7})

    assert [event["user"] for event in kept.events] == [{"id": "7", "plan": "pro"}, {"id": "7"}]


def test_user_asked_for(kept: Kept) -> None:
    """Without one, the context is asked, about the exception too."""
    client, error = SentryClient(transport=kept), failing()
    client.setup(lambda error=None: {"id": repr(error)})
    client.capture_exception(error)
    client.capture_message("x")

    assert [event["user"]["id"] for event in kept.events] == [repr(error), "None"]


def test_given_user_beats_the_context(kept: Kept) -> None:
    """A user given with the call is taken whole."""
    client = SentryClient(transport=kept)
    client.setup(lambda error=None: {"id": "1", "email": "a@example.com"})
    client.capture_message("x", user={"id": "2"})

    assert kept.events[0]["user"] == {"id": "2"}


def test_bad_user(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """A user that is none costs the user, not the report, and is not logged."""
    SentryClient(transport=kept).capture_message("x", user={"id": ["hunter2"]})

    assert "user" not in kept.events[0]
    assert "id of a user is left out" in caplog.text
    assert "hunter2" not in caplog.text


def test_request(kept: Kept) -> None:
    """A request given with the call is copied."""
    request = {"url": "http://x/", "headers": {"A": "b"}}
    SentryClient(transport=kept).capture_message("x", request=request)
    request["headers"]["A"] = "changed"  # type: ignore[index]

    assert kept.events[0]["request"] == {"url": "http://x/", "headers": {"A": "b"}}


INFER = {
    "no user": (None, "never"),
    "an id": ({"id": "1"}, "never"),
    "an address": ({"ip_address": "203.0.113.7"}, "never"),
    "the app asks": ({"ip_address": "{{auto}}"}, "auto"),
}


@pytest.mark.parametrize(("user", "infer"), INFER.values(), ids=INFER)
def test_infer_ip(kept: Kept, user: Any, infer: str) -> None:
    """The server fills in an address only where the app asks for it."""
    SentryClient(transport=kept).capture_message("x", user=user)

    assert kept.events[0]["sdk"]["name"] == "usercontext.python"
    assert kept.events[0]["sdk"]["settings"] == {"infer_ip": infer}


# Callbacks


def test_before_send(kept: Kept) -> None:
    """`before_send` may change an event."""

    def before_send(event: dict[str, Any]) -> dict[str, Any]:
        event["extra"] = {"seen": True}
        return event

    SentryClient(transport=kept, before_send=before_send).capture_message("x")

    assert kept.events[0]["extra"] == {"seen": True}


def test_before_send_changes_one_event(kept: Kept) -> None:
    """What it changes in the source lines of an event is not changed in the next event."""
    shown = []

    def before_send(event: dict[str, Any]) -> dict[str, Any]:
        lines = event["exception"]["values"][0]["stacktrace"]["frames"][-1]["pre_context"]
        shown.append(list(lines))
        lines.clear()
        return event

    client = SentryClient(transport=kept, before_send=before_send)
    for _ in range(2):
        try:
            explode(None)
        except Exception as error:
            client.capture_exception(error)

    assert shown[0] == shown[1] != []


def test_before_send_drops(kept: Kept) -> None:
    """`before_send` may drop an event, which is counted."""
    client = SentryClient(transport=kept, before_send=lambda event: None)

    assert client.capture_message("x") is None
    assert (kept.events, kept.discarded) == ([], ["before_send"])


def explode(event: Any) -> Any:
    """Raise."""
    raise RuntimeError("broken")


def test_before_send_raises(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """If it raises, the event is dropped, and the log says so once."""
    client = SentryClient(transport=kept, before_send=explode)
    client.capture_message("x")

    assert client.capture_message("x") is None
    assert (kept.events, kept.discarded) == ([], ["before_send", "before_send"])
    assert caplog.text.count("before_send raised") == 1


def test_before_send_returns_nonsense(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """If it returns something else, the event is dropped."""
    client = SentryClient(transport=kept, before_send=lambda event: True)  # type: ignore[arg-type, return-value]

    assert client.capture_message("x") is None
    assert kept.discarded == ["before_send"]
    assert "must return the event or None, not bool" in caplog.text


def test_before_send_cannot_change_the_id(kept: Kept) -> None:
    """The id that is returned is the id that is sent."""

    def before_send(event: dict[str, Any]) -> dict[str, Any]:
        return {"event_id": "mine", "logentry": event["logentry"]}

    event_id = SentryClient(transport=kept, before_send=before_send).capture_message("x")

    assert kept.events[0]["event_id"] == event_id != "mine"


def test_before_send_cannot_switch_inference_on(kept: Kept) -> None:
    """`infer_ip` is decided after it."""

    def before_send(event: dict[str, Any]) -> dict[str, Any]:
        event["sdk"] = {"settings": {"infer_ip": "auto"}}
        return event

    SentryClient(transport=kept, before_send=before_send).capture_message("x")

    assert kept.events[0]["sdk"]["settings"]["infer_ip"] == "never"


def capture_with(client: SentryClient, scrub: Callable[[Any], Any]) -> str | None:
    """Capture a message on which another has the last word."""
    event = client.build_message("x")
    assert event is not None
    return client.send(event, scrub=scrub)


def test_last_word_comes_last(kept: Kept) -> None:
    """The last word sees what `before_send` added, as plain text and out of its reach."""

    class Sneaky:
        def __str__(self) -> str:
            return "203.0.113.7"

    held: list[Any] = []

    def before_send(event: dict[str, Any]) -> dict[str, Any]:
        event["extra"] = {"object": Sneaky()}
        held.append(event)
        return event

    def scrub(event: dict[str, Any]) -> dict[str, Any]:
        assert event["extra"] == {"object": "203.0.113.7"}
        event["extra"]["object"] = "[ip]"
        return event

    capture_with(SentryClient(transport=kept, before_send=before_send), scrub)
    held[0]["extra"]["object"] = "203.0.113.7"

    assert kept.events[0]["extra"] == {"object": "[ip]"}


def test_last_word_raises(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """If the last word fails, the event is dropped."""
    assert capture_with(SentryClient(transport=kept), explode) is None
    assert (kept.events, kept.discarded) == ([], ["event_processor"])
    assert "could not be scrubbed" in caplog.text


def test_last_word_may_remove_the_address(kept: Kept) -> None:
    """Where the last word removes `{{auto}}`, the server infers nothing."""
    client = SentryClient(transport=kept)
    event = client.build_message("x")
    assert event is not None
    event["user"] = {"ip_address": "{{auto}}"}
    client.send(event, scrub=lambda event: {**event, "user": {}})

    assert kept.events[0]["sdk"]["settings"]["infer_ip"] == "never"


def test_no_recursion(kept: Kept) -> None:
    """What happens while we build or finish a report is not reported."""
    clients: list[SentryClient] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            clients[0].capture_message(record.getMessage())

    class NoisyError(Exception):
        def __str__(self) -> str:
            clients[0].capture_message("from __str__")
            return "noisy"

    clients.append(SentryClient(transport=kept, before_send=explode))
    handler = Handler()
    logging.getLogger("usercontext").addHandler(handler)
    try:
        clients[0].capture_exception(NoisyError())
    finally:
        logging.getLogger("usercontext").removeHandler(handler)

    assert kept.discarded == ["before_send"]


# What is wanted


def test_sample_rate_of_zero(kept: Kept) -> None:
    """A rate of 0.0 sends nothing, and counts it."""
    client = SentryClient(transport=kept, sample_rate=0.0)

    assert client.capture_message("x") is None
    assert kept.discarded == ["sample_rate"]


def test_sample_rate(kept: Kept) -> None:
    """A rate in between sends about that part."""
    client = SentryClient(transport=kept, sample_rate=0.5)
    for _ in range(1000):
        client.capture_message("x")

    assert 400 < len(kept.events) < 600
    assert len(kept.events) + len(kept.discarded) == 1000


def test_no_room(kept: Kept) -> None:
    """Without room in the queue no event is built."""
    kept.room = False

    class UnseenError(Exception):
        def __str__(self) -> str:
            raise AssertionError("it was built")

    assert SentryClient(transport=kept).capture_exception(UnseenError()) is None
    assert kept.discarded == ["queue_overflow"]


def test_building_fails(
    kept: Kept, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours costs the report, and harms nobody."""
    client = SentryClient(transport=kept)
    monkeypatch.setattr(client, "_builder", None)

    assert client.capture_message("x") is None
    assert kept.discarded == ["internal_sdk_error"]
    assert "could not build a report" in caplog.text


def test_transport_fails(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """So it is with a transport of the app's own."""
    kept.submit = explode  # type: ignore[method-assign]

    assert SentryClient(transport=kept).capture_message("x") is None
    assert "could not hand over a report" in caplog.text


def test_finishing_fails(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """An event that cannot be read after `before_send` is dropped, and counted."""

    class Unreadable(dict[str, Any]):
        def __iter__(self) -> Any:
            raise RuntimeError("hunter2")

    client = SentryClient(transport=kept, before_send=Unreadable)

    assert client.capture_message("x") is None
    assert (kept.events, kept.discarded) == ([], ["internal_sdk_error"])
    assert "could not hand over a report" in caplog.text


@pytest.mark.parametrize("method", ["has_room", "discard", "submit"])
def test_everything_fails(kept: Kept, method: str) -> None:
    """Whatever of a transport fails, nothing is raised into the app."""
    setattr(kept, method, lambda *args: explode(args))
    client = SentryClient(transport=kept, before_send=lambda event: None)

    assert client.capture_message("x") is None
    assert client.send({}) is None


@pytest.mark.parametrize("timeout", [0, -1, math.inf, math.nan, 1e300, 10**400, None, "soon"])
def test_odd_timeouts(
    make_client: Callable[..., SentryClient], tmp_path: Path, timeout: Any
) -> None:
    """No timeout makes `flush()` or `close()` raise."""
    client = make_client(f"sqlite:///{tmp_path}/reports.db")

    assert client.flush(timeout) in (True, False)
    assert client.close(timeout) in (True, False)


def test_stats_of_a_transport(kept: Kept) -> None:
    """`stats()` are the transport's."""
    client = SentryClient(transport=kept)
    client.capture_message("x")

    assert client.stats() == {"captured": 1}


# Options

WRONG: dict[str, dict[str, Any]] = {
    "release, slash": {"release": "a/b"},
    "release, number": {"release": 1.0},
    "release, latest": {"release": "latest"},
    "environment, empty": {"environment": ""},
    "environment, slash": {"environment": "a/b"},
    "environment, none": {"environment": "None"},
    "environment, blank": {"environment": " test"},
    "server_name, address": {"server_name": "203.0.113.7"},
    "server_name, IPv6": {"server_name": "[2001:db8::7]"},
    "server_name, number": {"server_name": 7},
    "sample_rate, above": {"sample_rate": 1.1},
    "sample_rate, NaN": {"sample_rate": math.nan},
    "sample_rate, bool": {"sample_rate": True},
    "sample_rate, text": {"sample_rate": "0.5"},
    "before_send, text": {"before_send": "x"},
    "before_send, result": {"before_send": explode.__name__},
    "include_local_variables": {"include_local_variables": 1},
    "in_app_include, text": {"in_app_include": "shop"},
    "in_app_include, number": {"in_app_include": 7},
    "in_app_exclude, numbers": {"in_app_exclude": [7]},
    "max_queue, zero": {"max_queue": 0},
    "max_queue, float": {"max_queue": 1.5},
    "max_queue_bytes": {"max_queue_bytes": -1},
    "overflow": {"overflow": "drop_all"},
    "outbox, empty": {"outbox": ""},
    "outbox, number": {"outbox": 7},
    "outbox, DSN": {"outbox": "sqlite:///outbox.db"},
    "max_outbox_bytes": {"max_outbox_bytes": 0},
    "timeout, zero": {"timeout": 0},
    "timeout, endless": {"timeout": math.inf},
    "timeout, None": {"timeout": None},
    "shutdown_timeout": {"shutdown_timeout": -1},
    "proxy": {"proxy": "proxy.example:3128"},
    "ca_certs": {"ca_certs": ""},
    "max_reports": {"max_reports": 0},
    "max_age": {"max_age": timedelta()},
    "transport": {"transport": object()},
}


@pytest.mark.parametrize("options", WRONG.values(), ids=WRONG)
def test_wrong_option(options: dict[str, Any]) -> None:
    """A wrong option is refused when the client is built, naming it and what to write."""
    (name,) = options
    with pytest.raises(ConfigurationError, match=rf"^{name} must .*(write|missing)"):
        SentryClient(**options)


def test_async_before_send() -> None:
    """An async `before_send` is refused: nobody could await it."""

    async def before_send(event: Any) -> Any:
        return event

    class Callable:
        async def __call__(self, event: Any) -> Any:
            return event

    for function in (before_send, Callable()):
        with pytest.raises(ConfigurationError, match="plain function"):
            SentryClient(before_send=function)


def test_callable_before_send(kept: Kept) -> None:
    """Any callable will do."""

    class Keep:
        def __call__(self, event: Any) -> Any:
            return event

    assert SentryClient(transport=kept, before_send=Keep()).capture_message("x")
    assert SentryClient(transport=kept, before_send=dict).capture_message("x")


def test_proxy_password_is_not_told() -> None:
    """A wrong proxy is refused without telling it."""
    with pytest.raises(ConfigurationError) as caught:
        SentryClient(proxy="user:hunter2@proxy:1")

    assert "hunter2" not in str(caught.value)


def test_bad_dsn() -> None:
    """A wrong DSN is refused without telling it."""
    with pytest.raises(InvalidDsnError) as caught:
        SentryClient("https://key:hunter2@sentry.example")

    assert "hunter2" not in str(caught.value)


def test_no_file_of_certificates() -> None:
    """A file of certificates that cannot be read is refused."""
    pytest.importorskip("httpx")
    with pytest.raises(ConfigurationError, match="ca_certs"):
        SentryClient("https://key@host/1", ca_certs="/does/not/exist.pem")


def test_server_name(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's name is told, unless it is an address."""
    monkeypatch.setattr("socket.gethostname", lambda: "web-1")
    SentryClient(transport=kept).capture_message("x")
    monkeypatch.setattr("socket.gethostname", lambda: "203.0.113.7")
    SentryClient(transport=kept).capture_message("x")
    SentryClient(transport=kept, server_name="db-1").capture_message("x")

    assert [event.get("server_name") for event in kept.events] == ["web-1", None, "db-1"]


def test_options_arrive(kept: Kept) -> None:
    """Release and environment stand in every event."""
    SentryClient(transport=kept, release="shop@1.0", environment="test").capture_message("x")
    SentryClient(transport=kept, max_age=timedelta(days=1)).capture_message("x")

    assert (kept.events[0]["release"], kept.events[0]["environment"]) == ("shop@1.0", "test")
    assert "release" not in kept.events[1]
    assert kept.events[1]["environment"] == "production"


def test_repr(make_client: Callable[..., SentryClient], tmp_path: Path) -> None:
    """A client's repr says where it reports to, and no key."""
    assert repr(SentryClient()) == "<SentryClient to 'nothing', environment 'production'>"
    assert str(tmp_path) in repr(make_client(f"sqlite:///{tmp_path}/reports.db"))
    shown = repr(make_client(Dsn("https://publickey:hunter2@host/1")))
    assert "https://***@host/1" in shown
    assert not re.search("publickey|hunter2", shown)


def test_neither_httpx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without httpx an HTTP DSN is refused, naming the extra that brings it."""
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(MissingDependencyError, match=r"usercontext\[sentry\]"):
        SentryClient("https://key@host/1")

    assert SentryClient().capture_message("x") is None


def test_built_in_transports_are_transports() -> None:
    """What is documented as the transport's methods is what a transport needs."""
    names = {name for name in vars(Transport) if not name.startswith("_")}

    assert names == {"has_room", "submit", "discard", "flush", "close", "stats"}


def test_threads_share_a_client(kept: Kept) -> None:
    """Many threads may capture at once."""
    client = SentryClient(transport=kept)
    barrier = threading.Barrier(8)

    def capture() -> None:
        barrier.wait()
        for _ in range(50):
            client.capture_exception(failing())

    threads = [threading.Thread(target=capture) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({event["event_id"] for event in kept.events}) == 400
