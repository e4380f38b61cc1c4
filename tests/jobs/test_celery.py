"""Celery: real workers of every pool, and Redis."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING, Any

import celery
import pytest

import usercontext
from tests.jobs.notes import KEY, assert_seen, reported, reports, seen
from tests.jobs.processes import worker
from tests.jobs.promises import ADA, Enqueue, Promises, label
from tests.jobs.scenarios import kinds
from usercontext.carried import CarriedIdentity
from usercontext.jobs.celery import UserContext
from usercontext.wsgi import UserContextMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["label"]

APP = "tests.jobs.apps.celery_app"


@pytest.fixture(scope="module")
def app(environ: dict[str, str]) -> Any:
    """Return the module of the app, as the process that enqueues imports it."""
    assert environ
    module: Any = importlib.import_module(APP)
    module.configure()
    return module


@pytest.fixture(scope="module", params=kinds("celery"))
def pool(app: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a worker with each pool, on a queue of its own."""
    options = ["--pool", request.param, "--concurrency", "2", "--loglevel", "WARNING"]
    queue = f"celery-{request.param}"
    app.app.conf.task_default_queue = queue
    app.app.amqp.__dict__.pop("queues", None)
    app.app.amqp.__dict__.pop("default_queue", None)
    with worker(
        "celery",
        "-A",
        APP,
        "worker",
        *options,
        "--without-mingle",
        "--without-gossip",
        "-Q",
        queue,
        ready="celery-ready",
        environ={"JOBS_QUEUE": queue, "JOBS_STARTER": "1"},
    ):
        yield request.param


@pytest.fixture(scope="module")
def enqueue(app: Any, pool: str) -> Enqueue:
    """Return what enqueues a task of the app."""
    assert pool
    return lambda name, label: getattr(app, name).delay(label)


def run_worker(queue: str, *options: str, **environ: str) -> Any:
    """Run a worker on a queue of its own."""
    return worker(
        "celery", "-A", APP, "worker", *options, "--loglevel", "WARNING", "--without-mingle",
        "-Q", queue, ready="celery-ready", environ={"JOBS_QUEUE": queue, **environ},
    )  # fmt: skip


