"""RQ: every kind of worker, in a process of its own, and Redis."""

from __future__ import annotations

import importlib
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import rq
from rq.command import send_stop_job_command
from rq.cron import CronScheduler
from rq.registry import StartedJobRegistry

import usercontext
from tests.jobs.notes import assert_seen, reported, reports, seen
from tests.jobs.processes import worker
from tests.jobs.promises import ADA, BOB, Enqueue, Promises, label
from tests.jobs.scenarios import kinds
from usercontext.jobs.rq import UserContext

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["label"]

APP = "tests.jobs.apps.rq_app"


@pytest.fixture(scope="module")
def app(environ: dict[str, str]) -> Any:
    """Return the module of the jobs, as the process that enqueues imports it."""
    assert environ
    module: Any = importlib.import_module(APP)
    module.configure()
    return module


def rq_worker(app: Any, kind: str, queue: str, **environ: str) -> Any:
    """Run a worker on a queue of its own."""
    options = ["-u", app.redis_url, "-w", f"rq.worker.{kind}", "-c", APP, "--with-scheduler"]
    return worker(
        "rq.cli",
        "worker",
        *options,
        queue,
        ready="Listening on",
        environ={"JOBS_QUEUE": queue, **environ},
    )


@pytest.fixture(scope="module", params=kinds("rq"))
def kind(app: Any, environ: dict[str, str], request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a worker of each kind, started where somebody is the user."""
    app.redis_url = environ["JOBS_REDIS"]
    app.queue = rq.Queue(f"rq-{request.param}", connection=app.connection)
    with rq_worker(app, request.param, app.queue.name, JOBS_STARTER="1"):
        yield request.param


@pytest.fixture(scope="module")
def enqueue(app: Any, kind: str) -> Enqueue:
    """Return what enqueues a job."""
    assert kind
    return app.enqueue  # type: ignore[no-any-return]


class TestRQ(Promises):
    """What every queue keeps, and what only RQ can do."""

    looks = ("look", "alook")

    @pytest.mark.scenario("fails", "sync, async")
    def test_an_async_error(self, enqueue: Enqueue, label: str) -> None:
        """The error of a coroutine is reported once, with its user."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("afail", label)
        assert_seen([seen(label), reported(label)], ["ada", "ada"])
        assert reports(label) == 0

    @pytest.mark.scenario("retried")
    def test_a_retry_keeps_whoever_enqueued_it(self, enqueue: Enqueue, label: str) -> None:
        """What the first attempt has set is over with it, and it is not reported."""
        enqueue("retry", label)
        assert_seen([seen(label), seen(label)], ["nobody", "nobody"])
        assert reports(label) == 0

    def test_callbacks(self, app: Any, enqueue: Enqueue, label: str) -> None:
        """Callbacks of a success and of a failure have the job's user."""
        with usercontext.isolation_scope(user=ADA):
            app.enqueue("look", f"{label}.1", **app.CALLBACKS)
            app.enqueue("fail", f"{label}.2", **app.CALLBACKS)
        assert_seen([seen(f"{label}.1.success"), seen(f"{label}.2.failure")], ["ada", "ada"])
        assert enqueue

    def test_a_scheduled_job(self, app: Any, kind: str, label: str) -> None:
        """A job for later has the user of whoever scheduled it."""
        assert kind
        with usercontext.isolation_scope(user=ADA):
            app.queue.enqueue_in(timedelta(seconds=0), app.look, label)
        assert_seen(seen(label), "ada")

    def test_bulk(self, app: Any, kind: str, label: str) -> None:
        """Jobs that are enqueued together have the user."""
        assert kind
        jobs = [rq.Queue.prepare_data(app.look, (f"{label}.{number}",)) for number in range(2)]
        with usercontext.isolation_scope(user=ADA):
            app.queue.enqueue_many(jobs)
        assert_seen([seen(f"{label}.0"), seen(f"{label}.1")], ["ada", "ada"])

    def test_a_dependent(self, app: Any, kind: str, label: str) -> None:
        """A dependent is of whoever enqueued it, not of whoever enqueued what it waits for."""
        assert kind
        with usercontext.isolation_scope(user=ADA):
            first = app.enqueue("look", label)
        with usercontext.isolation_scope(user=BOB):
            app.enqueue("look", f"{label}.bobs", depends_on=first)
        app.enqueue("look", f"{label}.nobodys", depends_on=first)
        assert_seen([seen(f"{label}.bobs"), seen(f"{label}.nobodys")], ["bob", "nobody"])

    def test_a_requeued_job(self, app: Any, kind: str, label: str) -> None:
        """A job that is put back from the failed ones has its user again."""
        assert kind
        with usercontext.isolation_scope(user=ADA):
            job = app.enqueue("fail", label, **app.CALLBACKS)
        assert_seen([seen(label), reported(label), seen(f"{label}.failure")], ["ada"] * 3)
        wait_for_failure(app, job)
        with usercontext.isolation_scope(user=BOB):
            job.requeue()
        assert_seen([seen(label), reported(label)], ["ada", "ada"])

    @pytest.mark.scenario("times out")
    def test_a_time_out(self, app: Any, kind: str, label: str) -> None:
        """A job that takes too long is reported with its user."""
        assert kind
        with usercontext.isolation_scope(user=ADA):
            app.enqueue("slow", label, job_timeout=1)
        timed_out = "Task exceeded maximum timeout value (1 seconds)"
        assert_seen([seen(label), reported(timed_out)], ["ada", "ada"])

    @pytest.mark.scenario("killed")
    def test_a_killed_horse(self, app: Any, kind: str, label: str) -> None:
        """A job whose process was killed is reported by the worker, with its user."""
        if kind == "SimpleWorker":
            pytest.skip("the worker itself is killed, as the next test has it")
        with usercontext.isolation_scope(user=ADA):
            app.enqueue("killed", label)
        assert_seen(
            [seen(label), reported("the process that ran a job was killed")], ["ada", "ada"]
        )

    @pytest.mark.scenario("killed")
    def test_a_killed_worker(self, app: Any, kind: str, label: str) -> None:
        """A job whose worker was killed is reported with its user by whoever finds it."""
        queue = rq.Queue(label, connection=app.connection)
        # A horse, in a group of its own, would outlive its worker.
        job = app.slow if kind == "SimpleWorker" else app.lost
        with rq_worker(app, kind, label) as process, usercontext.isolation_scope(user=ADA):
            queue.enqueue(job, label, **app.CALLBACKS)
            assert_seen(seen(label), "ada")
            process.kill()
        with usercontext.isolation_scope(user=BOB):
            StartedJobRegistry(queue=queue).cleanup(timestamp=time.time() + 10_000)
            assert usercontext.get_user() == usercontext.User(id="bob")
        assert_seen(seen(f"{label}.failure"), "ada")
        assert_seen(reported("the worker that ran a job is gone"), "ada")

    @pytest.mark.scenario("schedule")
    def test_cron_names_nobody(self, app: Any, kind: str, label: str) -> None:
        """What cron enqueues is nobody's, though somebody is the user where it was started."""
        assert kind
        cron = CronScheduler(connection=app.connection)
        cron.register(app.look, queue_name=app.queue.name, args=(label,), interval=1)
        with usercontext.isolation_scope(user=ADA):
            cron.enqueue_jobs()
        assert_seen(seen(label), "nobody")

    def test_a_retry_that_is_returned(self, enqueue: Enqueue, label: str) -> None:
        """A job that returns a `Retry` starts its second attempt from the original user."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("again", label)
        assert_seen([seen(label), seen(label)], ["ada", "ada"])

    def test_a_repeated_job(self, app: Any, kind: str, label: str) -> None:
        """Each repetition has the user of whoever enqueued the first."""
        assert kind
        with usercontext.isolation_scope(user=ADA):
            app.enqueue("look", label, repeat=rq.Repeat(times=2, interval=0))
        assert_seen([seen(label), seen(label), seen(label)], ["ada"] * 3)

    def test_a_stopped_job(self, app: Any, kind: str, label: str) -> None:
        """The callback of a job that was stopped, which the worker runs, has its user."""
        if kind == "SimpleWorker":
            pytest.skip("the worker itself would be stopped")
        with usercontext.isolation_scope(user=ADA):
            job = app.enqueue("slow", label, **app.CALLBACKS)
        assert_seen(seen(label), "ada")
        send_stop_job_command(app.connection, job.id)
        assert_seen(seen(f"{label}.stopped"), "ada")

    def test_a_shared_meta_stays_the_apps(self, app: Any, kind: str, label: str) -> None:
        """The dictionary that the app gives to many jobs is not written into."""
        assert kind
        meta = {"source": "import"}
        with usercontext.isolation_scope(user=ADA):
            job = app.enqueue("look", label, meta=meta)
        app.enqueue("look", f"{label}.copied", meta=job.meta)
        assert meta == {"source": "import"}
        assert_seen([seen(label), seen(f"{label}.copied")], ["ada", "nobody"])


def wait_for_failure(app: Any, job: Any) -> None:
    """Enqueue another job behind one, which runs once the first is put away."""
    app.enqueue("look", f"{job.id}.behind")
    assert_seen(seen(f"{job.id}.behind"), "nobody")


class TestSynchronous(Promises):
    """`is_async=False`: a job is run by whoever enqueues it."""

    kind = "synchronous"
    looks = ("look", "alook")
    test_a_retry_has_the_same_user = None  # type: ignore[assignment]

    @pytest.fixture
    def enqueue(self, app: Any, monkeypatch: pytest.MonkeyPatch) -> Enqueue:
        """Return what runs a job."""
        queue = rq.Queue("synchronous", connection=app.connection, is_async=False)
        monkeypatch.setattr(app, "queue", queue)
        return app.enqueue  # type: ignore[no-any-return]


class TestSetUp:
    """Deploys and errors of use."""

    @pytest.fixture(autouse=True)
    def _url(self, app: Any, environ: dict[str, str]) -> None:
        app.redis_url = environ["JOBS_REDIS"]

    def test_a_synchronous_queue(self, app: Any, label: str) -> None:
        """A job that is run at once has the caller's user, and leaves it as it was."""
        queue = rq.Queue("sync", connection=app.connection, is_async=False)
        with usercontext.isolation_scope(user=ADA):
            queue.enqueue(app.become, label)
            assert usercontext.get_user() == usercontext.User(id="ada")
        assert_seen(seen(label), "bob")

    def test_a_worker_without_the_extension(self, app: Any, label: str) -> None:
        """In a rolling deploy a marked job runs on a worker that does not know the mark."""
        with rq_worker(app, "SimpleWorker", label, JOBS_PLAIN="1"):
            with usercontext.isolation_scope(user=ADA):
                rq.Queue(label, connection=app.connection).enqueue(app.look, label)
            assert_seen(seen(label), "nobody")

    def test_beside_sentry_sdk(self, app: Any, label: str) -> None:
        """The SDK's own reports name the user, and no job's user is left to the next."""
        queue = rq.Queue(label, connection=app.connection)
        with rq_worker(app, "SimpleWorker", label, JOBS_SENTRY="1"):
            with usercontext.isolation_scope(user=ADA):
                queue.enqueue(app.fail, label)
            queue.enqueue(app.tells_sentry, f"{label}.told")
            queue.enqueue(app.fail, f"{label}.after")
            assert_seen([reported(label), reported(f"sentry {label}")], ["ada", "ada"])
            assert_seen(reported(f"sentry {label}.after"), "nobody")
            assert [reports(label), reports(f"sentry {label}")] == [0, 0]
            assert_seen(reported(f"sentry {APP}.fail"), "ada")

    def test_it_is_added_once(self, app: Any) -> None:
        """A second extension in one process is refused."""
        with pytest.raises(usercontext.ConfigurationError, match="already"):
            UserContext()
        with pytest.raises(usercontext.ConfigurationError, match="already"):
            UserContext(app.queue, resolver=lambda _: None)

    def test_it_takes_a_queue_or_nothing(self) -> None:
        """Anything else is refused, with what to write."""
        with pytest.raises(usercontext.ConfigurationError, match=r"write UserContext\(\)"):
            UserContext("queue")
