"""Dramatiq's command line on greenlets, as `dramatiq-gevent` has it."""

from __future__ import annotations

import sys

from gevent import monkey

monkey.patch_all()

from dramatiq.cli import main, make_argument_parser  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(make_argument_parser().parse_args()))
