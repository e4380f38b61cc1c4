"""What nothing handles outside of requests is reported: scripts, threads, tasks, log records."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import usercontext
from tests.driver import asgi_call, plain_asgi_app, scope_of
from usercontext import ConfigurationError, asgi, bind, capture_exception, isolation_scope, testing
from usercontext.testing import RecordingClient

if TYPE_CHECKING:
    from pathlib import Path

ADA = {"id": "ada"}


def recorder(**options: Any) -> RecordingClient:
    """Return what takes the reports, that of crashes included."""
    client = RecordingClient()
    usercontext.init(client=client, capture_unhandled=True, **options)
    return client


def shown(client: RecordingClient) -> list[tuple[str, Any, Any]]:
    """Return of each report the exception's class, whether it was handled, and whom it names."""
    return [
        (value["type"], value["mechanism"]["handled"], (event.get("user") or {}).get("id"))
        for event in client.events
        for value in event["exception"]["values"][-1:]
    ]


SCRIPTS = {
    "ends the script": "raise KeyError('order')",
    "leaves a scope": "with usercontext.isolation_scope(user={'id': 7}): raise KeyError('order')",
    "ends a thread": """
import threading
thread = threading.Thread(target=lambda: {}['order'])
thread.start()
thread.join()
""",
    "ends a task": """
import asyncio

async def main():
    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)

async def fail():
    raise KeyError('order')

asyncio.run(main())
""",
    "in a callback": """
import asyncio

async def main():
    asyncio.get_running_loop().call_soon(lambda: {}['order'])
    await asyncio.sleep(0)

asyncio.run(main())
""",
}


@pytest.mark.parametrize("code", SCRIPTS.values(), ids=SCRIPTS)
def test_a_script_reports_its_crash(code: str, tmp_path: Path) -> None:
    """With a DSN an error that nothing handles is reported once, and shown as it is without us."""
    start = f"import usercontext; usercontext.init('sqlite:///{tmp_path}/r.db')\n"
    command = [sys.executable, "-c", start + code]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stderr.count("KeyError: 'order'") == 1
    (report,) = usercontext.sentry.read_reports(tmp_path / "r.db")
    (value,) = report["exception"]["values"]
    assert (value["type"], value["mechanism"]["handled"]) == ("KeyError", False)


EXITS = {
    "a script": "import sys; sys.exit(3)",
    "a scope": "import sys\nwith usercontext.isolation_scope(user={'id': 7}): sys.exit(3)",
    "a thread": "import sys, threading; threading.Thread(target=lambda: sys.exit(3)).start()",
    "a task": """
import asyncio, sys

async def main():
    sys.exit(3)

asyncio.run(main())
""",
}


@pytest.mark.parametrize("code", EXITS.values(), ids=EXITS)
def test_an_exit_is_no_crash(code: str, tmp_path: Path) -> None:
    """A script, thread or task that calls `sys.exit()` outside a request ends as it was told to."""
    start = f"import usercontext; usercontext.init('sqlite:///{tmp_path}/r.db')\n"
    subprocess.run([sys.executable, "-c", start + code], check=False, stderr=subprocess.DEVNULL)
    assert list(usercontext.sentry.read_reports(tmp_path / "r.db")) == []


def test_what_was_reported_is_not_reported_again() -> None:
    """An error that the app reported itself, and raised on, is one report."""
    client = recorder()

    def fail() -> None:
        try:
            raise KeyError("order")
        except KeyError as error:
            capture_exception(error)
            raise

    run_in_thread(fail)
    assert shown(client) == [("KeyError", True, None)]


def run_in_thread(function: Any) -> None:
    """Run a function that fails in a thread, whose own words on that are left out."""
    before = threading.excepthook
    threading.excepthook = lambda _args: None
    try:
        usercontext.init(client=usercontext.core.context.default().client, capture_unhandled=True)
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()
    finally:
        threading.excepthook = before


def test_a_bound_thread_names_its_request() -> None:
    """A thread that a request began with `bind()` names the request's user when it fails."""
    client = recorder()

    def fail() -> None:
        raise KeyError("order")

    with isolation_scope(user=ADA):
        function = bind(fail)
    run_in_thread(function)
    assert shown(client) == [("KeyError", False, "ada")]


