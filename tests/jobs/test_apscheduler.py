"""APScheduler 3: threads, an event loop, processes, and a job store in Redis."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from apscheduler.executors.pool import ProcessPoolExecutor
from apscheduler.jobstores.redis import RedisJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.background import BackgroundScheduler

import usercontext
from tests.jobs.apps import apscheduler_jobs as jobs
from tests.jobs.notes import assert_seen, configure, reported, seen
from tests.jobs.processes import ROOT
from tests.jobs.promises import ADA, BOB, Enqueue, Promises, label
from tests.jobs.scenarios import kinds
from usercontext.jobs.apscheduler import UserContext

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["label"]


@pytest.fixture(autouse=True, scope="module")
def _configured(environ: dict[str, str]) -> None:
    """Configure this process, which runs the jobs too."""
    assert environ
    configure()


@pytest.fixture(scope="module", params=kinds("apscheduler"))
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


@pytest.fixture(scope="module")
def async_scheduler() -> Iterator[Any]:
    """Run a scheduler on an event loop in a thread, started where somebody is the user."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    scheduler = AsyncIOScheduler(
        event_loop=loop, timezone=UTC, job_defaults={"misfire_grace_time": 60}
    )
    UserContext(scheduler)
    with usercontext.isolation_scope(user={"id": "starter"}):
        scheduler.start()
    yield scheduler
    scheduler.shutdown()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


class _Scheduled(Promises):
    """What every queue keeps, and what only APScheduler can do; it runs each job once."""

    test_a_retry_has_the_same_user = None  # type: ignore[assignment]

    @pytest.fixture
    def adding(self) -> Any:
        """Return the scheduler."""
        raise NotImplementedError

    @pytest.fixture
    def enqueue(self, adding: Any, monkeypatch: pytest.MonkeyPatch) -> Enqueue:
        """Return what adds a job that runs at once."""
        monkeypatch.setattr(jobs, "scheduler", adding)
        return lambda name, label: adding.add_job(getattr(jobs, name), args=(label,))

    def test_what_is_put_off_is_of_whoever_added_it(self, adding: Any, label: str) -> None:
        """A job for later keeps its user, in whatever store it is kept."""
        later = datetime.now(UTC) + timedelta(seconds=0.2)
        with usercontext.isolation_scope(user=ADA):
            adding.add_job(jobs.look, "date", run_date=later, args=(label,))
        assert_seen(seen(label), "ada")

    @pytest.mark.scenario("schedule")
    def test_what_comes_again_has_nobody(self, adding: Any, label: str) -> None:
        """A job by an interval is nobody's, whoever has added it."""
        with usercontext.isolation_scope(user=ADA):
            job = adding.add_job(jobs.look, "interval", seconds=0.1, args=(label,))
        assert_seen([seen(label), seen(label)], ["nobody", "nobody"])
        job.remove()


class TestPools(_Scheduled):
    """Threads and processes, and a job store in Redis."""

    adds = ("test_a_job_hands_its_user_on", "test_an_explicit_user_wins")

    @pytest.fixture
    def adding(self, scheduler: Any) -> Any:
        """Return the scheduler."""
        return scheduler

    @pytest.fixture(autouse=True)
    def _can_add(self, scheduler: Any, request: pytest.FixtureRequest) -> None:
        is_pool = isinstance(scheduler._executors["default"], ProcessPoolExecutor)
        if is_pool and request.function.__name__ in self.adds:
            pytest.skip("A job in another process has no scheduler.")


class TestAsyncIO(_Scheduled):
    """Coroutines on an event loop, and functions in its threads."""

    kind = "asyncio"
    looks = ("look", "alook")

    @pytest.fixture
    def adding(self, async_scheduler: Any) -> Any:
        """Return the scheduler."""
        return async_scheduler


def test_async_jobs_have_their_own_user(label: str) -> None:
    """On an event loop, where all of them would run as whoever added the last."""

    async def serve() -> None:
        scheduler = AsyncIOScheduler(timezone=UTC)
        UserContext(scheduler)
        scheduler.start()
        for number, user in enumerate([ADA, None, BOB]):
            with usercontext.isolation_scope(user=user):
                scheduler.add_job(jobs.alook, args=(f"{label}.{number}",))
        with usercontext.isolation_scope(user=ADA):
            scheduler.add_job(jobs.alook, "interval", seconds=0.1, args=(f"{label}.again",))
            scheduler.add_job(jobs.afail, args=(label,))
        found = [await asyncio.to_thread(seen, f"{label}.{number}") for number in range(3)]
        assert_seen(found, ["ada", "nobody", "bob"])
        assert await asyncio.to_thread(seen, f"{label}.again") == "nobody"
        assert await asyncio.to_thread(reported, label) == "ada"
        scheduler.shutdown()

    asyncio.run(serve())


def test_a_scheduler_without_the_extension(environ: dict[str, str], label: str) -> None:
    """In a rolling deploy a marked job runs on a scheduler that does not know the mark."""
    port = int(environ["JOBS_REDIS"].rpartition(":")[2].partition("/")[0])
    store = RedisJobStore(port=port, jobs_key=label, run_times_key=f"{label}.times")
    scheduler = BackgroundScheduler(jobstores={"default": store}, timezone=UTC)
    UserContext(scheduler)
    scheduler.start(paused=True)
    with usercontext.isolation_scope(user=ADA):
        later = datetime.now(UTC) + timedelta(seconds=1)
        job = scheduler.add_job(
            jobs.look, "date", run_date=later, args=(label,), misfire_grace_time=60
        )
    assert job.__getstate__()["usercontext"]
    scheduler.shutdown()
    store.redis.connection_pool.disconnect()
    command = [sys.executable, "-m", "tests.jobs.apps.apscheduler_plain", label]
    subprocess.run(command, check=True, cwd=ROOT, timeout=60)
    assert_seen(seen(label), "nobody")


def test_it_is_added_once(scheduler: Any) -> None:
    """A second extension on one scheduler is refused."""
    with pytest.raises(usercontext.ConfigurationError, match="already"):
        UserContext(scheduler)


def test_it_takes_a_scheduler() -> None:
    """Anything else is refused, with what to write."""
    wrong: Any = "scheduler"
    with pytest.raises(usercontext.ConfigurationError, match=r"write UserContext\(scheduler\)"):
        UserContext(wrong)
