"""Dramatiq: real workers of threads and of greenlets, and Redis."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest

import usercontext
from tests.jobs.notes import assert_seen, reported, reports, seen
from tests.jobs.processes import worker
from tests.jobs.promises import ADA, Enqueue, Promises, label
from tests.jobs.scenarios import kinds
from usercontext.jobs.dramatiq import UserContext

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["label"]

APP = "tests.jobs.apps.dramatiq_app"


@pytest.fixture(scope="module")
def app(environ: dict[str, str]) -> Any:
    """Return the module of the actors, as the process that sends imports it."""
    assert environ
    module: Any = importlib.import_module(APP)
    module.configure()
    return module


def run_worker(app: Any, kind: str, queue: str, **environ: str) -> Any:
    """Run a worker on a namespace of its own, and send there."""
    app.broker.namespace = queue
    command = ["dramatiq.__main__" if kind == "threads" else "tests.jobs.dramatiq_gevent"]
    return worker(
        *command, APP, "--processes", "1", "--threads", "2",
        ready="Worker process is ready", environ={"JOBS_QUEUE": queue, **environ},
    )  # fmt: skip


@pytest.fixture(scope="module", params=kinds("dramatiq"))
def kind(app: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a worker of each kind, started where somebody is the user."""
    with run_worker(app, request.param, f"dramatiq-{request.param}", JOBS_STARTER="1"):
        yield request.param


@pytest.fixture(scope="module")
def enqueue(app: Any, kind: str) -> Enqueue:
    """Return what sends a message."""
    assert kind
    return lambda name, label: getattr(app, name).send(label)


@pytest.fixture(autouse=True)
def _keep_namespace(app: Any) -> Iterator[None]:
    namespace = app.broker.namespace
    yield
    app.broker.namespace = namespace


