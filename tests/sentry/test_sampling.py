"""Sampling by user, and limits by user: rules, and what they make of captured reports."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import usercontext
from usercontext import NOT_YET, ConfigurationError, capture_message, isolation_scope
from usercontext.core.settings import default
from usercontext.sentry import SentryClient, sampling
from usercontext.sentry.sampling import Sampling, UserLimit, identity_of, user_limit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.sentry.server import SentryServer

KEY = b"a key of sixteen bytes or more"
USERS = [{"id": str(number)} for number in range(200)]

identities = st.text(min_size=1, max_size=40).map("id:{}".format)
rates = st.floats(0.0, 1.0)


@pytest.fixture
def usercontext_init(tmp_path: Path) -> Callable[..., SentryClient]:
    """Configure the process with a file of reports, and return the client."""

    def init(**options: Any) -> SentryClient:
        usercontext.init(f"sqlite:///{tmp_path / 'reports.db'}", **options)
        client = default().client
        assert isinstance(client, SentryClient)
        return client

    return init


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def kept(rate: float, key: bytes = KEY) -> set[str]:
    """Return which of some users are kept."""
    by_user = Sampling(rate, key)
    return {user["id"] for user in USERS if by_user.keeps(identity_of(user))}


@given(identities, rates, rates)
def test_monotone(identity: str, one: float, other: float) -> None:
    """Whoever is kept at one rate is kept at each higher one."""
    low, high = sorted((one, other))
    assert Sampling(high, KEY).keeps(identity) >= Sampling(low, KEY).keeps(identity)


@given(identities, rates)
def test_together(identity: str, rate: float) -> None:
    """All events of a user are kept, or none, by every client with the same key."""
    assert len({Sampling(rate, KEY).keeps(identity) for _ in range(5)}) == 1


def test_rate() -> None:
    """About as many users are kept as the rate says."""
    by_user = Sampling(0.3, KEY)
    number = sum(by_user.keeps(f"id:{number}") for number in range(10_000))
    assert number == pytest.approx(3000, rel=0.1)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_ends(rate: float) -> None:
    """A rate of 0 keeps nobody, and one of 1 everybody."""
    assert len(kept(rate)) == rate * len(USERS)


def test_keys() -> None:
    """Another key keeps other users."""
    assert kept(0.5) != kept(0.5, b"another key of sixteen bytes")


def test_nobody_by_event() -> None:
    """Events of nobody are kept by chance, each for itself."""
    assert len({Sampling(0.5, KEY).keeps(None) for _ in range(100)}) == 2


def test_every_process(tmp_path: Path) -> None:
    """Processes with other seeds of `hash()` keep the same users."""
    script = tmp_path / "kept.py"
    script.write_text(
        "from usercontext.sentry.sampling import Sampling\n"
        f"by_user = Sampling(0.5, {KEY!r})\n"
        "print([str(n) for n in range(200) if by_user.keeps(f'id:{n}')])\n"
    )
    told = {
        subprocess.run(
            [sys.executable, script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert told == {f"{sorted(kept(0.5), key=int)}\n"}


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from("ab")), max_size=80),
)
def test_never_more(number: int, steps: list[tuple[int, str]]) -> None:
    """In no time of that length more events of a user are let in, and none is refused before."""
    clock = Clock()
    limit = UserLimit(number, 60.0, clock=clock)
    let_in: dict[str, list[float]] = {"a": [], "b": []}
    for seconds, user in steps:
        clock.now += seconds
        recent = [time for time in let_in[user] if time > clock.now - 60.0]
        assert limit.admits(user) == (len(recent) < number)
        if len(recent) < number:
            let_in[user].append(clock.now)


def test_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was seen longest ago is forgotten first, a looping user never."""
    monkeypatch.setattr(sampling, "_MAX_TIMES", 10)
    limit = UserLimit(2, 60.0, clock=Clock())
    assert [limit.admits("looping") for _ in range(2)] == [True, True]
    for number in range(100):
        assert limit.admits(f"id:{number}")
        assert not limit.admits("looping")
    assert limit._held <= 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_fork() -> None:
    """A child counts for itself, and is not stopped by what another thread was doing."""
    limit = UserLimit(1, 60.0)
    assert limit.admits("ada")
    with limit._lock:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if limit.admits("ada") and not limit.admits("ada") else 1)
        assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("text", ["10/minute", "1/second", " 500 / hour ", "10000/day"])
def test_texts(text: str) -> None:
    """A limit is a number of events in a second, minute, hour or day."""
    assert user_limit("max_per_user", text) is not None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_per_user": 10}, 'write max_per_user="10/minute"'),
        ({"max_per_user": "10"}, 'write max_per_user="10/minute"'),
        ({"max_per_user": "10/fortnight"}, "second, minute, hour or day"),
        ({"max_per_user": "-1/minute"}, 'write max_per_user="10/minute"'),
        ({"max_per_user": "0/minute"}, "1 to 10000"),
        ({"max_per_user": "10001/minute"}, "1 to 10000"),
        ({"sample_by": "users"}, 'must be "event" or "user"'),
        ({"sample_key": "short"}, "needs at least 16"),
        ({"sample_key": 3}, "must be bytes or str"),
    ],
)
def test_wrong_options(options: dict[str, Any], told: str) -> None:
    """What cannot be used is refused where it is given, with what to write."""
    with pytest.raises(ConfigurationError, match=told):
        usercontext.init(None, **options)


# --- what becomes of reports --------------------------------------------------------------------


def captured_by(client: SentryClient) -> set[str]:
    """Capture a report of each user; return those whose was taken."""
    return {user["id"] for user in USERS if client.capture_message("x", user=user)}