def test_a_scope_names_its_user() -> None:
    """An error that leaves an `isolation_scope` is reported with the scope's user, once."""
    client = recorder()
    with pytest.raises(KeyError), isolation_scope(), isolation_scope(user=ADA):
        raise KeyError("order")
    assert shown(client) == [("KeyError", False, "ada")]


def test_a_scope_reports_nothing_unless_asked() -> None:
    """Without a DSN, and without the option, an error that leaves a scope is the app's alone."""
    client = RecordingClient()
    usercontext.init(client=client)
    with pytest.raises(KeyError), isolation_scope(user=ADA):
        raise KeyError("order")
    assert client.events == []


class Handler:
    """An app's own handler of a loop's exceptions."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def __call__(self, _loop: object, context: dict[str, Any]) -> None:
        self.told.append(context)


def test_a_failed_task_is_reported_beside_the_apps_handler() -> None:
    """A task that nobody awaits is reported, and the app's own handler is called as ever."""
    client, handler = recorder(), Handler()
    ended = asyncio.Event()

    async def fail() -> None:
        await ended.wait()
        raise KeyError("order")

    async def endpoint() -> None:
        asyncio.create_task(fail())  # noqa: RUF006 - nobody awaits it

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(handler)
        app = asgi.UserContextMiddleware(plain_asgi_app(endpoint), resolver=lambda _: ADA)
        await asgi_call(app, scope_of())
        await asyncio.sleep(0)
        ended.set()
        for _ in range(3):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert [type(told["exception"]) for told in handler.told] == [KeyError]
    assert [row[:2] for row in shown(client)] == [("KeyError", False)]


def test_tasks_of_two_users_name_their_own() -> None:
    """Failed tasks are reported each with the user of its own context."""
    client, handler = recorder(), Handler()

    async def fail() -> None:
        raise KeyError("order")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(handler)
        for name in ("ada", "bob", None):
            with isolation_scope(user=name and {"id": name}):
                asyncio.create_task(fail())  # noqa: RUF006
        for _ in range(3):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert [name for _, _, name in shown(client)] == ["ada", "bob", None]


def test_a_callback_names_its_own_user() -> None:
    """A callback that fails is reported with the user of the context that it was scheduled in."""
    client, handler = recorder(), Handler()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(handler)
        with isolation_scope(user=ADA):
            loop.call_soon(lambda: {}["order"])
        await asyncio.sleep(0)

    asyncio.run(main())
    assert shown(client) == [("KeyError", False, "ada")]


def test_uvloop() -> None:
    """A task that fails on uvloop's own loop is reported too."""
    uvloop = pytest.importorskip("uvloop")
    client, handler = recorder(), Handler()

    async def fail() -> None:
        raise KeyError("order")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(handler)
        with isolation_scope(user=ADA):
            asyncio.create_task(fail())  # noqa: RUF006
        for _ in range(3):
            await asyncio.sleep(0)

    uvloop.run(main())
    assert shown(client) == [("KeyError", False, "ada")]


async def lost(make: Any) -> None:
    """Fail something in ada's scope or outside, and let go of it in bob's."""
    asyncio.get_running_loop().set_exception_handler(Handler())
    kept = [await make()]
    await asyncio.sleep(0.01)
    with isolation_scope(user={"id": "bob"}):
        kept.clear()
        gc.collect()


async def fail() -> None:
    """Fail, once it is awaited."""
    raise KeyError("order")


async def outside() -> Any:
    """Begin a task as an app does that starts."""
    return asyncio.create_task(fail())


async def gathered() -> Any:
    """Begin tasks that are waited for together."""
    with isolation_scope(user=ADA):
        return asyncio.gather(fail(), asyncio.sleep(0))


async def in_pool() -> Any:
    """Begin what runs in a pool's thread."""
    with isolation_scope(user=ADA):
        return asyncio.get_running_loop().run_in_executor(None, bind(lambda: {}["order"]))


async def in_cycle() -> Any:
    """Fail a future that only the garbage collector finds."""
    with isolation_scope(user=ADA):
        future = asyncio.get_running_loop().create_future()
    future.set_exception(KeyError("order"))
    cycle: list[Any] = [future]
    cycle.append(cycle)
    return cycle


