"""What the integration of every queue rests on: marks, and scopes of jobs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

import itsdangerous
import pytest

import usercontext
from usercontext import RequestData, User
from usercontext.carried import CarriedIdentity
from usercontext.jobs import Job
from usercontext.jobs.base import JobContext, described
from usercontext.testing import RecordingClient, reset
from usercontext.wsgi import UserContextMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterator

assert itsdangerous.__name__, "what these tests are skipped without"

KEY, OTHER = "a key of thirty-two bytes or more", "another key of thirty-two bytes, too"
JOB = ("mail.send", "17")
ADA = {"id": "ada", "email": "ada@shop.example"}


def configured(**options: Any) -> RecordingClient:
    """Give this process keys and a client that records."""
    recorder = RecordingClient()
    carried = CarriedIdentity(keys=[KEY], audience="shop", fields=options.pop("fields", ("id",)))
    usercontext.init(client=recorder, **{"carried": carried, **options})
    return recorder


@pytest.fixture(autouse=True)
def recorder() -> Iterator[RecordingClient]:
    """Record what is reported, and undo it afterwards."""
    yield configured()
    reset()


def marked(jobs: JobContext, user: object = ADA) -> str | None:
    """Return the mark of a job that a user enqueues."""
    with usercontext.isolation_scope(user=user):
        return jobs.mark(*JOB)


def test_another_queues_object_is_told_apart() -> None:
    """What an extension does not take is named with the module that takes it."""

    class Broker:
        __module__ = "taskiq.brokers.mine"

    class MyBroker(Broker):
        pass

    assert described(MyBroker()) == "MyBroker (that is for usercontext.jobs.taskiq)"
    assert described("redis") == "str"


def test_an_id_may_be_of_any_type() -> None:
    """A UUID or a number, which the queue hands on as its text, names the same job."""
    jobs, given = JobContext("test", {}), ("look", UUID(int=7))
    with usercontext.isolation_scope(user=ADA):
        mark = jobs.mark(*given)  # type: ignore[arg-type]
    with jobs.running(mark, "look", str(given[1])):
        assert usercontext.get_user() == User(id="ada")


def test_a_job_has_whoever_enqueued_it() -> None:
    """The mark names its user inside of the job, and nobody before or after."""
    jobs = JobContext("test", {})
    with jobs.running(marked(jobs), *JOB):
        assert usercontext.get_user(resolve=False) == User(id="ada")
    assert usercontext.get_user() is None


def test_a_job_starts_blank() -> None:
    """Inside of somebody's scope a job without a mark has nobody all the same."""
    jobs = JobContext("test", {})
    with usercontext.isolation_scope(user=ADA), jobs.running(None, *JOB):
        assert usercontext.get_user() is None


def test_a_resolver_loads_what_the_id_stands_for(recorder: RecordingClient) -> None:
    """It is called once, with the job, when a report needs the user; not before."""
    asked: list[Job] = []

    def load(job: Job) -> dict[str, str]:
        asked.append(job)
        return {"id": job.user.id or "", "username": "Ada"}

    jobs = JobContext("test", {"resolver": load})
    with jobs.running(marked(jobs), *JOB, "message"):
        assert usercontext.get_user(resolve=False) is None
        assert asked == []
        usercontext.capture_message("hello")
        usercontext.capture_message("again")
    assert asked == [Job("mail.send", "17", User(id="ada"), "message")]
    assert [event["user"]["username"] for event in recorder.events] == ["Ada", "Ada"]


def test_an_async_resolver_is_awaited_for_an_error(recorder: RecordingClient) -> None:
    """The report of a failing coroutine has whom the resolver finds."""

    async def load(job: Job) -> dict[str, str]:
        await asyncio.sleep(0)
        return {"id": job.user.id or "", "username": "Ada"}

    jobs = JobContext("test", {"resolver": load})

    async def run() -> None:
        async with jobs.running(marked(jobs), *JOB):
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        asyncio.run(run())
    assert recorder.events[0]["user"] == {"id": "ada", "username": "Ada"}


def test_a_failing_resolver_leaves_whoever_was_carried(recorder: RecordingClient) -> None:
    """When the database is down, the job's error still names its user."""

    def load(job: Job) -> object:
        raise ConnectionError(job)

    jobs = JobContext("test", {"resolver": load})
    with pytest.raises(ValueError, match=r"^$"), jobs.running(marked(jobs), *JOB):
        raise ValueError
    assert recorder.events[0]["user"] == {"id": "ada"}


