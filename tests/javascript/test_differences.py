"""What `docs/from-javascript.md` says of Sentry's JavaScript SDK and of ours, run on both.

The newest @sentry/node is installed into a folder of its own, unless NODE_PATH has one.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

import usercontext
from usercontext import RequestData, asgi, set_user, use_user
from usercontext.testing import RecordingClient

pytestmark = pytest.mark.timeout(180)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "from-javascript.md"
PROGRAM = Path(__file__).with_name("scenarios.cjs")
ROWS = {
    name: [cell.strip() for cell in cells.strip(" |").split(" | ")]
    for name, cells in re.findall(r"<!-- (.+?) -->(.+)", PAGE.read_text())
}
DEFAULTS: dict[str, Any] = {}
WITHOUT = {"dataCollection": {"userInfo": False}}
ADDRESS = "127.0.0.1"


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of modules that has the SDK."""
    for folder in map(Path, filter(None, os.environ.get("NODE_PATH", "").split(os.pathsep))):
        if (folder / "@sentry/node").exists() and (folder / "express").exists():
            return folder
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node or npm is not installed")
    folder = tmp_path_factory.mktemp("npm")
    (folder / "package.json").write_text("{}")
    command = [npm, "install", "--no-audit", "--no-fund", "--prefer-offline"]
    done = subprocess.run(
        [*command, "@sentry/node@latest", "express@latest"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    if done.returncode:
        pytest.skip(f"npm could not install @sentry/node: {done.stderr.strip()[-200:]}")
    return folder / "node_modules"


def sent_by_node(modules: Path, options: dict[str, Any]) -> list[tuple[str, Any]]:
    """Run every scenario with an option of the SDK, and return what leaves."""
    environment = {**os.environ, "NODE_PATH": str(modules), "NODE_NO_WARNINGS": "1"}
    with tempfile.NamedTemporaryFile() as output:
        command = ["node", str(PROGRAM), output.name, json.dumps(options)]
        subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
        return [json.loads(line) for line in output]


@pytest.fixture(scope="session")
def by_default(modules: Path) -> list[tuple[str, Any]]:
    """What leaves where nothing is configured."""
    return sent_by_node(modules, DEFAULTS)


@pytest.fixture(scope="session")
def without(modules: Path) -> list[tuple[str, Any]]:
    """What leaves with `userInfo: false`."""
    return sent_by_node(modules, WITHOUT)


def name_of(event: Any) -> str:
    """Return which scenario has reported an event."""
    message = event.get("message") or event["exception"]["values"][-1]["value"]
    return str(message["formatted"] if isinstance(message, dict) else message)


def users(sent: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the user of each scenario's report."""
    return {name_of(event): event.get("user") for kind, event in sent if kind == "event"}


def said(name: str, column: int) -> Any:
    """Return what the page says that a report has for its user."""
    cell = ROWS[name][column]
    return None if cell.startswith("none") else json.loads(cell.strip("`"))


@pytest.mark.parametrize("name", ROWS)
def test_javascript_by_default(by_default: list[tuple[str, Any]], name: str) -> None:
    """The page's first column is what @sentry/node sends."""
    assert users(by_default)[name] == said(name, 0)


@pytest.mark.parametrize("name", ROWS)
def test_javascript_without_user_info(without: list[tuple[str, Any]], name: str) -> None:
    """The second column is what it sends with `userInfo: false`."""
    assert users(without)[name] == said(name, 1)


def test_requests_of_javascript_are_apart(by_default: list[tuple[str, Any]]) -> None:
    """Requests at the same time have their own users there, too."""
    found = users(by_default)
    assert [found[f"apart {number}"]["id"] for number in (1, 2, 3)] == [1, 2, 3]


def test_the_old_word_changes_nothing(modules: Path, by_default: list[tuple[str, Any]]) -> None:
    """`sendDefaultPii: false` sends what is sent without it."""
    assert users(sent_by_node(modules, {"sendDefaultPii": False})) == users(by_default)


def test_the_integration_has_the_option_still(
    modules: Path, without: list[tuple[str, Any]]
) -> None:
    """`include: { ip: false }` does what `userInfo: false` does."""
    assert users(sent_by_node(modules, {"integrationInclude": {"ip": False}})) == users(without)


def test_the_span_carries_the_address(without: list[tuple[str, Any]]) -> None:
    """With `userInfo: false` the span of a request has its peer among its attributes."""
    spans = [span for kind, sent in without if kind == "span" for span in sent["items"]]
    peers = [span["attributes"].get("network.peer.address") for span in spans]
    assert {"value": ADDRESS, "type": "string"} in peers


def test_a_body_leaves(by_default: list[tuple[str, Any]]) -> None:
    """A password in a body is sent where nothing is configured."""
    events = [event for kind, event in by_default if kind == "event"]
    (event,) = [event for event in events if name_of(event) == "body"]
    assert "hunter2" in event["request"]["data"]


# --- ours -------------------------------------------------------------------------------------


async def fail() -> None:
    """Fail, where nobody waits for it."""
    raise RuntimeError("rejected")


class Shop:
    """An ASGI app with the same scenarios."""

    def __init__(self) -> None:
        self.later: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        name = scope["path"][1:]
        first: dict[str, Any] = {"id": 1, "email": "ada@shop.example"}
        given: dict[str, list[Any]] = {
            "somebody": [{"id": 7, "plan": "pro"}],
            "an address": [{"id": 7, "ip_address": "203.0.113.9"}],
            "auto": [{"id": 7, "ip_address": "{{auto}}"}],
            "taken back": [{"id": 7}, None],
            "empty": [{}],
            "extras": [{"plan": "pro"}],
            "blank": [{"id": None, "username": ""}],
            "twice": [first, {"id": 2}],
            "within": [first],
            "after": [{"id": 7}],
            "rejected": [{"id": 7}],
        }
        for user in given.get(name, []):
            set_user(user)
        await self.report(name)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def report(self, name: str) -> None:
        if name == "within":
            with use_user({"id": 2}):
                usercontext.capture_message(name)
        elif name == "rejected":
            asyncio.create_task(fail())  # noqa: RUF006 - nobody is to wait for it
        elif name == "after":
            loop = asyncio.get_running_loop()
            self.later.append(loop.call_later(0.01, usercontext.capture_message, name))
        else:
            usercontext.capture_message(name)


async def visit(app: Any, names: list[str]) -> None:
    """Send one request for each scenario."""
    import httpx

    transport = httpx.ASGITransport(app, client=(ADDRESS, 50000))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as client:
        for name in names:
            await client.get(f"/{name}", headers={"x-forwarded-for": "198.51.100.7, 10.0.0.2"})
    await asyncio.sleep(0.05)  # the timer of "after", in both


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("include_ip", [True, False], ids=["with ip", "without"])
def test_ours(name: str, *, include_ip: bool) -> None:
    """The last two columns are what ours sends."""
    pytest.importorskip("httpx")
    recorder = RecordingClient()
    usercontext.init(client=recorder, capture_unhandled=True)
    app = asgi.UserContextMiddleware(Shop(), request_data=RequestData(include_ip=include_ip))
    asyncio.run(visit(app, [name]))
    (event,) = recorder.events
    assert (event.get("user") or None) == said(name, 2 if include_ip else 3)
