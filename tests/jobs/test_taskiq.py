"""Taskiq: real workers of threads and of processes, a scheduler, and Redis."""

from __future__ import annotations

import asyncio
import importlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import taskiq_redis
from taskiq_pipelines import Pipeline

import usercontext
from tests.jobs.notes import assert_seen, reported, reports, seen, store
from tests.jobs.processes import worker
from tests.jobs.promises import ADA, Enqueue, Promises, label
from tests.jobs.scenarios import kinds
from usercontext.jobs.taskiq import UserContext

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["label"]

APP = "tests.jobs.apps.taskiq_app"
assert taskiq_redis.ListQueueBroker, "the broker of these tests"


@pytest.fixture(scope="module")
def app(environ: dict[str, str]) -> Any:
    """Return the module of the tasks, as the process that sends imports it."""
    assert environ
    module: Any = importlib.import_module(APP)
    module.configure()
    return module


def run_worker(app: Any, queue: str, *options: str, **environ: str) -> Any:
    """Run a worker on a queue of its own, and send there."""
    app.broker.queue_name = queue
    return worker(
        "taskiq", "worker", f"{APP}:broker", "--workers", "1", *options,
        ready="Listening started", environ={"JOBS_QUEUE": queue, **environ}, patience=0.5,
    )  # fmt: skip


@pytest.fixture(scope="module")
def loop(app: Any) -> Iterator[asyncio.AbstractEventLoop]:
    """Return an event loop, which the broker is bound to."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(app.broker.startup())
    yield loop
    loop.run_until_complete(app.broker.shutdown())
    loop.run_until_complete(app.source.shutdown())
    loop.close()


@pytest.fixture(scope="module", params=kinds("taskiq"))
def kind(
    app: Any, loop: asyncio.AbstractEventLoop, request: pytest.FixtureRequest
) -> Iterator[str]:
    """Run a worker of each kind, started where somebody is the user."""
    assert loop
    options = ["--use-process-pool", "--max-process-pool-processes", "1"]
    options = options if request.param == "processes" else []
    with run_worker(app, f"taskiq-{request.param}", *options, JOBS_STARTER="1"):
        yield request.param


@pytest.fixture(scope="module")
def enqueue(app: Any, loop: asyncio.AbstractEventLoop, kind: str) -> Enqueue:
    """Return what sends a task."""
    assert kind
    return lambda name, label: loop.run_until_complete(getattr(app, name).kiq(label))


@pytest.fixture(autouse=True)
def _keep_queue(app: Any) -> Iterator[None]:
    queue = app.broker.queue_name
    yield
    app.broker.queue_name = queue


class TestTaskiq(Promises):
    """What every queue keeps, and what only Taskiq can do."""

    looks = ("look", "sync_look")

    @pytest.mark.scenario("retried")
    def test_a_retry_keeps_whoever_sent_it(self, enqueue: Enqueue, label: str) -> None:
        """What the first attempt has set is over with it, and it is not reported."""
        enqueue("retry", label)
        assert_seen([seen(label), seen(label)], ["nobody", "nobody"])
        assert reports(label) == 0

    @pytest.mark.scenario("sync, async")
    def test_a_sync_task(self, enqueue: Enqueue, label: str) -> None:
        """A function in a thread or a process has the user, and the next has its own or nobody."""
        for name, user in (("1", ADA), ("2", None), ("3", {"id": "bob"})):
            with usercontext.isolation_scope(user=user):
                enqueue("sync_look", f"{label}.{name}")
        found = [seen(f"{label}.{name}") for name in "123"]
        assert_seen(found, ["ada", "nobody", "bob"])

    @pytest.mark.scenario("fails", "sync, async")
    def test_a_sync_error(self, enqueue: Enqueue, label: str) -> None:
        """The error of a function in a thread or process is reported once."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("sync_fail", label)
        assert_seen([seen(label), reported(label)], ["ada", "ada"])
        assert reports(label) == 0

    @pytest.mark.scenario("times out")
    def test_a_time_out(self, kind: str, enqueue: Enqueue, label: str) -> None:
        """A coroutine that takes too long is reported with its user, once."""
        assert kind
        with usercontext.isolation_scope(user=ADA):
            enqueue("slow", label)
        assert_seen([seen(label), reported("")], ["ada", "ada"])
        assert reports("") == 0

    def test_a_body_that_outlives_its_time_out(
        self, kind: str, enqueue: Enqueue, label: str
    ) -> None:
        """A thread that runs on after the time-out still has its user."""
        if kind == "processes":
            pytest.skip("a process runs on as well, and the pool of this test has one")
        with usercontext.isolation_scope(user=ADA):
            enqueue("outlive", label)
        assert_seen([seen(label), reported("")], ["ada", "ada"])
        with store() as client:
            client.rpush(f"go on:{label}", 1)
        assert_seen(seen(f"{label}.later"), "ada")

    @pytest.mark.scenario("schedule")
    def test_a_schedule_names_nobody(self, kind: str) -> None:
        """What comes again and again is nobody's, whoever has started the scheduler."""
        environ = {"JOBS_QUEUE": f"taskiq-{kind}", "JOBS_STARTER": "1"}
        options = [f"{APP}:scheduler", "--update-interval", "1"]
        with worker("taskiq", "scheduler", *options, ready="Starting scheduler", environ=environ):
            assert_seen(seen(f"schedule of taskiq-{kind}"), "nobody")

    @pytest.mark.scenario("killed")
    def test_a_killed_worker(
        self, app: Any, loop: asyncio.AbstractEventLoop, kind: str, label: str
    ) -> None:
        """A task whose worker was killed is delivered again by a stream, with its user."""
        stream = app.stream_of(label)
        UserContext(stream)
        loop.run_until_complete(stream.startup())
        options = ["--use-process-pool"] if kind == "processes" else []
        with run_worker(app, label, *options, JOBS_STREAM="1") as process:
            with usercontext.isolation_scope(user=ADA):
                loop.run_until_complete(app.endless.kicker().with_broker(stream).kiq(label))
            assert_seen(seen(label), "ada")
            process.kill()
        with run_worker(app, label, *options, JOBS_STREAM="1") as process:
            # It looks for what others have left behind once something new has come.
            behind = app.look.kicker().with_broker(stream).kiq(f"{label}.behind")
            loop.run_until_complete(behind)
            assert_seen([seen(f"{label}.behind"), seen(label)], ["nobody", "ada"])
            process.kill()
        loop.run_until_complete(stream.shutdown())

    def test_a_pipeline(
        self, app: Any, loop: asyncio.AbstractEventLoop, kind: str, label: str
    ) -> None:
        """The next step of a pipeline, which is sent when all else is over, has the user."""
        assert kind
        pipeline = Pipeline(app.broker, app.look).call_next(app.hand_on)
        with usercontext.isolation_scope(user=ADA):
            loop.run_until_complete(pipeline.kiq(label))
        assert_seen([seen(label), seen(label), seen(f"{label}.child")], ["ada"] * 3)


