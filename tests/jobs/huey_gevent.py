"""Huey's command line on greenlets, patched first of all as its own script does."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

from huey.bin.huey_consumer import consumer_main  # noqa: E402

if __name__ == "__main__":
    consumer_main()
