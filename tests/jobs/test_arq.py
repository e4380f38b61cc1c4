"""arq: a real worker, and Redis."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING, Any

import arq
import pytest

import usercontext
from tests.jobs.notes import assert_seen, reported, reports, seen
from tests.jobs.processes import worker
from tests.jobs.promises import ADA, Enqueue, Promises, label
from usercontext.jobs.arq import UserContext

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["label"]

APP = "tests.jobs.apps.arq_app"
QUEUE = "arq-jobs"


@pytest.fixture(scope="module")
def app(environ: dict[str, str]) -> Any:
    """Return the module of the jobs, as the process that enqueues imports it."""
    assert environ
    module: Any = importlib.import_module(APP)
    module.configure()
    return module


def run_worker(queue: str, **environ: str) -> Any:
    """Run a worker on a queue of its own."""
    return worker(
        "arq", f"{APP}.WorkerSettings", ready="arq-ready",
        environ={"JOBS_QUEUE": queue, **environ},
    )  # fmt: skip


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Return an event loop, which pools are bound to."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def pool(app: Any, loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    """Return a pool, beside a worker that was started where somebody is the user."""
    pool = loop.run_until_complete(app.pool_of(QUEUE))
    with run_worker(QUEUE, JOBS_STARTER="1"):
        yield pool
    loop.run_until_complete(pool.aclose())


@pytest.fixture(scope="module")
def enqueue(pool: Any, loop: asyncio.AbstractEventLoop) -> Enqueue:
    """Return what enqueues a job, in a task of its own as a web app does."""
    return lambda name, label: loop.run_until_complete(pool.enqueue_job(name, label))


class TestArq(Promises):
    """What every queue keeps, and what only arq can do."""

    @pytest.mark.scenario("retried")
    def test_a_retry_keeps_whoever_enqueued_it(self, enqueue: Enqueue, label: str) -> None:
        """What the first attempt has set is over with it, and it is not reported."""
        enqueue("retry", label)
        assert_seen([seen(label), seen(label)], ["nobody", "nobody"])

    def test_an_async_resolver_is_awaited(self, enqueue: Enqueue, label: str) -> None:
        """A request that never asked who its user is hands on whom its resolver finds."""

        async def find(_request: object) -> dict[str, str]:
            return ADA

        with usercontext.isolation_scope(resolver=find):
            enqueue("look", label)
        assert_seen(seen(label), "ada")

    def test_a_later_job(self, pool: Any, loop: asyncio.AbstractEventLoop, label: str) -> None:
        """A job that is put off has the user of whoever enqueued it."""
        with usercontext.isolation_scope(user=ADA):
            loop.run_until_complete(pool.enqueue_job("look", label, _defer_by=0.05))
        assert_seen(seen(label), "ada")

    @pytest.mark.scenario("times out")
    def test_a_time_out(self, enqueue: Enqueue, label: str) -> None:
        """A job that takes too long is reported with its user."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("slow", label)
        assert_seen([seen(label), reported("")], ["ada", "ada"])
        assert reports("") == 0

    def test_the_apps_own_hooks(
        self, pool: Any, loop: asyncio.AbstractEventLoop, label: str
    ) -> None:
        """`after_job_end` still has the user."""
        with usercontext.isolation_scope(user=ADA):
            loop.run_until_complete(pool.enqueue_job("look", label, _job_id=label))
        assert_seen([seen(label), seen(f"after {label}")], ["ada", "ada"])

    @pytest.mark.scenario("schedule")
    def test_cron_names_nobody(self, pool: Any) -> None:
        """A cron job is nobody's, though somebody is the user where the worker was started."""
        assert pool
        assert_seen(seen(f"cron of {QUEUE}"), "nobody")

    def test_looking_at_a_job_makes_nobody(
        self, pool: Any, loop: asyncio.AbstractEventLoop
    ) -> None:
        """A request that reads ada's job does not go on as ada."""

        async def look_at_it() -> Any:
            with usercontext.isolation_scope(user=ADA):
                job = await pool.enqueue_job("look", "unread", _defer_by=60)
            with usercontext.isolation_scope():
                info = await job.info()
                return info.function, usercontext.get_user()

        assert loop.run_until_complete(look_at_it()) == ("look", None)