class TestCelery(Promises):
    """What every queue keeps, and what only Celery can do."""

    @pytest.mark.scenario("retried")
    def test_a_retry_keeps_whoever_enqueued_it(self, enqueue: Enqueue, label: str) -> None:
        """The body's own `set_user` is over with the attempt: each starts from the original."""
        assert usercontext.get_user() is None
        enqueue("retry", label)
        assert_seen([seen(label), seen(label)], ["nobody", "nobody"])

    @pytest.mark.scenario("retried", "fails")
    def test_autoretry(self, enqueue: Enqueue, label: str) -> None:
        """Every attempt has the user, and the last one's error is reported with it."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("autoretry", label)
        assert_seen([seen(label), seen(label), reported(label)], ["ada", "ada", "ada"])
        assert reports(label) == 0

    def test_expected_errors_are_left_out(self, enqueue: Enqueue, label: str) -> None:
        """What a task says it throws is not an error."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("expected", label)
        enqueue("look", f"{label}.after")
        assert_seen([seen(label), seen(f"{label}.after")], ["ada", "nobody"])
        assert reports(f"'{label}'") == 0

    def test_a_chain(self, app: Any, pool: str, label: str) -> None:
        """Each step of a chain has the user."""
        assert pool
        steps = [app.look.si(f"{label}.{number}") for number in range(3)]
        with usercontext.isolation_scope(user=ADA):
            celery.chain(*steps).delay()
        assert_seen([seen(f"{label}.{number}") for number in range(3)], ["ada"] * 3)

    def test_a_chord(self, app: Any, pool: str, label: str) -> None:
        """Each member of a group, and the body behind it, has the user."""
        assert pool
        header = celery.group(app.look.si(f"{label}.{number}") for number in range(3))
        with usercontext.isolation_scope(user=ADA):
            celery.chord(header)(app.look.si(f"{label}.body"))
        names = ["0", "1", "2", "body"]
        assert_seen([seen(f"{label}.{name}") for name in names], ["ada"] * 4)

    def test_a_failing_chord(self, app: Any, pool: str, label: str) -> None:
        """The error callback of a chord has the user of the member that failed."""
        assert pool
        header = celery.group([app.look.si(f"{label}.0"), app.fail.si(label)])
        body = app.look.si(f"{label}.body").on_error(app.on_error_by_id.si(label))
        with usercontext.isolation_scope(user=ADA):
            celery.chord(header)(body)
        assert_seen([reported(label), seen(f"{label}.errback")], ["ada", "ada"])

    def test_callbacks(self, app: Any, pool: str, label: str) -> None:
        """`link` and both kinds of `link_error` have the user."""
        assert pool
        with usercontext.isolation_scope(user=ADA):
            app.look.apply_async((label,), link=app.look.si(f"{label}.linked"))
            app.fail.apply_async((f"{label}.1",), link_error=app.on_error.s())
            app.fail.apply_async((f"{label}.2",), link_error=app.on_error_by_id.si(f"{label}.2"))
        assert_seen(seen(f"{label}.linked"), "ada")
        assert_seen([seen(f"{label}.1.errback"), seen(f"{label}.2.errback")], ["ada", "ada"])

    def test_a_failing_chord_tells_its_callback(self, app: Any, pool: str, label: str) -> None:
        """A callback that is given the failed request has the user, where headers are others'."""
        assert pool
        header = celery.group([app.look.si(f"{label}.0"), app.fail.si(label)])
        body = app.look.si(f"{label}.body").on_error(app.on_error.s())
        with usercontext.isolation_scope(user=ADA):
            celery.chord(header)(body)
        failure = f"Dependency ID raised ValueError({label!r})"
        assert_seen([reported(label), seen(f"{failure}.errback")], ["ada", "ada"])

    def test_a_canvas_of_a_task(self, enqueue: Enqueue, label: str) -> None:
        """The chain and the chord that a task enqueues have its user."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("canvas", label)
        names = ["1", "2", "3", "4", "body"]
        assert_seen([seen(f"{label}.{name}") for name in names], ["ada"] * 5)

    def test_handlers_of_a_task(self, enqueue: Enqueue, label: str) -> None:
        """`on_retry`, `on_failure` and `after_return` have the user."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("handled", label)
        names = ["retry", "failure", "return"]
        assert_seen([seen(f"{label}.{name}") for name in names], ["ada"] * 3)
        assert_seen(reported(label), "ada")

    @pytest.mark.parametrize("how", ["refused", "ignored"])
    def test_a_task_that_is_given_up(self, enqueue: Enqueue, label: str, how: str) -> None:
        """`Reject` and `Ignore` are not errors, and leave nobody behind."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("put_back", f"{label}.{how}")
        enqueue("look", f"{label}.after")
        assert_seen([seen(f"{label}.{how}"), seen(f"{label}.after")], ["ada", "nobody"])
        assert reports(f"{label}.{how}") == 0

    def test_a_task_that_ends_the_program(self, pool: str, enqueue: Enqueue, label: str) -> None:
        """`SystemExit` in a task leaves nobody behind."""
        if pool != "prefork":
            pytest.skip("elsewhere it is the worker itself that would end")
        with usercontext.isolation_scope(user=ADA):
            enqueue("leave", label)
        enqueue("look", f"{label}.after")
        assert_seen([seen(label), seen(f"{label}.after")], ["ada", "nobody"])

    def test_a_replaced_task(self, enqueue: Enqueue, label: str) -> None:
        """The task in the place of another one has its user."""
        with usercontext.isolation_scope(user=ADA):
            enqueue("replace", label)
        assert_seen([seen(label), seen(f"{label}.child")], ["ada", "ada"])

    def test_a_later_task(self, app: Any, pool: str, label: str) -> None:
        """A task with a countdown has the user of when it was enqueued."""
        assert pool
        with usercontext.isolation_scope(user=ADA):
            app.look.apply_async((label,), countdown=0.1)
        assert_seen(seen(label), "ada")

    def test_handlers_of_the_end_see_the_user(self, app: Any, pool: str, label: str) -> None:
        """The app's own `task_postrun` handlers run before the user is gone."""
        assert pool
        with usercontext.isolation_scope(user=ADA):
            app.look.delay(f"{label}.postrun")
        assert_seen([seen(f"{label}.postrun"), seen(f"{label}.postrun.after")], ["ada", "ada"])

    def test_a_copied_mark_names_nobody(self, app: Any, pool: str, label: str) -> None:
        """The headers of one task, given to another by hand, do not make it ada's."""
        assert pool
        text, _ = mark_of(app.look, "other")
        app.look.apply_async((label,), headers={"usercontext": text})
        assert_seen(seen(label), "nobody")

    def test_a_plain_producer(self, app: Any, pool: str, label: str) -> None:
        """A message without a mark, from a process that has no extension yet, is nobody's."""
        with celery.Celery(broker=app.app.conf.broker_url) as plain:
            plain.send_task(app.look.name, (label,), queue=f"celery-{pool}")
        assert_seen(seen(label), "nobody")

    @pytest.mark.scenario("times out")
    def test_a_soft_time_limit(self, pool: str, enqueue: Enqueue, label: str) -> None:
        """A task that takes too long is reported with its user."""
        if pool != "prefork":
            pytest.skip("Only Celery's prefork and gevent pools end a task that takes too long.")
        with usercontext.isolation_scope(user=ADA):
            enqueue("soft", label)
        assert_seen([seen(label), reported("SoftTimeLimitExceeded()")], ["ada", "ada"])

    @pytest.mark.scenario("times out")
    def test_a_hard_time_limit(self, app: Any, pool: str, enqueue: Enqueue, label: str) -> None:
        """A task that is killed for taking too long is reported once, by the parent."""
        if pool not in ("prefork", "gevent"):
            pytest.skip("Only Celery's prefork and gevent pools end a task that takes too long.")
        with usercontext.isolation_scope(user=ADA):
            app.hard.apply_async((label,), link_error=app.on_error_by_id.si(label))
        assert_seen([seen(label), reported("TimeLimitExceeded(1,)")], ["ada", "ada"])
        assert_seen(seen(f"{label}.errback"), "ada")
        enqueue("look", f"{label}.after")
        assert_seen(seen(f"{label}.after"), "nobody")
        assert reports("TimeLimitExceeded(1,)") == 0

    @pytest.mark.scenario("schedule")
    def test_beat_names_nobody(self, pool: str, tmp_path: Path) -> None:
        """What beat schedules is nobody's, though somebody is the user where it was started."""
        environ = {
            "JOBS_QUEUE": f"celery-{pool}",
            "JOBS_STARTER": "1",
            "JOBS_SCHEDULE": str(tmp_path / "schedule"),
        }
        with worker("celery", "-A", APP, "beat", ready="maxinterval", environ=environ):
            assert_seen(seen(f"beat of celery-{pool}"), "nobody")

    @pytest.mark.scenario("killed")
    def test_a_killed_worker(self, app: Any, pool: str, label: str) -> None:
        """A task whose whole worker was killed is delivered again, with its user."""
        # A database of its own: what is put back is all that nobody has acknowledged there.
        url = app.app.conf.broker_url.replace("/0", "/1")
        options = ["--pool", pool, "--concurrency", "1"]
        with app.app.connection_for_write(url) as broker:
            with run_worker(label, *options, JOBS_BROKER=url) as process:
                with usercontext.isolation_scope(user=ADA):
                    app.endless.apply_async((label,), queue=label, connection=broker)
                assert_seen(seen(label), "ada")
                process.kill()
            # As if its time were over: it is put back by whoever looks.
            channel = broker.default_channel
            channel.visibility_timeout = 0
            channel.qos.restore_visible()
            with run_worker(label, *options, JOBS_BROKER=url):
                assert_seen(seen(label), "ada")
                app.look.apply_async((f"{label}.after",), queue=label, connection=broker)
                assert_seen(seen(f"{label}.after"), "nobody")

    @pytest.mark.scenario("killed")
    def test_a_killed_task(self, pool: str, enqueue: Enqueue, label: str) -> None:
        """A task whose process was killed is delivered again with its user."""
        if pool != "prefork":
            pytest.skip("elsewhere the worker itself is killed, as the test before has it")
        with usercontext.isolation_scope(user=ADA):
            enqueue("killed", label)
        assert_seen([seen(label), seen(label)], ["ada", "ada"])

    @pytest.mark.scenario("killed")
    def test_a_lost_task(self, pool: str, enqueue: Enqueue, label: str) -> None:
        """A task that is lost with its process is reported with its user."""
        if pool != "prefork":
            pytest.skip("elsewhere the worker itself is killed, and nobody is there to tell")
        with usercontext.isolation_scope(user=ADA):
            enqueue("lost", label)
        assert_seen(seen(label), "ada")
        assert_seen(reported("Worker exited prematurely: signal 9 (SIGKILL) Job: N."), "ada")


