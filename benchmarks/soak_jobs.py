"""Run many jobs of 50 users and of nobody, interleaved; count who was taken for someone else.

    python benchmarks/soak_jobs.py                                  # 10,000 jobs a queue and pool
    python benchmarks/soak_jobs.py --jobs 1000 --only celery,huey,rq/SpawnWorker

The workers are real processes with few threads, greenlets or processes each, started where somebody
is the user. Every job writes down whom it saw. A queue whose package is not installed is left out:
they do not all agree on a Redis client. Exit status 1 if any user was wrong or missing.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import usercontext
from tests.jobs.processes import postgres_server, redis_server, worker

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main"]

USERS = [f"user-{number:02}" for number in range(50)]
# One for all: brokers and pools are bound to theirs.
LOOP = asyncio.new_event_loop()
APPS = "tests.jobs.apps"


def _celery(stack: ExitStack, pool: str) -> Callable[[str], object]:
    app: Any = importlib.import_module(f"{APPS}.celery_app")
    options = ["--pool", pool, "--concurrency", "4", "--loglevel", "WARNING", "-Q", pool]
    command = ["celery", "-A", app.__name__, "worker", *options, "--without-mingle"]
    environ = {"JOBS_QUEUE": pool, "JOBS_STARTER": "1"}
    stack.enter_context(worker(*command, ready="celery-ready", environ=environ))
    return lambda label: app.look.apply_async((label,), queue=pool)


def _rq(stack: ExitStack, kind: str) -> Callable[[str], object]:
    import rq

    app: Any = importlib.import_module(f"{APPS}.rq_app")
    options = ["-u", os.environ["JOBS_REDIS"], "-w", f"rq.worker.{kind}", "-c", app.__name__]
    environ = {"JOBS_STARTER": "1"}
    command = ["rq.cli", "worker", *options, kind]
    stack.enter_context(worker(*command, ready="Listening on", environ=environ))
    queue = rq.Queue(kind, connection=app.connection)
    return lambda label: queue.enqueue(app.look, label)


def _dramatiq(stack: ExitStack, kind: str) -> Callable[[str], object]:
    tests: Any = importlib.import_module("tests.jobs.test_dramatiq")
    app: Any = importlib.import_module(f"{APPS}.dramatiq_app")
    stack.enter_context(tests.run_worker(app, kind, kind, JOBS_STARTER="1"))
    return app.look.send  # type: ignore[no-any-return]


def _huey(stack: ExitStack, kind: str) -> Callable[[str], object]:
    tests: Any = importlib.import_module("tests.jobs.test_huey")
    app: Any = importlib.import_module(f"{APPS}.huey_app")
    tests.sending(app, kind)
    stack.enter_context(tests.run_worker(kind, kind, JOBS_STARTER="1"))
    return app.look  # type: ignore[no-any-return]


def _taskiq(stack: ExitStack, kind: str) -> Callable[[str], object]:
    tests: Any = importlib.import_module("tests.jobs.test_taskiq")
    app: Any = importlib.import_module(f"{APPS}.taskiq_app")
    options = ["--use-process-pool"] if kind == "processes" else []
    stack.enter_context(tests.run_worker(app, kind, *options, JOBS_STARTER="1"))
    return lambda label: LOOP.run_until_complete(app.sync_look.kiq(label))


def _saq(stack: ExitStack, kind: str) -> Callable[[str], object]:
    import saq

    from usercontext.jobs.saq import UserContext

    tests: Any = importlib.import_module("tests.jobs.test_saq")
    app: Any = importlib.import_module(f"{APPS}.saq_app")
    stack.enter_context(tests.run_worker(kind, JOBS_STARTER="1"))
    queue = saq.Queue.from_url(app.URL, name=kind)
    UserContext(queue)
    return lambda label: LOOP.run_until_complete(queue.enqueue("sync_look", label=label))


def _arq(stack: ExitStack, kind: str) -> Callable[[str], object]:
    tests: Any = importlib.import_module("tests.jobs.test_arq")
    app: Any = importlib.import_module(f"{APPS}.arq_app")
    stack.enter_context(tests.run_worker(kind, JOBS_STARTER="1"))
    pool = LOOP.run_until_complete(app.pool_of(kind))
    return lambda label: LOOP.run_until_complete(pool.enqueue_job("look", label))


def _procrastinate(stack: ExitStack, kind: str) -> Callable[[str], object]:
    tests: Any = importlib.import_module("tests.jobs.test_procrastinate")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    folder.chmod(0o755)
    data = folder / "postgres"
    data.mkdir()
    os.environ["JOBS_POSTGRES"] = stack.enter_context(postgres_server(data))
    app: Any = importlib.import_module(f"{APPS}.procrastinate_app")
    stack.enter_context(app.app.open())
    app.app.schema_manager.apply_schema()
    stack.enter_context(tests.run_worker(kind, JOBS_STARTER="1"))
    task = app.look.configure(queue=kind)
    return lambda label: task.defer(label=label)


def _django_tasks(stack: ExitStack, kind: str) -> Callable[[str], object]:
    tests: Any = importlib.import_module("tests.jobs.test_django_tasks")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    os.environ["JOBS_SQLITE"] = str(folder / "tasks.db")
    os.environ["DJANGO_SETTINGS_MODULE"] = f"{tests.PROJECT}.settings"
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    app: Any = importlib.import_module(f"{tests.PROJECT}.tasks")
    stack.enter_context(tests.run_worker(kind, JOBS_STARTER="1"))
    return app.look.using(queue_name=kind).enqueue  # type: ignore[no-any-return]


def _apscheduler(stack: ExitStack, kind: str) -> Callable[[str], object]:
    from apscheduler.schedulers.background import BackgroundScheduler

    from tests.jobs.notes import configure
    from usercontext.jobs.apscheduler import UserContext

    assert kind == "threads"
    jobs: Any = importlib.import_module(f"{APPS}.apscheduler_jobs")
    configure()
    scheduler = BackgroundScheduler(
        executors={"default": {"type": "threadpool", "max_workers": 4}},
        job_defaults={"misfire_grace_time": None},
    )
    UserContext(scheduler)
    scheduler.start()
    stack.callback(scheduler.shutdown)
    return lambda label: scheduler.add_job(jobs.look, args=(label,))


QUEUES: dict[str, tuple[Callable[[ExitStack, str], Callable[[str], object]], tuple[str, ...]]] = {
    "celery": (_celery, ("prefork", "threads", "gevent", "solo")),
    "rq": (_rq, ("SimpleWorker", "Worker", "SpawnWorker")),
    "dramatiq": (_dramatiq, ("threads", "gevent")),
    "huey": (_huey, ("thread", "process", "greenlet")),
    "taskiq": (_taskiq, ("threads", "processes")),
    "saq": (_saq, ("asyncio",)),
    "arq": (_arq, ("asyncio",)),
    "procrastinate": (_procrastinate, ("threads",)),
    "django_tasks": (_django_tasks, ("database",)),
    "apscheduler": (_apscheduler, ("threads",)),
}


def soak(name: str, kind: str, jobs: int) -> Counter[str]:
    """Enqueue jobs, wait for what they noted, and return how many were right and wrong."""
    from tests.jobs.notes import store

    chosen = random.Random(7)
    with ExitStack() as stack, store() as client:
        enqueue = QUEUES[name][0](stack, kind)
        for _ in range(jobs):
            user = chosen.choice([*USERS, None])
            with usercontext.isolation_scope(user=user and {"id": user}):
                enqueue(f"soak.{user or 'nobody'}")
        wanted = [f"seen:soak.{user}" for user in (*USERS, "nobody")]
        found: Counter[str] = Counter()
        for _ in range(jobs):
            got: Any = client.blpop(wanted, timeout=60)
            if got is None:
                break
            expected = got[0].removeprefix("seen:soak.")
            found["right" if got[1] == expected else f"{expected} was {got[1]}"] += 1
        found["lost"] = jobs - sum(found.values())
    return found


def main() -> int:
    """Soak every queue that is installed, and return whether any user was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--only", default=",".join(QUEUES))
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as url:
        os.environ.update(JOBS_REDIS=url, JOBS_DSN="")
        for wanted in options.only.split(","):
            name, _, chosen = wanted.partition("/")
            for kind in [chosen] if chosen else QUEUES[name][1]:
                begin = time.monotonic()
                try:
                    found = soak(name, kind, options.jobs)
                except ModuleNotFoundError as error:
                    print(f"{name:13} {kind:12} left out: {error}")
                    continue
                bad = {what: count for what, count in found.items() if what != "right" and count}
                wrong += sum(bad.values())
                seconds = time.monotonic() - begin
                print(
                    f"{name:13} {kind:12} {found['right']:7,} right, wrong: {bad} ({seconds:.0f} s)"
                )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
