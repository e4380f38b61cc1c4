"""SAQ: a real worker, and Redis."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING, Any

import pytest
import saq

import usercontext
from tests.jobs.notes import assert_seen, reported, reports, seen
from tests.jobs.processes import worker
from tests.jobs.promises import ADA, Enqueue, Promises, label
from usercontext.jobs.saq import UserContext

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["label"]

APP = "tests.jobs.apps.saq_app"
QUEUE = "saq-jobs"


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
        "saq", f"{APP}.settings", ready="saq-ready", environ={"JOBS_QUEUE": queue, **environ}
    )


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Return an event loop, which queues are bound to."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def queue(app: Any, loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    """Return a queue of a web app's, beside a worker started where somebody is the user."""
    queue = saq.Queue.from_url(app.URL, name=QUEUE)
    UserContext(queue)
    with run_worker(QUEUE, JOBS_STARTER="1"):
        yield queue
    loop.run_until_complete(queue.disconnect())


@pytest.fixture(scope="module")
def enqueue(queue: Any, loop: asyncio.AbstractEventLoop) -> Enqueue:
    """Return what enqueues a job; the one that fails once is tried twice."""

    def enqueue(name: str, label: str, **options: Any) -> Any:
        retries = 2 if name == "retry" else 1
        return loop.run_until_complete(queue.enqueue(name, label=label, retries=retries, **options))

    return enqueue


class TestSAQ(Promises):
    """What every queue keeps, and what only SAQ can do."""

    looks = ("look", "sync_look")

    @pytest.mark.scenario("retried")
    def test_a_retry_keeps_whoever_enqueued_it(self, enqueue: Any, label: str) -> None:
        """What the first attempt has set is over with it, and it is not reported."""
        enqueue("retry", label)
        assert_seen([seen(label), seen(label)], ["nobody", "nobody"])
        assert reports(label) == 0

    @pytest.mark.scenario("sync, async")
    def test_a_sync_function(self, enqueue: Any, label: str) -> None:
        """A function in a thread has the user, and the next one has nobody."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("sync_look", label)
        enqueue("sync_look", f"{label}.after")
        assert_seen([seen(label), seen(f"{label}.after")], ["ada", "nobody"])

    @pytest.mark.scenario("times out")
    def test_a_time_out(self, enqueue: Any, label: str) -> None:
        """A job that takes too long is reported with its user."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("slow", label, timeout=1)
        assert_seen([seen(label), reported("")], ["ada", "ada"])
        assert reports("") == 0

    def test_the_apps_own_hooks(self, enqueue: Any, label: str) -> None:
        """`after_process` still has the user."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("look", label, key=label)
        assert_seen([seen(label), seen(f"after {label}")], ["ada", "ada"])

    def test_a_copied_meta_names_nobody(self, enqueue: Any, label: str) -> None:
        """The `meta` of one job, given to another by hand, does not make it ada's."""
        with usercontext.isolation_scope(user=ADA):
            job = enqueue("look", label)
        assert job.meta["usercontext"]
        enqueue("look", f"{label}.copied", meta=job.meta)
        assert_seen([seen(label), seen(f"{label}.copied")], ["ada", "nobody"])

    @pytest.mark.scenario("schedule")
    def test_cron_names_nobody(self, queue: Any) -> None:
        """A cron job is nobody's, though somebody is the user where the worker was started."""
        assert queue
        assert_seen(seen(f"cron of {QUEUE}"), "nobody")


class TestSetUp:
    """Deploys and errors of use."""

    def test_a_worker_without_the_extension(
        self, app: Any, loop: asyncio.AbstractEventLoop, label: str
    ) -> None:
        """In a rolling deploy a marked job runs on a worker that does not know the mark."""
        queue = saq.Queue.from_url(app.URL, name=label)
        UserContext(queue)
        with run_worker(label, JOBS_PLAIN="1"):
            with usercontext.isolation_scope(user=ADA):
                loop.run_until_complete(queue.enqueue("look", label=label))
            assert_seen(seen(label), "nobody")
        loop.run_until_complete(queue.disconnect())

    @pytest.mark.scenario("killed")
    def test_a_killed_worker(self, app: Any, loop: asyncio.AbstractEventLoop, label: str) -> None:
        """A job whose worker was killed is run again, with its user."""
        queue = saq.Queue.from_url(app.URL, name=label)
        UserContext(queue)
        # A worker sweeps as it starts, and 0.22 takes a job on its way for a lost one.
        loop.run_until_complete(queue.redis.set(f"saq:{label}:sweep", 1))
        with run_worker(label) as process:
            with usercontext.isolation_scope(user=ADA):
                job = loop.run_until_complete(queue.enqueue("endless", label=label, retries=2))
            assert_seen(seen(label), "ada")
            process.kill()
        # As if its time were over: it is found by whoever sweeps.
        loop.run_until_complete(queue.update(job, status="active", started=1))
        loop.run_until_complete(queue.redis.delete(f"saq:{label}:sweep"))
        assert loop.run_until_complete(queue.sweep(abort=0.01))
        with run_worker(label):
            assert_seen(seen(label), "ada")
        loop.run_until_complete(queue.disconnect())

    def test_it_is_added_once(self, app: Any, queue: Any) -> None:
        """A second extension on one queue or one worker is refused."""
        for target in (queue, app.settings):
            with pytest.raises(usercontext.ConfigurationError, match="already"):
                UserContext(target)

    @pytest.mark.parametrize("wrong", [None, "redis", saq.Queue, {}])
    def test_it_takes_settings_or_a_queue(self, wrong: Any) -> None:
        """Anything else is refused, with what to write."""
        with pytest.raises(usercontext.ConfigurationError, match=r"UserContext\(settings\)"):
            UserContext(wrong)