class TestEager(Promises):
    """`task_always_eager`: a task is run by whoever calls it."""

    kind = "eager"

    @pytest.fixture(autouse=True)
    def _eager(self, app: Any) -> Iterator[None]:
        app.app.conf.task_always_eager = True
        yield
        app.app.conf.task_always_eager = False

    @pytest.fixture
    def enqueue(self, app: Any) -> Enqueue:
        """Return what runs a task."""
        return lambda name, label: getattr(app, name).delay(label)

    @pytest.mark.parametrize("name", ["look", "become", "retry", "replace"])
    def test_the_caller_keeps_its_user(self, app: Any, label: str, name: str) -> None:
        """The task has the caller's user, and what it sets is over with it."""
        with usercontext.isolation_scope(user=ADA):
            getattr(app, name).delay(label)
            assert usercontext.get_user() == usercontext.User(id="ada")
        assert_seen(seen(label), "bob" if name == "become" else "ada")

    def test_nobody_stays_nobody(self, app: Any, label: str) -> None:
        """Outside of a request the task has nobody, and leaves nobody behind."""
        app.become.delay(label)
        assert usercontext.get_user() is None

    def test_a_request_does_not_report_again(self, app: Any, label: str) -> None:
        """The request that runs the task leaves its error to the task's report."""
        with pytest.raises(ValueError, match="again"):
            run_request(lambda: app.fail.apply((label,), throw=True))
        assert_seen(reported(label), "ada")
        assert reports(label) == 0

    def test_an_error_callback(self, app: Any, label: str) -> None:
        """The callback of a task that failed has the caller's user, who keeps it."""
        with usercontext.isolation_scope(user=ADA):
            app.fail.apply((label,), link_error=app.on_error.s())
            assert usercontext.get_user() == usercontext.User(id="ada")
        assert_seen([reported(label), seen(f"{label}.errback")], ["ada", "ada"])

    async def unresolved(self, _request: object) -> dict[str, str]:
        """Resolve ada, once somebody awaits it."""
        return ADA

    def test_a_user_who_is_not_known_yet(self, app: Any, label: str) -> None:
        """In a request whose async resolver was not awaited, the task is the request's own."""

        async def serve() -> None:
            with usercontext.isolation_scope(resolver=self.unresolved):
                app.look.delay(label)
                await usercontext.resolve_user()
                app.look.delay(label)

        asyncio.run(serve())
        assert_seen([seen(label), seen(label)], ["nobody", "ada"])


