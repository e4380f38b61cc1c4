"""The recorder that users of usercontext test with, and what our own tests rely on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import usercontext
from usercontext import diagnostics, init, isolation_scope, set_user, testing
from usercontext.core.settings import default
from usercontext.testing import RecordingClient
from usercontext.testing.recording import recording

if TYPE_CHECKING:
    import pytest


def test_the_fixture_records_reports_and_pushed_users(
    usercontext_recorder: RecordingClient,
) -> None:
    """usercontext_recorder takes every report and every pushed user."""
    with isolation_scope():
        set_user({"id": 1})
        usercontext.capture_message("hello")
    assert usercontext_recorder.users == [{"id": "1"}]
    assert [event["user"] for event in usercontext_recorder.events] == [{"id": "1"}]


def test_without_the_fixture_nothing_is_reported() -> None:
    """The fixture undoes its init(): no test reports through another one's recorder."""
    assert default().client is None


def test_clear_forgets_what_was_recorded(usercontext_recorder: RecordingClient) -> None:
    """After clear() both lists are empty, and recording goes on."""
    usercontext.capture_message("one")
    usercontext_recorder.clear()
    usercontext.capture_message("two")
    assert [event["logentry"]["message"] for event in usercontext_recorder.events] == ["two"]


def test_events_are_final_payloads() -> None:
    """A recorder shows what before_send and the scrub rules left."""

    def rename(event: dict[str, object]) -> dict[str, object]:
        event["user"] = {"id": "2", "email": "ada@shop.example"}
        return event

    recorder = RecordingClient(before_send=rename, release="1.2.3")
    init(client=recorder, scrub=["$user.email"])
    usercontext.capture_message("hello")
    (event,) = recorder.events
    assert event["release"] == "1.2.3"
    assert "ada@shop.example" not in str(event)


def test_reset_lets_warnings_be_seen_again(caplog: pytest.LogCaptureFixture) -> None:
    """What has been warned about is warned about again after reset()."""
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        set_user({"id": 1})
    testing.reset()
    set_user({"id": 1})
    assert len([record for record in caplog.records if record.name == "usercontext"]) == 2
    assert sum(diagnostics.failures().values()) == 1


def test_the_fixture_gives_the_apps_own_init_back() -> None:
    """After a test the app reports where it did before, with the options that it had."""
    mine = RecordingClient()
    before = usercontext.init(client=mine, clients=[mine], scrub=["$user.email"])
    user = {"id": 1, "email": "ada@shop.example"}
    recorder = RecordingClient()

    with recording(recorder), isolation_scope(user):
        usercontext.capture_message("in the test")
    with isolation_scope(user):
        usercontext.capture_message("after it")

    assert default() is before
    assert [event["user"] for event in recorder.events] == [{"id": "1"}]
    assert [event["logentry"]["message"] for event in mine.events] == ["after it"]
    assert recorder.users == mine.users == [{"id": "1"}]


def test_the_fixture_gives_back_what_a_test_configured_over_it() -> None:
    """An `init()` inside of the test is undone as well."""
    before = usercontext.init(client=RecordingClient())

    with recording(RecordingClient()):
        usercontext.init(client=RecordingClient())

    assert default() is before