@pytest.mark.parametrize(
    ("make", "user"), [(outside, None), (gathered, "ada"), (in_pool, "ada"), (in_cycle, None)]
)
def test_nobody_is_named_for_letting_go(make: Any, user: str | None) -> None:
    """What nobody waits for names who began it, wherever Python finds that it has failed."""
    client = recorder()
    asyncio.run(lost(make))
    assert shown(client) == [("KeyError", False, user)]


def test_a_loop_that_is_brought_after_init_is_watched() -> None:
    """A server may import uvloop when the app has called `init()`."""
    pytest.importorskip("uvloop")
    done = subprocess.run(
        [sys.executable, "-c", LATER], check=False, capture_output=True, text=True
    )
    assert done.stdout.strip() == "['KeyError']", done.stderr


LATER = """
import asyncio, logging
import usercontext
from usercontext.asgi import UserContextMiddleware
from usercontext.testing import RecordingClient

logging.disable(logging.CRITICAL)
client = RecordingClient()
usercontext.init(client=client, capture_unhandled=True)

async def fail():
    raise KeyError("order")

async def app(scope, receive, send):
    asyncio.create_task(fail())
    await asyncio.sleep(0.01)

import uvloop
uvloop.run(UserContextMiddleware(app)({"type": "lifespan"}, None, None))
print([event["exception"]["values"][0]["type"] for event in client.events])
"""


def test_a_task_that_is_awaited_is_no_crash() -> None:
    """What a task raises to whoever awaits it is theirs to handle."""
    client = recorder()

    async def fail() -> None:
        raise KeyError("order")

    async def main() -> None:
        with pytest.raises(KeyError):
            await asyncio.create_task(fail())

    asyncio.run(main())
    assert client.events == []


def test_hooks_go_as_they_came() -> None:
    """Once nothing is to be reported any more, the hooks are those of before."""
    hooks = sys.excepthook, threading.excepthook, asyncio.BaseEventLoop.call_exception_handler
    recorder()
    testing.reset()
    now = sys.excepthook, threading.excepthook, asyncio.BaseEventLoop.call_exception_handler
    assert now == hooks


def test_log_records_are_reported() -> None:
    """`capture_logging` reports records of its level, with exception, logger and user."""
    client = recorder(capture_logging="ERROR")
    logger = logging.getLogger("shop")
    with isolation_scope(user=ADA):
        logger.warning("slow")
        logger.error("no price for %s", 7)
        try:
            raise KeyError("order")
        except KeyError:
            logger.exception("failed")
    text, error = client.events
    assert text["logentry"]["formatted"] == "no price for 7"
    assert error["exception"]["values"][-1]["type"] == "KeyError"
    assert [(one["logger"], one["user"]["id"]) for one in client.events] == [("shop", "ada")] * 2


def test_a_logged_error_that_passes_is_one_report() -> None:
    """An error that the app logs, and raises on, is reported once by its request."""
    client = recorder(capture_logging="ERROR")

    def fail() -> None:
        try:
            raise KeyError("order")
        except KeyError:
            logging.getLogger("shop").exception("failed")
            raise

    with pytest.raises(KeyError):
        asyncio.run(asgi_call(asgi.UserContextMiddleware(plain_asgi_app(fail)), scope_of()))
    assert len(client.events) == 1


def test_our_own_log_is_not_reported() -> None:
    """What usercontext logs of itself makes no report."""
    client = recorder(capture_logging="INFO")
    logging.getLogger("usercontext").error("of our own")
    assert client.events == []


@pytest.mark.parametrize("level", ["LOUD", 1.5, True, []])
def test_a_wrong_level_is_refused(level: Any) -> None:
    """What is not a level of logging raises when it is given."""
    with pytest.raises(ConfigurationError, match="capture_logging must be a level"):
        usercontext.init(None, capture_logging=level)


def test_a_wrong_flag_is_refused() -> None:
    """`capture_unhandled` is True or False."""
    with pytest.raises(ConfigurationError, match="capture_unhandled must be True or False"):
        usercontext.init(None, capture_unhandled="yes")  # type: ignore[arg-type]