def run_request(function: Any) -> None:
    """Call a function in a request of ada's, whose error its middleware reports."""

    def app(_environ: object, _start_response: object) -> list[bytes]:
        function()
        return []

    served = UserContextMiddleware(app, resolver=lambda _: ADA)
    served({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None)


class TestSetUp:
    """Deploys, schedules and errors of use."""

    def test_a_worker_without_the_extension(self, app: Any, label: str) -> None:
        """In a rolling deploy a marked task runs on a worker that does not know the mark."""
        options = ["--pool", "solo", "--loglevel", "WARNING", "--without-mingle", "-Q", label]
        environ = {"JOBS_QUEUE": label, "JOBS_PLAIN": "1"}
        with worker("celery", "-A", APP, "worker", *options, ready="celery-ready", environ=environ):
            with usercontext.isolation_scope(user=ADA):
                app.look.apply_async((label,), queue=label)
            assert_seen(seen(label), "nobody")

    @pytest.mark.parametrize("kind", ["threads", "prefork"])
    def test_beside_sentry_sdk(self, app: Any, label: str, kind: str) -> None:
        """The SDK's own reports, and those of retries, name the user as ours do, each once."""
        options = ["--pool", kind, "--loglevel", "WARNING", "--without-mingle", "-Q", label]
        environ = {"JOBS_QUEUE": label, "JOBS_SENTRY": "1"}
        with worker("celery", "-A", APP, "worker", *options, ready="celery-ready", environ=environ):
            with usercontext.isolation_scope(user=ADA):
                app.autoretry.apply_async((label,), queue=label)
            assert_seen([seen(label), seen(label)], ["ada", "ada"])
            assert_seen([reported(label), reported(f"sentry {label}")], ["ada", "ada"])
            app.fail.apply_async((f"{label}.after",), queue=label)
            assert_seen(reported(f"sentry {label}.after"), "nobody")
            assert [reports(label), reports(f"sentry {label}")] == [0, 0]
            assert_seen(reported(f"sentry {app.autoretry.name}"), "ada")

    @pytest.fixture
    def _first_protocol(self, app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        amqp = app.app.amqp
        monkeypatch.setattr(amqp, "create_task_message", amqp.task_protocols[1])

    @pytest.mark.usefixtures("_first_protocol")
    def test_the_first_protocol(self, app: Any, label: str) -> None:
        """A message of task protocol 1, whose headers have no id, carries the user."""
        options = ["--pool", "solo", "--loglevel", "WARNING", "--without-mingle", "-Q", label]
        environ = {"JOBS_QUEUE": label}
        with worker("celery", "-A", APP, "worker", *options, ready="celery-ready", environ=environ):
            with usercontext.isolation_scope(user=ADA):
                app.look.apply_async((label,), queue=label)
            assert_seen(seen(label), "ada")

    def test_a_worker_with_another_key(self, app: Any, label: str) -> None:
        """It runs its tasks as nobody's, and says once which keys it lacks and has."""
        options = ["--pool", "prefork", "-c", "1", "--loglevel", "WARNING", "-Q", label]
        environ = {"JOBS_QUEUE": label, "JOBS_KEY": "another key of thirty-two bytes, too"}
        with worker(
            "celery", "-A", APP, "worker", *options, ready="celery-ready", environ=environ
        ) as process:
            with usercontext.isolation_scope(user=ADA):
                for number in range(3):
                    app.look.apply_async((f"{label}.{number}",), queue=label)
            assert_seen([seen(f"{label}.{number}") for number in range(3)], ["nobody"] * 3)
        key_ids = CarriedIdentity(keys=[KEY], audience="shop").key_ids
        assert process.output.count(f"is signed with the key {key_ids[0]}") == 1

    def test_two_apps_keep_their_own_rules(self, app: Any, label: str) -> None:
        """What the rules of one app take away is not carried for another's in its place."""
        carried = CarriedIdentity(keys=[KEY], audience="shop", fields=("id", "email"))
        app.configure(carried=carried)
        found = {}
        for name, scrub in (("strict", ["$user.email"]), ("open", [])):
            other = celery.Celery(name, broker="memory://")
            UserContext(other, scrub=scrub)
            other.task(app.look.run, name=f"{name}.{label}")
            found[name] = other
        ada = {**ADA, "email": "ada@shop.example"}
        users = {}
        for name, other in found.items():
            task = other.tasks[f"{name}.{label}"]
            text, id_ = mark_of(task, label, ada)
            user = carried.read(text, ("job", task.name, id_))
            users[name] = None if user is None else user.email
        app.configure()
        assert users == {"strict": None, "open": "ada@shop.example"}

    def test_it_is_added_once(self, app: Any) -> None:
        """A second extension on one app is refused."""
        with pytest.raises(usercontext.ConfigurationError, match="has a UserContext already"):
            UserContext(app.app)

    @pytest.mark.parametrize("wrong", [None, "shop", celery.Celery])
    def test_it_takes_an_app(self, wrong: Any) -> None:
        """Anything else is refused, with what to write."""
        with pytest.raises(usercontext.ConfigurationError, match=r"write UserContext\(app\)"):
            UserContext(wrong)

    def test_nothing_is_carried_without_keys(
        self, app: Any, label: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A producer whose `init()` has no keys says so once, and enqueues all the same."""
        usercontext.init(None)
        with usercontext.isolation_scope(user=ADA):
            results = [app.look.apply_async((label,), queue=label) for _ in range(2)]
        app.configure()
        assert all(result.id for result in results)
        assert caplog.text.count("jobs of celery are enqueued without a user") == 1


def mark_of(task: Any, label: str, user: object = ADA) -> tuple[str, str]:
    """Return the mark and the id of a task, as whoever can read the queue finds them."""
    marks = []

    def keep(headers: dict[str, Any], **_: Any) -> None:
        marks.append((headers["usercontext"], headers["id"]))

    celery.signals.after_task_publish.connect(keep, weak=False)
    try:
        with usercontext.isolation_scope(user=user):
            task.delay(label)
    finally:
        celery.signals.after_task_publish.disconnect(keep)
    (mark,) = marks
    return mark
