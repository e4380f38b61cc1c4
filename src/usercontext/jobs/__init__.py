"""Background jobs: whoever enqueues a job is its user while it runs, and nobody's afterwards.

One module for each queue, each with a `UserContext` to be added on both sides, where jobs are
enqueued and where they run.
"""

from usercontext.jobs.base import Job

__all__ = ["Job"]
