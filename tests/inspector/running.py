"""An inspector that runs in this process, and reports for it to show."""

from __future__ import annotations

import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from usercontext.inspector.server import Inspector
from usercontext.sentry import SentryClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def inspecting(path: Path, **options: Any) -> Iterator[Inspector]:
    """Run an inspector of a file, which is made if need be."""
    SentryClient(f"sqlite:///{path}").close()
    inspector = Inspector(str(path), **options)
    thread = threading.Thread(target=inspector.run)
    thread.start()
    try:
        httpx.get(inspector.url, trust_env=False)  # Once it answers it can be stopped.
        yield inspector
    finally:
        inspector.stop()
        thread.join()


@contextmanager
def keeping(path: Path, **options: Any) -> Iterator[SentryClient]:
    """Give a client that keeps its reports in a file."""
    with closing(SentryClient(f"sqlite:///{path}", **options)) as client:
        yield client
        assert client.flush()


def keep(path: Path, message: str = "hello", **parts: Any) -> str:
    """Keep a report with further parts, and return its id."""
    with keeping(path) as client:
        event = client.build_message(message)
        assert event is not None
        event_id = client.send({**event, **parts})
    assert event_id is not None
    return event_id


def fail(path: Path, error: Exception, **parts: Any) -> str:
    """Keep the report of an exception that was raised here, and return its id."""
    with keeping(path, include_local_variables=True) as client:
        try:
            raise error
        except Exception as raised:
            event = client.build_exception(raised)
        assert event is not None
        event_id = client.send({**event, **parts})
    assert event_id is not None
    return event_id


def wait_for(shown: Any) -> Any:
    """Return what a function returns, once that is something."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = shown()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come")