def test_by_user(make_client: Callable[..., SentryClient]) -> None:
    """The client drops all of a user's reports or none, and counts them as sampled out."""
    options = {"sample_rate": 0.5, "sample_by": "user", "max_queue": 1000}
    client, other = (make_client("https://key@127.0.0.1:9/1", **options) for _ in range(2))
    taken = captured_by(client)
    assert captured_by(client) == captured_by(other) == taken
    assert client.stats()["discarded"]["sample_rate"] == 2 * (len(USERS) - len(taken))


def test_projects_differ(make_client: Callable[..., SentryClient]) -> None:
    """Other projects keep other users, unless they share a key."""
    options: dict[str, Any] = {"sample_rate": 0.5, "sample_by": "user", "max_queue": 1000}
    dsns = "https://key@127.0.0.1:9/1", "https://key@127.0.0.1:9/2"
    one, other = (captured_by(make_client(dsn, **options)) for dsn in dsns)
    assert one != other
    one, other = (captured_by(make_client(dsn, **options, sample_key=KEY)) for dsn in dsns)
    assert one == other


def test_limit(make_client: Callable[..., SentryClient], tmp_path: Path) -> None:
    """One looping user's reports are dropped and counted, everybody else's are sent."""
    client = make_client(f"sqlite:///{tmp_path / 'r.db'}", max_per_user="3/hour")
    ids = [client.capture_message("x", user={"id": "looping"}) for _ in range(10)]
    assert [event_id is not None for event_id in ids] == [True] * 3 + [False] * 7
    assert client.capture_message("x", user={"id": "ada"})
    assert client.stats()["discarded"] == {"max_per_user": 7}


def test_limit_is_not_for_nobody(make_client: Callable[..., SentryClient], tmp_path: Path) -> None:
    """Reports of nobody belong to no user."""
    client = make_client(f"sqlite:///{tmp_path / 'r.db'}", max_per_user="1/hour")
    assert all(client.capture_message("x") for _ in range(5))


def test_limit_is_told_once(
    make_client: Callable[..., SentryClient], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The log says once that reports are dropped, without saying whose."""
    client = make_client(f"sqlite:///{tmp_path / 'r.db'}", max_per_user="1/hour")
    for name in "ada", "bob":
        for _ in range(3):
            client.capture_message("x", user={"id": name})
    (told,) = [record for record in caplog.records if record.name == "usercontext"]
    assert "max_per_user" in told.getMessage()
    assert "ada" not in told.getMessage()


def test_full_queue_is_not_the_users(make_client: Callable[..., SentryClient]) -> None:
    """What finds no room is counted as that, and uses nothing of a user's limit up."""
    client = make_client("https://key@127.0.0.1:9/1", max_per_user="5/hour")
    client.close(0.0)
    for _ in range(10):
        client.capture_message("x", user={"id": "ada"})
    assert client.stats()["discarded"] == {"queue_overflow": 10}


def test_client_report(server: SentryServer, make_client: Callable[..., SentryClient]) -> None:
    """The server is told how many were dropped, for which reason."""
    client = make_client(server.dsn, max_per_user="1/hour")
    for _ in range(4):
        client.capture_message("x", user={"id": "looping"})
    client.capture_message("x")
    assert client.flush(10.0)
    told: Counter[str] = Counter()
    for request in server.received:
        for each in (request.item("client_report") or {"discarded_events": []})["discarded_events"]:
            told[each["reason"]] += each["quantity"]
    assert told == {"max_per_user": 3}


def test_dropped_before_it_is_built(
    usercontext_init: Callable[..., SentryClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose reports are not wanted costs no building of any."""
    client = usercontext_init(sample_rate=0.0, sample_by="user")
    monkeypatch.delattr(client._builder.__class__, "message")
    with isolation_scope({"id": "ada"}):
        assert capture_message("x") is None
    assert client.stats()["discarded"] == {"sample_rate": 1}


def test_user_of_the_request(usercontext_init: Callable[..., SentryClient]) -> None:
    """The user that counts is the one of the request, whom its resolver finds."""
    usercontext_init(max_per_user="1/hour")
    taken = []
    for name in "ada", "ada", "bob":
        with isolation_scope(resolver=lambda _, name=name: {"id": name}):
            taken.append(capture_message("x") is not None)
    assert taken == [True, False, True]


def test_exceptions_too(usercontext_init: Callable[..., SentryClient]) -> None:
    """Exceptions count like messages."""
    usercontext_init(max_per_user="1/hour")
    with isolation_scope({"id": "ada"}):
        assert usercontext.capture_exception(ValueError("one"))
        assert usercontext.capture_exception(ValueError("two")) is None


@pytest.mark.parametrize("user", [None, NOT_YET], ids=["nobody", "not yet"])
def test_no_user(usercontext_init: Callable[..., SentryClient], user: Any) -> None:
    """Who is nobody, or is not known yet, is not limited."""
    usercontext_init(max_per_user="1/hour")
    with isolation_scope(resolver=lambda _: user):
        assert all(capture_message("x") for _ in range(3))


def test_awaited(usercontext_init: Callable[..., SentryClient]) -> None:
    """A user who is awaited is judged when the report is completed."""
    client = usercontext_init(max_per_user="1/hour")

    async def find(_: object) -> dict[str, str]:
        return {"id": "ada"}

    async def work() -> None:
        for _ in range(3):
            capture_message("x")
        await usercontext.resolve_user()

    with isolation_scope(resolver=find):
        asyncio.run(work())
    assert client.stats()["discarded"] == {"max_per_user": 2}
    assert client.stats()["captured"] == 3


def test_auto_is_nobody() -> None:
    """An address that is yet to be filled in names nobody."""
    assert identity_of({"ip_address": "{{auto}}"}) is None
    assert identity_of({"ip_address": "192.0.2.1"}) == "ip:192.0.2.1"