class TestSetUp:
    """Deploys and errors of use."""

    def test_a_worker_without_the_extension(
        self, app: Any, loop: asyncio.AbstractEventLoop, label: str
    ) -> None:
        """In a rolling deploy a marked job runs on a worker that does not know the mark."""
        pool = loop.run_until_complete(app.pool_of(label))
        with run_worker(label, JOBS_PLAIN="1"):
            with usercontext.isolation_scope(user=ADA):
                loop.run_until_complete(pool.enqueue_job("look", label))
            assert_seen(seen(label), "nobody")
        loop.run_until_complete(pool.aclose())

    def test_a_producer_without_the_extension(
        self, app: Any, pool: Any, loop: asyncio.AbstractEventLoop, label: str
    ) -> None:
        """A job without a mark is nobody's."""

        async def enqueue() -> None:
            plain = await arq.create_pool(app.REDIS, default_queue_name=QUEUE)
            await plain.enqueue_job("look", label)
            await plain.aclose()

        assert pool
        loop.run_until_complete(enqueue())
        assert_seen(seen(label), "nobody")

    @pytest.mark.scenario("killed")
    def test_a_killed_worker(self, app: Any, loop: asyncio.AbstractEventLoop, label: str) -> None:
        """A job whose worker was killed is run again, with its user."""
        pool = loop.run_until_complete(app.pool_of(label))
        with run_worker(label) as process, usercontext.isolation_scope(user=ADA):
            loop.run_until_complete(pool.enqueue_job("endless", label))
            assert_seen(seen(label), "ada")
            process.kill()
        # Its claim would expire by itself, a while after the time-out.
        claims = loop.run_until_complete(pool.keys("arq:in-progress:*"))
        loop.run_until_complete(pool.delete(*claims))
        with run_worker(label):
            assert_seen(seen(label), "ada")
        loop.run_until_complete(pool.aclose())

    def test_a_worker_made_by_hand(
        self, app: Any, loop: asyncio.AbstractEventLoop, label: str
    ) -> None:
        """`Worker(...)` without settings has its jobs' users and reports too."""

        async def work() -> None:
            pool = await app.pool_of(label)
            with usercontext.isolation_scope(user=ADA):
                await pool.enqueue_job("fail", label)
            made = arq.Worker([app.plain_fail], queue_name=label, redis_pool=pool, burst=True)
            UserContext(made)
            await made.async_run()
            await pool.aclose()

        loop.run_until_complete(work())
        assert_seen([seen(label), reported(label)], ["ada", "ada"])
        assert reports(label) == 0

    def test_beside_sentry_sdk(self, app: Any, loop: asyncio.AbstractEventLoop, label: str) -> None:
        """The SDK's own reports name the user as ours do, each once, and the next one nobody."""
        pool = loop.run_until_complete(app.pool_of(label))
        with run_worker(label, JOBS_SENTRY="1"):
            with usercontext.isolation_scope(user=ADA):
                loop.run_until_complete(pool.enqueue_job("fail", label))
            loop.run_until_complete(pool.enqueue_job("fail", f"{label}.after"))
            assert_seen([reported(label), reported(f"sentry {label}")], ["ada", "ada"])
            assert_seen(reported(f"sentry {label}.after"), "nobody")
            assert [reports(label), reports(f"sentry {label}")] == [0, 0]
        loop.run_until_complete(pool.aclose())

    def test_it_is_added_once(self, app: Any, pool: Any) -> None:
        """A second extension on one pool or one worker is refused."""
        for target in (pool, app.WorkerSettings):
            with pytest.raises(usercontext.ConfigurationError, match="already"):
                UserContext(target)

    @pytest.mark.parametrize("wrong", [None, "redis", object, {}])
    def test_it_takes_settings_or_a_pool(self, wrong: Any) -> None:
        """Anything else is refused, with what to write."""
        with pytest.raises(usercontext.ConfigurationError, match="for the workers"):
            UserContext(wrong)