class TestDramatiq(Promises):
    """What every queue keeps, and what only Dramatiq can do."""

    looks = ("look", "alook")

    @pytest.mark.scenario("retried")
    def test_a_retry_keeps_whoever_sent_it(self, enqueue: Enqueue, label: str) -> None:
        """What the first attempt has set is over with it, and it is not reported."""
        enqueue("retry", label)
        assert_seen([seen(label), seen(label)], ["nobody", "nobody"])
        assert reports(label) == 0

    @pytest.mark.scenario("sync, async")
    def test_an_async_actor(self, enqueue: Enqueue, label: str) -> None:
        """A coroutine has the user to its end, and the next one has nobody."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("alook", label)
        enqueue("alook", f"{label}.after")
        assert_seen([seen(label), seen(label)], ["ada", "ada"])
        assert_seen([seen(f"{label}.after"), seen(f"{label}.after")], ["nobody", "nobody"])

    @pytest.mark.scenario("fails", "sync, async")
    def test_an_async_error(self, enqueue: Enqueue, label: str) -> None:
        """The error of a coroutine is reported once, with its user."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("afail", label)
        assert_seen([seen(label), reported(label)], ["ada", "ada"])
        assert reports(label) == 0

    def test_a_pipeline(self, app: Any, kind: str, label: str) -> None:
        """The steps of a pipeline have the user."""
        assert kind
        steps = [app.look.message(f"{label}.{number}") for number in range(3)]
        with usercontext.isolation_scope(user=ADA):
            dramatiq.pipeline(steps).run()
        assert_seen([seen(f"{label}.{number}") for number in range(3)], ["ada"] * 3)

    def test_a_group(self, app: Any, kind: str, label: str) -> None:
        """The callback of a group has the user of its members."""
        assert kind
        group = dramatiq.group([app.look.message(f"{label}.{number}") for number in range(2)])
        group.add_completion_callback(app.look.message(f"{label}.done"))
        with usercontext.isolation_scope(user=ADA):
            group.run()
        assert_seen(seen(f"{label}.done"), "ada")

    def test_callbacks(self, app: Any, kind: str, label: str) -> None:
        """The callbacks of a success and of a failure have the user."""
        assert kind
        with usercontext.isolation_scope(user=ADA):
            app.look.send_with_options(args=(label,), on_success="on_success")
            app.fail.send_with_options(args=(f"{label}.2",), on_failure="on_failure")
        assert_seen([seen(f"{label}.success"), seen(f"{label}.2.failure")], ["ada", "ada"])

    def test_retries_that_are_exhausted(self, app: Any, kind: str, label: str) -> None:
        """The actor that is told when an actor is not tried again has the user."""
        assert kind
        if "on_retry_exhausted" not in app.broker.actor_options:
            pytest.skip("this version of Dramatiq has no such actors")
        with usercontext.isolation_scope(user=ADA):
            app.fail.send_with_options(args=(label,), on_retry_exhausted="on_exhausted")
        assert_seen([reported(label), seen(f"{label}.exhausted")], ["ada", "ada"])

    @pytest.mark.scenario("times out")
    def test_a_time_limit(self, kind: str, enqueue: Enqueue, label: str) -> None:
        """An actor that takes too long is reported with its user."""
        if kind == "gevent":
            pytest.skip("Dramatiq does not interrupt a greenlet.")
        with usercontext.isolation_scope(user=ADA):
            enqueue("slow", label)
        assert_seen([seen(label), reported("")], ["ada", "ada"])
        assert reports("") == 0

    def test_a_later_message(self, app: Any, kind: str, label: str) -> None:
        """A message with a delay passes the hook twice, and keeps its user."""
        assert kind
        with usercontext.isolation_scope(user=ADA):
            app.look.send_with_options(args=(label,), delay=50)
        assert_seen(seen(label), "ada")

    @pytest.mark.scenario("killed")
    def test_a_killed_worker(self, app: Any, kind: str, label: str) -> None:
        """A message whose worker was killed is delivered again, with its user."""
        with run_worker(app, kind, label), usercontext.isolation_scope(user=ADA):
            app.killed.send(label)
            assert_seen(seen(label), "ada")
        with run_worker(app, kind, label):
            assert_seen(seen(label), "ada")

    def test_an_expired_message(self, app: Any, kind: str, label: str) -> None:
        """A message that is skipped leaves nobody behind."""
        assert kind
        with usercontext.isolation_scope(user=ADA):
            app.look.send_with_options(args=(label,), max_age=-1)
        app.look.send(f"{label}.after")
        assert_seen(seen(f"{label}.after"), "nobody")

    def test_expected_errors_are_left_out(self, enqueue: Enqueue, label: str) -> None:
        """What an actor says it throws is not an error."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("expected", label)
        enqueue("look", f"{label}.after")
        assert_seen([seen(label), seen(f"{label}.after")], ["ada", "nobody"])
        assert reports(f"'{label}'") == 0


class TestSetUp:
    """Deploys and errors of use."""

    def test_a_worker_without_the_extension(self, app: Any, label: str) -> None:
        """In a rolling deploy a marked message runs on a worker that does not know the mark."""
        with run_worker(app, "threads", label, JOBS_PLAIN="1"):
            with usercontext.isolation_scope(user=ADA):
                app.look.send(label)
            assert_seen(seen(label), "nobody")

    def test_beside_sentry_sdk(self, app: Any, label: str) -> None:
        """The SDK's own reports name the user as ours do, each once, and the next one nobody."""
        with run_worker(app, "threads", label, JOBS_SENTRY="1"):
            with usercontext.isolation_scope(user=ADA):
                app.fail.send(label)
            app.fail.send(f"{label}.after")
            assert_seen([reported(label), reported(f"sentry {label}")], ["ada", "ada"])
            assert_seen(reported(f"sentry {label}.after"), "nobody")
            assert [reports(label), reports(f"sentry {label}")] == [0, 0]

    def test_it_is_added_once(self, app: Any) -> None:
        """A second extension on one broker is refused."""
        with pytest.raises(usercontext.ConfigurationError, match="already"):
            UserContext(app.broker)

    def test_it_takes_a_broker(self) -> None:
        """Anything else is refused, with what to write."""
        with pytest.raises(usercontext.ConfigurationError, match=r"write UserContext\(broker\)"):
            UserContext("redis")
