"""A scheduler without the extension, on the job store of one that has it."""

from __future__ import annotations

import os
import sys
import threading
from datetime import UTC

from apscheduler.events import EVENT_JOB_EXECUTED
from apscheduler.jobstores.redis import RedisJobStore
from apscheduler.schedulers.background import BackgroundScheduler

__all__ = ["main"]


def main() -> None:
    """Run one job."""
    port = int(os.environ["JOBS_REDIS"].rpartition(":")[2].partition("/")[0])
    store = RedisJobStore(port=port, jobs_key=sys.argv[1], run_times_key=f"{sys.argv[1]}.times")
    scheduler = BackgroundScheduler(
        jobstores={"default": store}, timezone=UTC, job_defaults={"misfire_grace_time": 60}
    )
    done = threading.Event()
    scheduler.add_listener(lambda _: done.set(), EVENT_JOB_EXECUTED)
    scheduler.start()
    done.wait(30)
    scheduler.shutdown()


if __name__ == "__main__":
    main()
