"""uwsgi without threads: reports are sent after responses, by the worker that served them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from usercontext.diagnostics import warn_once

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["call_after_each_request", "runs_without_threads"]


def runs_without_threads() -> bool:
    """Return whether this is a uwsgi that lets no thread run while it waits for requests."""
    options = getattr(sys.modules.get("uwsgi"), "opt", None)
    if not isinstance(options, dict):
        return False
    return not options.get("enable-threads") and not options.get("threads")


def call_after_each_request(call: Callable[[], object]) -> None:
    """Have uwsgi call this when a response is sent, besides what the app has it call.

    uwsgi looks for the hook once, when the app has been loaded.
    """
    uwsgi: Any = sys.modules["uwsgi"]
    other = getattr(uwsgi, "after_req_hook", None)
    if getattr(other, "__module__", "") == __name__:
        return

    def after_request() -> None:
        call()
        if other is not None:
            other()

    uwsgi.after_req_hook = after_request
    warn_once(
        "uwsgi without threads",
        "uwsgi runs without threads, so reports are sent after responses, by the worker itself, "
        "which is busy meanwhile: add --enable-threads",
    )
