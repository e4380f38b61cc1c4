"""APScheduler 3: threads, an event loop, processes, and a job store in Redis."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from apscheduler.executors.pool import ProcessPoolExecutor
from apscheduler.jobstores.redis import RedisJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.background import BackgroundScheduler

import usercontext
from tests.jobs.apps.apscheduler_jobs import afail, alook, fail, look
from tests.jobs.notes import configure, reported, reports, seen
from tests.jobs.promises import ADA, BOB, kinds, label
from usercontext.jobs.apscheduler import UserContext

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["label"]


@pytest.fixture(autouse=True, scope="module")
def _configured(environ: dict[str, str]) -> None:
    """Configure this process, which runs the jobs too."""
    assert environ
    configure()


@pytest.fixture(scope="module", params=kinds("threads", "processes", "redis"))
def scheduler(environ: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Any]:
    """Run a scheduler of each kind, with few workers that see many users."""
    port = int(environ["JOBS_REDIS"].rpartition(":")[2].partition("/")[0])
    stores = {"default": RedisJobStore(port=port)} if request.param == "redis" else {}
    pool = {"default": ProcessPoolExecutor(1)} if request.param == "processes" else {}
    executors = pool or {"default": {"type": "threadpool", "max_workers": 1}}
    scheduler = BackgroundScheduler(
        jobstores=stores,
        executors=executors,
        timezone=UTC,
        # A machine with much to do runs a job late, not never.
        job_defaults={"misfire_grace_time": 60},
    )
    UserContext(scheduler)
    with usercontext.isolation_scope(user={"id": "starter"}):
        scheduler.start()
    yield scheduler
    scheduler.shutdown()
    for store in stores.values():
        store.redis.connection_pool.disconnect()


def test_what_runs_once_is_of_whoever_added_it(scheduler: Any, label: str) -> None:
    """Jobs of ada, nobody and bob in turn have their own user each, on the same thread."""
    users = [ADA, None, BOB, None]
    for number, user in enumerate(users):
        with usercontext.isolation_scope(user=user):
            scheduler.add_job(look, args=(f"{label}.{number}",))
    expected = ["ada", "nobody", "bob", "nobody"]
    assert [seen(f"{label}.{number}") for number in range(4)] == expected


def test_what_is_put_off_is_of_whoever_added_it(scheduler: Any, label: str) -> None:
    """A job for later keeps its user, in whatever store it is kept."""
    later = datetime.now(UTC) + timedelta(seconds=0.2)
    with usercontext.isolation_scope(user=ADA):
        scheduler.add_job(look, "date", run_date=later, args=(label,))
    assert seen(label) == "ada"


def test_what_comes_again_has_nobody(scheduler: Any, label: str) -> None:
    """A job by an interval is nobody's, whoever has added it."""
    with usercontext.isolation_scope(user=ADA):
        job = scheduler.add_job(look, "interval", seconds=0.1, args=(label,))
    assert [seen(label), seen(label)] == ["nobody", "nobody"]
    job.remove()


def test_an_error_is_reported_once(scheduler: Any, label: str) -> None:
    """A job that fails is reported with its user."""
    with usercontext.isolation_scope(user=ADA):
        scheduler.add_job(fail, args=(label,))
    assert [seen(label), reported(label)] == ["ada", "ada"]
    assert reports(label) == 0


def test_async_jobs_have_their_own_user(label: str) -> None:
    """On an event loop, where all of them would run as whoever added the last."""

    async def serve() -> None:
        scheduler = AsyncIOScheduler(timezone=UTC)
        UserContext(scheduler)
        scheduler.start()
        for number, user in enumerate([ADA, None, BOB]):
            with usercontext.isolation_scope(user=user):
                scheduler.add_job(alook, args=(f"{label}.{number}",))
        with usercontext.isolation_scope(user=ADA):
            scheduler.add_job(alook, "interval", seconds=0.1, args=(f"{label}.again",))
            scheduler.add_job(afail, args=(label,))
        found = [await asyncio.to_thread(seen, f"{label}.{number}") for number in range(3)]
        assert found == ["ada", "nobody", "bob"]
        assert await asyncio.to_thread(seen, f"{label}.again") == "nobody"
        assert await asyncio.to_thread(reported, label) == "ada"
        scheduler.shutdown()

    asyncio.run(serve())


def test_it_is_added_once(scheduler: Any) -> None:
    """A second extension on one scheduler is refused."""
    with pytest.raises(usercontext.ConfigurationError, match="already"):
        UserContext(scheduler)


def test_it_takes_a_scheduler() -> None:
    """Anything else is refused, with what to write."""
    wrong: Any = "scheduler"
    with pytest.raises(usercontext.ConfigurationError, match=r"write UserContext\(scheduler\)"):
        UserContext(wrong)
