"""`usercontext verify [DSN]`: does a report arrive, and if not, what is to be mended."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from usercontext.exceptions import ConfigurationError
from usercontext.inspector.commands.terminal import Paint
from usercontext.inspector.report import visible

if TYPE_CHECKING:
    import argparse

__all__ = ["add_verify"]


def add_verify(commands: Any) -> None:
    """Add the command to the others."""
    parser = commands.add_parser(
        "verify",
        help="send one event to a DSN, and say step by step what answered",
        description="Send one event to a DSN, and say step by step what answered and what to mend.",
    )
    parser.add_argument(
        "path", metavar="DSN", nargs="?", help="left out, what USERCONTEXT_DSN names"
    )
    parser.set_defaults(command=_verify)


def _verify(options: argparse.Namespace) -> int:
    from usercontext.inspector.verifying import verify

    dsn = options.path or os.environ.get("USERCONTEXT_DSN")
    if not dsn:
        raise ConfigurationError("name the DSN, or set USERCONTEXT_DSN to it")
    paint = Paint()
    is_good = True
    for step in verify(dsn):
        mark = paint("ok  ", "green") if step.is_good else paint("FAIL", "red", "bold")
        print(f"{mark}  {step.name:<10}  {visible(step.found)}", flush=True)
        if step.advice:
            print(f"      {'':<10}  {step.advice}")
        is_good = is_good and step.is_good
    return 0 if is_good else 1
