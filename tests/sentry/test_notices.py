"""What `init()` says where Sentry's own SDK, or its DSN, is in the same process."""

from __future__ import annotations

import pytest

from usercontext import init

sentry_sdk = pytest.importorskip("sentry_sdk")

from usercontext.clients.sentry_sdk import SentrySdkClient  # noqa: E402

DSN = "http://key@127.0.0.1:9/1"


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged on our logger."""
    return [record.getMessage() for record in caplog.records if record.name == "usercontext"]


def test_an_unused_dsn_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a DSN of its own, `init()` says that it does not read SENTRY_DSN."""
    monkeypatch.setenv("SENTRY_DSN", DSN)
    for _ in range(2):
        init()
    (message,) = said(caplog)
    assert "init(clients=[SentrySdkClient()])" in message
    assert "key" not in message


@pytest.mark.parametrize("given", ["None", "dsn", "client"])
def test_a_dsn_that_is_meant_for_others_is_not_mentioned(
    given: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever says where reports go, or serves sentry-sdk, hears nothing."""
    monkeypatch.setenv("SENTRY_DSN", DSN)
    if given == "client":
        init(clients=[SentrySdkClient()])
    else:
        init(None if given == "None" else "http://key@127.0.0.1:9/2")
    assert not any("SENTRY_DSN" in message for message in said(caplog))


@pytest.mark.parametrize(("dsn", "is_said"), [(DSN, True), (DSN[:-1] + "2", False)])
def test_reporting_twice_is_said(dsn: str, is_said: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Where sentry-sdk reports to the same project, one of the two is to go."""
    with sentry_sdk.isolation_scope():
        before = sentry_sdk.get_global_scope().client
        sentry_sdk.init(DSN, default_integrations=False)
        try:
            init(dsn)
        finally:
            sentry_sdk.get_global_scope().set_client(before)
    assert any("arrives there twice" in message for message in said(caplog)) is is_said
