"""Huey: real consumers with threads, processes and greenlets, and Redis."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import huey
import pytest
import redis
import rq
from huey.serializer import Serializer

import usercontext
from tests.jobs.notes import assert_seen, reported, reports, seen
from tests.jobs.processes import worker
from tests.jobs.promises import ADA, Enqueue, Promises, label
from tests.jobs.scenarios import kinds
from usercontext.jobs.huey import UserContext

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["label"]

APP = "tests.jobs.apps.huey_app"


@pytest.fixture(scope="module")
def app(environ: dict[str, str]) -> Iterator[Any]:
    """Return the module of the tasks, as the process that enqueues imports it."""
    assert environ
    module: Any = importlib.import_module(APP)
    module.configure()
    yield module
    module.huey.storage.conn.connection_pool.disconnect()


def run_worker(kind: str, queue: str, **environ: str) -> Any:
    """Run a consumer on a queue of its own."""
    options = ["-k", kind, "-w", "2", "-d", "0.01", "-m", "0.05", "-s", "1"]
    module = "tests.jobs.huey_gevent" if kind == "greenlet" else "huey.bin.huey_consumer"
    return worker(
        module, f"{APP}.huey", *options, ready="commands are available",
        environ={"JOBS_QUEUE": queue, **environ}, patience=1,
    )  # fmt: skip


def sending(app: Any, queue: str) -> Any:
    """Have the tasks of the app sent to a queue."""
    app.huey.storage.conn.connection_pool.disconnect()
    app.huey.storage = app.huey_of(queue).storage


@pytest.fixture(scope="module", params=kinds("huey"))
def kind(app: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a consumer of each kind, started where somebody is the user."""
    queue = f"huey-{request.param}"
    sending(app, queue)
    with run_worker(request.param, queue, JOBS_STARTER="1"):
        yield request.param


@pytest.fixture(scope="module")
def enqueue(app: Any, kind: str) -> Enqueue:
    """Return what enqueues a task."""
    assert kind
    return lambda name, label: getattr(app, name)(label)


@pytest.fixture(autouse=True)
def _keep_queue(app: Any) -> Iterator[None]:
    queue = app.huey.storage.name
    yield
    if app.huey.storage.name != queue:
        sending(app, queue)


class TestHuey(Promises):
    """What every queue keeps, and what only Huey can do."""

    @pytest.mark.parametrize("name", ["retry", "retry_later"])
    def test_a_retry_keeps_whoever_enqueued_it(
        self, enqueue: Enqueue, label: str, name: str
    ) -> None:
        """What the first attempt has set is over with it, and it is not reported."""
        enqueue(name, label)
        assert_seen([seen(label), seen(label)], ["nobody", "nobody"])
        assert reports(label) == 0

    @pytest.mark.scenario("retried")
    def test_a_later_retry(self, enqueue: Enqueue, label: str) -> None:
        """A retry with a delay, which passes no hook of enqueueing, has the user."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("retry_later", label)
        assert_seen([seen(label), seen(label)], ["ada", "ada"])

    def test_a_later_task(self, app: Any, kind: str, label: str) -> None:
        """A task with a delay is of whoever enqueued it, or of nobody."""
        assert kind
        with usercontext.isolation_scope(user=ADA):
            app.look.schedule((label,), delay=0.1)
        app.look.schedule((f"{label}.2",), delay=0.1)
        assert_seen([seen(label), seen(f"{label}.2")], ["ada", "nobody"])

    def test_a_pipeline(self, app: Any, kind: str, label: str) -> None:
        """The steps of a pipeline and the handler of its error have the user."""
        assert kind
        pipeline = app.look.s(label).then(app.fail).error(app.on_error, label)
        with usercontext.isolation_scope(user=ADA):
            app.huey.enqueue(pipeline)
        failing = app.fail.s(f"{label}.2").error(app.on_error, f"{label}.2")
        with usercontext.isolation_scope(user=ADA):
            app.huey.enqueue(failing)
        assert_seen([seen(label), seen(label), seen(f"{label}.2.error")], ["ada"] * 3)

    @pytest.mark.scenario("times out")
    def test_a_time_out(self, kind: str, enqueue: Enqueue, label: str) -> None:
        """A task that takes too long is reported with its user."""
        if kind == "thread":
            pytest.skip("Huey does not interrupt a thread.")
        with usercontext.isolation_scope(user=ADA):
            enqueue("slow", label)
        assert_seen([seen(label), reported("timeout (1s)")], ["ada", "ada"])

    @pytest.mark.scenario("killed")
    def test_a_killed_consumer(self, app: Any, kind: str, label: str) -> None:
        """A task whose consumer was killed is lost; the next one is of its own user."""
        sending(app, label)
        with run_worker(kind, label) as process:
            with usercontext.isolation_scope(user=ADA):
                app.endless(label)
            assert_seen(seen(label), "ada")
            process.kill()
        app.look(f"{label}.after")
        with run_worker(kind, label):
            assert_seen(seen(f"{label}.after"), "nobody")

    def test_signals(self, app: Any, kind: str, label: str) -> None:
        """The handlers of signals see the task's user, the first and the last of them."""
        assert kind
        with usercontext.isolation_scope(user=ADA):
            app.look(f"{label}.signals")
        found = [seen(f"{label}.signals.{name}") for name in ("executing", "complete")]
        assert_seen(found, ["ada", "ada"])

    @pytest.mark.scenario("schedule")
    def test_periodic_tasks_name_nobody(self, kind: str) -> None:
        """A periodic task is nobody's, though somebody is the user where it was started."""
        assert_seen(seen(f"schedule of huey-{kind}"), "nobody")