class TestSetUp:
    """Schedules, deploys and errors of use."""

    def test_schedules(self, app: Any, loop: asyncio.AbstractEventLoop, label: str) -> None:
        """What comes by itself is nobody's; what ada has put off is hers."""
        source = app.source_of(label)
        with run_worker(app, label):
            with usercontext.isolation_scope(user=ADA):
                later = app.look.schedule_by_time(source, datetime.now(UTC), label)
                loop.run_until_complete(later)
            loop.run_until_complete(source.shutdown())
            environ = {"JOBS_QUEUE": label, "JOBS_STARTER": "1"}
            options = [f"{APP}:scheduler", "--update-interval", "1"]
            with worker(
                "taskiq", "scheduler", *options, ready="Starting scheduler", environ=environ
            ):
                assert_seen(seen(f"schedule of {label}"), "nobody")
                assert_seen(seen(label), "ada")

    def test_a_worker_without_the_extension(
        self, app: Any, loop: asyncio.AbstractEventLoop, label: str
    ) -> None:
        """In a rolling deploy a marked task runs on a worker that does not know the mark."""
        with run_worker(app, label, JOBS_PLAIN="1"):
            with usercontext.isolation_scope(user=ADA):
                loop.run_until_complete(app.look.kiq(label))
            assert_seen(seen(label), "nobody")

    def test_it_is_added_once(self, app: Any) -> None:
        """A second extension on one broker is refused."""
        with pytest.raises(usercontext.ConfigurationError, match="already"):
            UserContext(app.broker)

    def test_it_takes_a_broker(self) -> None:
        """Anything else is refused, with what to write."""
        wrong: Any = "redis"
        with pytest.raises(usercontext.ConfigurationError, match=r"write UserContext\(broker\)"):
            UserContext(wrong)
