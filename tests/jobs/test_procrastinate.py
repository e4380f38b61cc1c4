"""Procrastinate: a real worker, and PostgreSQL."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import procrastinate
import psycopg
import pytest

import usercontext
from tests.jobs.notes import assert_seen, reported, reports, seen
from tests.jobs.processes import postgres_server, worker
from tests.jobs.promises import ADA, Enqueue, Promises, label
from usercontext.jobs.procrastinate import UserContext

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["label"]

APP = "tests.jobs.apps.procrastinate_app"
QUEUE = "procrastinate-jobs"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a PostgreSQL for these tests."""
    # Short, and open to the user that the server runs as.
    folder = tmp_path_factory.mktemp("postgres")
    for parent in (folder, *folder.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    with postgres_server(folder) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOBS_POSTGRES", url)
        yield url


@pytest.fixture(scope="module")
def app(environ: dict[str, str], database: str) -> Iterator[Any]:
    """Return the module of the tasks, as the process that defers imports it, and its tables."""
    assert environ
    assert database
    module: Any = importlib.import_module(APP)
    module.configure()
    with module.app.open():
        module.app.schema_manager.apply_schema()
        yield module


def run_worker(queue: str, **environ: str) -> Any:
    """Run a worker on a queue of its own."""
    return worker(
        "procrastinate", "--app", f"{APP}.app", "-v", "worker", "-q", queue,
        "--fetch-job-polling-interval", "0.05", ready="Starting worker",
        environ={"JOBS_QUEUE": queue, **environ},
    )  # fmt: skip


@pytest.fixture(scope="module")
def enqueue(app: Any) -> Iterator[Enqueue]:
    """Return what defers a job, beside a worker started where somebody is the user."""
    with run_worker(QUEUE, JOBS_STARTER="1"):
        yield lambda name, label: getattr(app, name).configure(queue=QUEUE).defer(label=label)


class TestProcrastinate(Promises):
    """What every queue keeps, and what only Procrastinate can do."""

    looks = ("look", "alook")

    @pytest.mark.scenario("retried")
    def test_a_retry_keeps_whoever_deferred_it(self, enqueue: Enqueue, label: str) -> None:
        """What the first attempt has set is over with it, and it is not reported."""
        enqueue("retry", label)
        assert_seen([seen(label), seen(label)], ["nobody", "nobody"])
        assert reports(label) == 0

    @pytest.mark.scenario("sync, async")
    def test_an_async_task(self, enqueue: Enqueue, label: str) -> None:
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

    def test_equal_jobs(self, app: Any, enqueue: Enqueue, label: str) -> None:
        """Two jobs with the same arguments in the same second do not lock each other out."""
        assert enqueue
        with usercontext.isolation_scope(user=ADA):
            app.look.configure(queue=QUEUE).batch_defer({"label": label}, {"label": label})
        assert_seen([seen(label), seen(label)], ["ada", "ada"])

    def test_locks_stay_the_apps(
        self, app: Any, enqueue: Enqueue, label: str, database: str
    ) -> None:
        """A job with a queueing lock keeps it; one with both locks runs without a user."""
        assert enqueue
        locks = {"queue": "nobody takes", "queueing_lock": label}
        with usercontext.isolation_scope(user=ADA):
            app.look.configure(**locks).defer(label=label)
            with pytest.raises(procrastinate.exceptions.AlreadyEnqueued):
                app.look.configure(**locks).defer(label=label)
            app.look.configure(queue=QUEUE, lock=label, queueing_lock=f"{label}.2").defer(
                label=label
            )
        assert_seen(seen(label), "nobody")
        with psycopg.connect(database) as connection:
            rows = connection.execute(
                "SELECT args FROM procrastinate_jobs WHERE queueing_lock = %s", [label]
            ).fetchall()
        assert rows == [({"label": label},)]

    @pytest.mark.scenario("schedule")
    def test_periodic_tasks_name_nobody(self, enqueue: Enqueue) -> None:
        """A periodic task is nobody's, though somebody is the user where it was started."""
        assert enqueue
        assert_seen(seen(f"schedule of {QUEUE}"), "nobody")


class TestSetUp:
    """Deploys and errors of use."""

    def test_a_worker_without_the_extension(self, app: Any, label: str) -> None:
        """In a rolling deploy a marked job runs on a worker that does not know the mark."""
        with run_worker("plain", JOBS_PLAIN="1"):
            with usercontext.isolation_scope(user=ADA):
                app.look.configure(queue="plain").defer(label=label)
            assert_seen(seen(label), "nobody")

    @pytest.mark.scenario("killed")
    def test_a_killed_worker(self, app: Any, label: str) -> None:
        """A job whose worker was killed is run again, with its user."""
        with run_worker("killed") as process, usercontext.isolation_scope(user=ADA):
            job_id = app.endless.configure(queue="killed").defer(label=label)
            assert_seen(seen(label), "ada")
            process.kill()
        app.app.job_manager.retry_job_by_id(job_id=job_id, retry_at=datetime.now(UTC))
        with run_worker("killed") as process:
            assert_seen(seen(label), "ada")
            process.kill()

    def test_it_is_added_once(self, app: Any) -> None:
        """A second extension on one app is refused."""
        with pytest.raises(usercontext.ConfigurationError, match="already"):
            UserContext(app.app)

    def test_it_takes_an_app(self) -> None:
        """Anything else is refused, with what to write."""
        wrong: Any = "postgresql://"
        with pytest.raises(usercontext.ConfigurationError, match=r"write UserContext\(app\)"):
            UserContext(wrong)