class TestImmediate(Promises):
    """`immediate`: a task is run by whoever enqueues it."""

    kind = "immediate"

    @pytest.fixture
    def enqueue(self, app: Any) -> Iterator[Enqueue]:
        """Return what runs a task."""
        app.huey.immediate = True
        yield lambda name, label: getattr(app, name)(label)
        app.huey.immediate = False

    def test_a_retry_of_nobodys(self, enqueue: Enqueue, label: str) -> None:
        """What the first attempt has set is over with it."""
        enqueue("retry", label)
        assert_seen([seen(label), seen(label)], ["nobody", "nobody"])
        assert usercontext.get_user() is None


class TestSetUp:
    """Deploys, serializers and errors of use."""

    def test_a_consumer_without_the_extension(self, app: Any, label: str) -> None:
        """In a rolling deploy a marked task runs on a consumer that does not know the mark."""
        sending(app, label)
        with run_worker("thread", label, JOBS_PLAIN="1"):
            with usercontext.isolation_scope(user=ADA):
                app.look(label)
            assert_seen(seen(label), "nobody")

    def test_signed_messages(self, app: Any, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The mark stands inside of what Huey signs and compresses."""
        signed = app.huey_of(f"{label}-signed")
        UserContext(signed)
        sending(app, f"{label}-signed")
        monkeypatch.setattr(app.huey, "serializer", signed.serializer)
        with run_worker("thread", f"{label}-signed"):
            with usercontext.isolation_scope(user=ADA):
                app.look(label)
            assert_seen(seen(label), "ada")

    def test_immediate_mode(self, app: Any, label: str) -> None:
        """A task that is run at once has the caller's user, and leaves it as it was."""
        app.huey.immediate = True
        try:
            with usercontext.isolation_scope(user=ADA):
                app.become(label)
                assert usercontext.get_user() == usercontext.User(id="ada")
        finally:
            app.huey.immediate = False
        assert_seen([seen(label), seen(f"{label}.child")], ["bob", "bob"])

    def test_beside_sentry_sdk(self, app: Any, label: str) -> None:
        """The SDK's own reports name the user as ours do, each once, and the next one nobody."""
        sending(app, label)
        with run_worker("thread", label, JOBS_SENTRY="1"):
            with usercontext.isolation_scope(user=ADA):
                app.fail(label)
            app.fail(f"{label}.after")
            assert_seen([reported(label), reported(f"sentry {label}")], ["ada", "ada"])
            assert_seen(reported(f"sentry {label}.after"), "nobody")
            assert [reports(label), reports(f"sentry {label}")] == [0, 0]

    def test_it_is_added_once(self, app: Any) -> None:
        """A second extension on one instance is refused."""
        with pytest.raises(usercontext.ConfigurationError, match="already"):
            UserContext(app.huey)

    def test_it_takes_a_huey(self) -> None:
        """Anything else is refused, with what to write."""
        wrong: Any = "redis"
        with pytest.raises(usercontext.ConfigurationError, match=r"write UserContext\(huey\)"):
            UserContext(wrong)

    def test_another_queues_app_is_told_apart(self) -> None:
        """The text names the module whose extension takes it."""
        wrong: Any = rq.Queue("mail", connection=redis.Redis())
        with pytest.raises(usercontext.ConfigurationError, match=r"for usercontext\.jobs\.rq"):
            UserContext(wrong)

    def test_it_needs_a_pickle(self) -> None:
        """A serializer that writes something else is refused, with what to do."""

        class Other(Serializer):  # type: ignore[misc]
            def _serialize(self, data: object) -> bytes:
                return repr(data).encode()

        with pytest.raises(usercontext.ConfigurationError, match="its own Serializer"):
            UserContext(huey.MemoryHuey(serializer=Other()))
