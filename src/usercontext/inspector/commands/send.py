"""`usercontext reports send PATH --dsn DSN`: from a file to a server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from usercontext.inspector.commands.arguments import add_path, path_of
from usercontext.inspector.commands.terminal import progress

if TYPE_CHECKING:
    import argparse

    from usercontext.inspector.sending import Sent

__all__ = ["add_send"]


def add_send(commands: Any) -> None:
    """Add the command to the others."""
    parser = commands.add_parser(
        "reports send",
        help="send the reports of a file to a server",
        description="Send the reports of a file to a server, the oldest first, with their ids and "
        "times. What has been sent is remembered in the file: run it again to go on.",
    )
    add_path(parser)
    parser.add_argument("--dsn", required=True, help="of the server's project")
    parser.set_defaults(command=_send)


def _send(options: argparse.Namespace) -> int:
    from usercontext.inspector.sending import send_reports
    from usercontext.sentry.dsn import Dsn

    path, dsn = path_of(options), Dsn(options.dsn)
    so_far: Sent | None = None
    try:
        for so_far in send_reports(path, dsn):
            progress(_line(so_far))
    finally:
        progress("")
        if so_far is not None:
            refused = "".join(f", {n} answered {status}" for status, n in so_far.refused.items())
            print(f"{so_far.sent} sent{refused}, {so_far.left} left", flush=True)
    if so_far is not None and so_far.trouble:
        print(f"usercontext: {so_far.trouble}", file=sys.stderr)
        return 1
    return 0


def _line(so_far: Sent) -> str:
    done = so_far.total - so_far.left
    share = f"{100 * done // max(1, so_far.total)} %"
    waits = ", waiting as the server asks" if so_far.is_waiting else ""
    return f"{done} of {so_far.total} ({share}){waits}"
