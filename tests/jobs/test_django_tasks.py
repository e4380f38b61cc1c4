"""Django's tasks: the immediate backend, and a real worker of django-tasks-db."""

from __future__ import annotations

import asyncio
import importlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import django
import django_tasks_db
import pytest

import usercontext
from tests.jobs.notes import assert_seen, reported, reports, seen
from tests.jobs.processes import worker
from tests.jobs.promises import ADA, Enqueue, Promises, label
from tests.jobs.scenarios import kinds

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["label"]

PROJECT = "tests.jobs.apps.django_tasks_project"
assert django_tasks_db.__name__, "the backend of these tests"


@pytest.fixture(scope="module")
def tasks(environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return the module of the tasks, in a project with tables."""
    assert environ
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOBS_SQLITE", str(tmp_path_factory.mktemp("tasks") / "tasks.db"))
        patch.setenv("DJANGO_SETTINGS_MODULE", f"{PROJECT}.settings")
        patch.setenv("JOBS_STARTER", "")
        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        yield importlib.import_module(f"{PROJECT}.tasks")
        from django.db import connections

        connections.close_all()


def run_worker(queue: str, **environ: str) -> Any:
    """Run a worker on a queue of its own."""
    return worker(
        "django", "db_worker", "--queue-name", queue, "--interval", "0.02", "--no-startup-delay",
        "-v", "3", ready="Starting worker", environ={"JOBS_QUEUE": queue, **environ},
    )  # fmt: skip


@pytest.fixture(scope="module")
def enqueue(tasks: Any) -> Iterator[Enqueue]:
    """Return what enqueues a task, beside a worker started where somebody is the user."""
    with run_worker("jobs", JOBS_STARTER="1"):
        yield lambda name, label: getattr(tasks, name).using(queue_name="jobs").enqueue(label)


class TestDatabase(Promises):
    """What every queue keeps; Django's tasks are not tried again."""

    looks = ("look", "alook")
    test_a_retry_has_the_same_user = None  # type: ignore[assignment]

    @pytest.mark.scenario("killed")
    def test_a_killed_worker(self, tasks: Any, label: str) -> None:
        """A task whose worker was killed, and that is set back by hand, has its user again."""
        from django_tasks_db.models import DBTaskResult

        with run_worker("killed") as process:
            with usercontext.isolation_scope(user=ADA):
                result = tasks.endless.using(queue_name="killed").enqueue(label)
            assert_seen(seen(label), "ada")
            process.kill()
        DBTaskResult.objects.filter(id=result.id).update(status="READY")
        with run_worker("killed") as process:
            assert_seen(seen(label), "ada")
            process.kill()

    @pytest.mark.scenario("sync, async")
    def test_an_async_task(self, enqueue: Enqueue, label: str) -> None:
        """A coroutine has the user, and the next one has nobody."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("alook", label)
        enqueue("alook", f"{label}.after")
        assert_seen([seen(label), seen(f"{label}.after")], ["ada", "nobody"])

    def test_enqueued_by_a_coroutine(self, tasks: Any, enqueue: Enqueue, label: str) -> None:
        """`aenqueue` carries the user too."""
        assert enqueue

        async def serve() -> None:
            with usercontext.isolation_scope(user=ADA):
                await tasks.look.using(queue_name="jobs").aenqueue(label)

        asyncio.run(serve())
        assert_seen(seen(label), "ada")

    def test_a_worker_without_the_extension(self, tasks: Any, label: str) -> None:
        """In a rolling deploy a marked task runs on a worker that does not know the mark."""
        with run_worker("plain", JOBS_PLAIN="1"):
            with usercontext.isolation_scope(user=ADA):
                tasks.look.using(queue_name="plain").enqueue(label)
            assert_seen(seen(label), "nobody")


@pytest.fixture(scope="module", params=kinds("rq")[:2])
def rq_tasks(tasks: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return the tasks, beside a worker of RQ's that was started where somebody is the user."""
    pytest.importorskip("django_tasks_rq")
    importlib.import_module("tests.jobs.apps.rq_app")
    options = ["--job-class", "django_tasks_rq.Job", "--worker-class", f"rq.{request.param}"]
    with worker(
        "django", "rqworker", *options, "--with-scheduler", "default", ready="Listening on",
        environ={"JOBS_RQ": "1", "JOBS_BACKEND": "rq", "JOBS_STARTER": "1"},
    ):  # fmt: skip
        yield tasks


class TestRQ(Promises):
    """Tasks that django-tasks-rq hands to RQ, with the extension for RQ beside ours."""

    kind = "rq {}"
    looks = ("look", "alook")
    test_a_retry_has_the_same_user = None  # type: ignore[assignment]

    @pytest.fixture
    def enqueue(self, rq_tasks: Any) -> Enqueue:
        """Return what enqueues a task."""
        return lambda name, label: getattr(rq_tasks, name).using(backend="rq").enqueue(label)

    def test_an_error_is_reported_once(self, rq_tasks: Any, label: str) -> None:
        """A task that fails is reported with its user, and the next one has nobody."""
        with usercontext.isolation_scope(user=ADA):
            rq_tasks.fail.using(backend="rq").enqueue(label)
        rq_tasks.look.using(backend="rq").enqueue(f"{label}.after")
        assert_seen([seen(label), reported(label)], ["ada", "ada"])
        assert_seen(seen(f"{label}.after"), "nobody")
        assert reports(label) == 0

    def test_what_is_put_off(self, rq_tasks: Any, label: str) -> None:
        """A task with `run_after`, which passes no hook of enqueueing, has its user."""
        later = rq_tasks.look.using(backend="rq", run_after=datetime.now(UTC))
        with usercontext.isolation_scope(user=ADA):
            later.enqueue(label)
        assert_seen(seen(label), "ada")


class TestImmediate(Promises):
    """Tasks that are run by whoever enqueues them."""

    kind = "immediate"
    looks = ("look", "alook")
    test_a_retry_has_the_same_user = None  # type: ignore[assignment]

    @pytest.fixture
    def enqueue(self, tasks: Any, monkeypatch: pytest.MonkeyPatch) -> Enqueue:
        """Return what runs a task."""
        monkeypatch.setattr(tasks, "BACKEND", "immediate")
        return lambda name, label: getattr(tasks, name).using(backend="immediate").enqueue(label)

    @pytest.mark.parametrize("name", ["look", "alook", "become"])
    def test_the_caller_keeps_its_user(self, tasks: Any, label: str, name: str) -> None:
        """The task has the caller's user, and what it sets is over with it."""
        task = getattr(tasks, name).using(backend="immediate")
        with usercontext.isolation_scope(user=ADA):
            task.enqueue(label)
            assert usercontext.get_user() == usercontext.User(id="ada")
        assert_seen(seen(label), "bob" if name == "become" else "ada")

    def test_an_error_is_reported_once(self, tasks: Any, label: str) -> None:
        """A task that fails is reported with the caller's user, though nothing is raised."""
        with usercontext.isolation_scope(user=ADA):
            tasks.fail.using(backend="immediate").enqueue(label)
        assert_seen([seen(label), reported(label)], ["ada", "ada"])
        assert reports(label) == 0

    def test_it_is_added_once(self, tasks: Any) -> None:
        """A second extension in one process is refused."""
        from usercontext.jobs.django_tasks import UserContext

        assert tasks
        with pytest.raises(usercontext.ConfigurationError, match="already"):
            UserContext()
        wrong: Any = "default"
        with pytest.raises(usercontext.ConfigurationError, match=r"write UserContext\(\)"):
            UserContext(wrong)
