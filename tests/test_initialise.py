"""init(): the process-wide defaults, and the built-in client."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

import usercontext
from tests.driver import plain_wsgi_app, wsgi_request
from usercontext import ConfigurationError, InvalidDsnError, User, init, isolation_scope, testing
from usercontext.core.settings import default
from usercontext.wsgi import UserContextMiddleware

if TYPE_CHECKING:
    from pathlib import Path

ADA = User(id=1)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USERCONTEXT_DSN", raising=False)


def reports_of(path: Path) -> list[dict[str, Any]]:
    """Read what a SQLite store keeps."""
    from usercontext.sentry import read_reports

    return list(read_reports(str(path)))


def test_reports_are_kept_in_sqlite(tmp_path: Path) -> None:
    """sqlite:///path keeps every report, readable once flush() has returned True."""
    path = tmp_path / "reports.db"
    init(f"sqlite:///{path}")
    with isolation_scope(user=ADA):
        event_id = usercontext.capture_message("hello")
    assert usercontext.flush() is True
    (report,) = reports_of(path)
    assert (report["event_id"], report["user"]) == (event_id, {"id": "1"})


def test_the_dsn_is_read_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a DSN argument USERCONTEXT_DSN is read."""
    monkeypatch.setenv("USERCONTEXT_DSN", f"sqlite:///{tmp_path / 'reports.db'}")
    init()
    assert usercontext.capture_message("hello") is not None


def test_a_wrong_option_raises_without_a_dsn() -> None:
    """What would fail in production fails at development, where nothing is reported."""
    with pytest.raises(ConfigurationError, match=r"sample_rate.*write sample_rate=1\.0"):
        init(None, sample_rate=2)


def test_options_that_can_be_read_once_are_kept() -> None:
    """Clients of a generator are told of users as those of a list are."""
    recorder = testing.RecordingClient()
    init(None, clients=(client for client in [recorder]))
    with isolation_scope(user=ADA):
        assert recorder.users == [{"id": "1"}]


@pytest.mark.parametrize("dsn", [None, ""])
def test_no_dsn_reports_nothing(dsn: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """None or an empty DSN reports nothing, whatever the environment says."""
    monkeypatch.setenv("USERCONTEXT_DSN", "https://key@sentry.example/1")
    init(dsn)
    assert usercontext.capture_message("hello") is None
    assert usercontext.flush() is True
    assert usercontext.close() is True


def test_sentrys_own_variable_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """SENTRY_DSN is sentry-sdk's: beside it we would report twice."""
    monkeypatch.setenv("SENTRY_DSN", "https://key@sentry.example/1")
    init()
    assert usercontext.capture_message("hello") is None


def test_a_second_init_flushes_and_closes_the_first(tmp_path: Path) -> None:
    """What the first client had captured is kept when the second takes its place."""
    first, second = tmp_path / "first.db", tmp_path / "second.db"
    init(f"sqlite:///{first}")
    usercontext.capture_message("one")
    init(f"sqlite:///{second}")
    usercontext.capture_message("two")
    usercontext.flush()
    assert [len(reports_of(first)), len(reports_of(second))] == [1, 1]


def test_init_returns_the_context_that_applies() -> None:
    """The result is the UserContext that middlewares fall back on."""
    assert init(None) is default()


def test_before_send_and_release_reach_the_built_in_client(tmp_path: Path) -> None:
    """Options of SentryClient are options of init()."""
    path = tmp_path / "reports.db"

    def add_tag(event: dict[str, Any]) -> dict[str, Any]:
        event["tags"] = {"shop": "one"}
        return event

    init(f"sqlite:///{path}", release="1.2.3", environment="stage", before_send=add_tag)
    usercontext.capture_message("hello")
    usercontext.flush()
    (report,) = reports_of(path)
    assert (report["release"], report["environment"]) == ("1.2.3", "stage")
    assert report["tags"] == {"shop": "one"}


def test_rules_have_the_last_word_over_before_send(tmp_path: Path) -> None:
    """What before_send adds is scrubbed as everything is."""
    path = tmp_path / "reports.db"

    def add_email(event: dict[str, Any]) -> dict[str, Any]:
        event["user"]["email"] = "ada@shop.example"
        return event

    init(f"sqlite:///{path}", before_send=add_email, scrub=["$user.email"])
    with isolation_scope(user=ADA):
        usercontext.capture_message("hello")
    usercontext.flush()
    assert b"ada@shop.example" not in path.read_bytes()
    assert reports_of(path)[0]["user"]["id"] == "1"


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((), {"relase": "1"}, ["relase", "did you mean release"]),
        ((), {"scrubb": []}, ["did you mean scrub"]),
        ((), {"sample_rate": 7, "dsn": "https://key@sentry.example/1"}, ["sample_rate"]),
        ((), {"client": object()}, ["client", "build_exception()"]),
        ((), {"hash_key": b"short", "scrub": [("$user.email", "hash")]}, ["at least 16"]),
        ((), {"scrub": [("$user.email", "hash")]}, ["hash_key"]),
        (("https://key@sentry.example/1",), {"client": testing.RecordingClient()}, ["not both"]),
        ((), {"client": testing.RecordingClient(), "release": "1"}, ["release", "client="]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_option_names_itself_and_the_fix(
    arguments: tuple[Any, ...], options: dict[str, Any], words: list[str]
) -> None:
    """A wrong option of init() raises at once, and says what to write."""
    with pytest.raises(ConfigurationError) as caught:
        init(*arguments, **options)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "dsn",
    [
        "nonsense",
        "https://sentry.example/1",
        "ftp://hunter2@sentry.example/1",
        "https://hunter2@/1",
    ],
)
def test_a_bad_dsn_fails_at_init_without_its_secret(dsn: str) -> None:
    """A DSN that cannot be used raises, and the error does not hold its key."""
    with pytest.raises(InvalidDsnError) as caught:
        init(dsn)
    assert "hunter2" not in str(caught.value)


def test_a_failed_init_leaves_the_one_before() -> None:
    """A wrong option changes nothing of what applies."""
    before = init(None)
    with pytest.raises(ConfigurationError):
        init("nonsense")
    assert default() is before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_asks_its_own_resolver(tmp_path: Path) -> None:
    """After a fork, middlewares built before it serve the child as they did the parent."""
    app = UserContextMiddleware(
        plain_wsgi_app(lambda: usercontext.capture_message("hello")), resolver=lambda _: ADA
    )
    init(f"sqlite:///{tmp_path / 'reports.db'}")
    child = os.fork()
    if child == 0:
        wsgi_request(app)
        os._exit(0 if usercontext.close(10) else 1)
    assert os.waitpid(child, 0)[1] == 0
    wsgi_request(app)
    usercontext.flush()
    assert [report["user"] for report in reports_of(tmp_path / "reports.db")] == [{"id": "1"}] * 2
