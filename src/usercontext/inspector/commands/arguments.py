"""Arguments that several commands take, and how they are read."""

from __future__ import annotations

import os
import re
from argparse import ArgumentTypeError
from time import time
from typing import TYPE_CHECKING, Any

from usercontext.exceptions import ConfigurationError
from usercontext.sentry.dsn import sqlite_path

if TYPE_CHECKING:
    import argparse

__all__ = ["add_path", "add_user", "count", "path_of", "port", "since"]

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def add_path(parser: Any) -> None:
    """Let a command take the file of the reports."""
    parser.add_argument(
        "path",
        metavar="PATH",
        nargs="?",
        help="the file, or the DSN that names it; left out, what USERCONTEXT_DSN names",
    )


def add_user(parser: Any, *, required: bool = False) -> None:
    """Let a command take a user."""
    parser.add_argument(
        "--user",
        metavar="ID",
        required=required,
        help='only of this id, username, email, address, or "id:ID"',
    )


def path_of(options: argparse.Namespace) -> str:
    """Return the file that was named, here or in the environment.

    Raises:
        ConfigurationError: none was.
    """
    if options.path is None:
        dsn = os.environ.get("USERCONTEXT_DSN", "")
        if sqlite_path(dsn) is None:
            raise ConfigurationError("name the file of the reports, or set USERCONTEXT_DSN to it")
        options.path = dsn
    return str(options.path)


def count(text: str) -> int:
    """Return a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def since(text: str) -> float:
    """Return the moment that an age such as `2h`, or a date and time, stands for."""
    from datetime import datetime

    age = _AGE.fullmatch(text)
    if age:
        return time() - float(age[1]) * _SECONDS[age[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ArgumentTypeError(
            f"{text!r} is neither an age such as 30m, 2h or 7d, nor a time such as 2026-01-31T08:00"
        ) from None


def port(text: str) -> int:
    """Return the number of a port; 0 means any."""
    if not text.isdecimal() or int(text) > 65_535:
        raise ArgumentTypeError(f"{text!r} is not a port: write a number from 0 to 65535")
    return int(text)