def test_nobody_is_not_loaded() -> None:
    """A job that nobody enqueued does not ask the resolver."""

    def load(job: Job) -> object:
        raise AssertionError(job)

    with JobContext("test", {"resolver": load}).running(None, *JOB):
        assert usercontext.get_user() is None


def test_the_resolver_of_requests_is_not_asked() -> None:
    """That of `init()` is for requests, and a job is none."""
    configured(resolver=lambda _: {"id": "wrong"})
    jobs = JobContext("test", {})
    with jobs.running(marked(jobs), *JOB):
        assert usercontext.get_user() == User(id="ada")
    with jobs.running(None, *JOB):
        assert usercontext.get_user() is None


def test_scrub_rules_come_before_the_signature() -> None:
    """What the rules of `init()` or of the extension take away never gets into a queue."""
    configured(fields=("id", "email", "ip_address", "plan"), scrub=["$user.email"])
    jobs = JobContext("test", {"scrub": ["$user.data.plan"], "never_store_ip": True})
    user = User(**ADA, ip_address="203.0.113.7", plan="gold")
    with jobs.running(marked(jobs, user), *JOB):
        assert usercontext.get_user() == User(id="ada")


@pytest.mark.parametrize(("fields", "carries"), [(("id",), False), (("id", "ip_address"), True)])
def test_an_address_is_carried_if_asked_for(fields: tuple[str, ...], carries: bool) -> None:
    """The client's address stays with its request, unless it is one of the fields."""
    configured(fields=fields, request_data=RequestData(include_ip=True))
    jobs, marks = JobContext("test", {}), []

    def app(_environ: object, _start_response: object) -> list[bytes]:
        usercontext.set_user(ADA)
        marks.append(jobs.mark(*JOB))
        return []

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REMOTE_ADDR": "203.0.113.7"}
    list(UserContextMiddleware(app)(environ, lambda *_: None))
    with jobs.running(marks[0], *JOB):
        user = usercontext.get_user()
        assert user == User(id="ada", ip_address="203.0.113.7" if carries else None)


def test_who_wants_no_reports_is_not_carried() -> None:
    """`set_reporting(False)` holds for the jobs of a request too."""
    jobs = JobContext("test", {})
    with usercontext.isolation_scope(user=ADA):
        usercontext.set_reporting(False)
        assert jobs.mark(*JOB) is None


def test_a_job_that_is_tried_again_keeps_its_mark() -> None:
    """What its body has set is not what the next attempt starts from; other jobs get that."""
    jobs = JobContext("test", {})
    mark = marked(jobs)
    with jobs.running(mark, *JOB):
        usercontext.set_user({"id": "bob"})
        assert jobs.mark(*JOB) == mark
        other = jobs.mark("mail.send", "18")
    with jobs.running(other, "mail.send", "18"):
        assert usercontext.get_user() == User(id="bob")


def test_nobodys_job_that_is_tried_again_stays_nobodys() -> None:
    """Whatever its body has set."""
    jobs = JobContext("test", {})
    with jobs.running(None, *JOB):
        usercontext.set_user({"id": "bob"})
        assert jobs.mark(*JOB) is None


def test_detached_work_still_has_its_user() -> None:
    """What runs on after the job's end, in a context of its own, sees whom it began with."""
    jobs = JobContext("test", {})
    with jobs.running(marked(jobs), *JOB):
        detached = usercontext.bind(usercontext.get_user)
    assert detached() == User(id="ada")


def test_a_worker_without_the_producers_keys(caplog: pytest.LogCaptureFixture) -> None:
    """It runs the job as nobody's, and says once which keys are which."""
    jobs = JobContext("test", {})
    mark = marked(jobs)
    worker = CarriedIdentity(keys=[OTHER], audience="shop")
    usercontext.init(None, carried=worker)
    for _ in range(2):
        with jobs.running(mark, *JOB):
            assert usercontext.get_user() is None
    assert caplog.text.count(f"this process has {worker.key_ids[0]}") == 1
    assert worker.stats() == {"unknown_key": 2}


def test_a_worker_without_any_keys(caplog: pytest.LogCaptureFixture) -> None:
    """It runs the job as nobody's, and says once what to add."""
    jobs = JobContext("test", {})
    mark = marked(jobs)
    usercontext.init(None)
    with jobs.running(mark, *JOB):
        assert usercontext.get_user() is None
    assert "jobs of test are run without a user: call usercontext.init(carried=" in caplog.text
