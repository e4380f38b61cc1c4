"""What Sentry's SDKs for JavaScript send, from Node.js and from a page of another origin.

They are found as Node.js finds modules: `npm install @sentry/node @sentry/browser`, and
NODE_PATH set to the `node_modules` of that.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.inspector.browser import browsing
from tests.inspector.running import inspecting, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usercontext.inspector.server import Inspector

USER = {"id": "7", "username": "al", "email": "al@example.com"}
SEND = """
Sentry.setUser(USER);
try { throw new TypeError("no price"); } catch (error) { Sentry.captureException(error); }
"""


def modules(name: str) -> Path:
    """Return the folder of modules that has a package; skip where it is in none."""
    for folder in map(Path, filter(None, os.environ.get("NODE_PATH", "").split(os.pathsep))):
        if (folder / name / "package.json").exists():
            return folder
    pytest.skip(f"{name} is not installed in NODE_PATH")


@pytest.fixture
def inspector(tmp_path: Path) -> Iterator[Inspector]:
    """An inspector without reports."""
    with inspecting(tmp_path / "reports.db") as inspector:
        yield inspector


def only_event(inspector: Inspector) -> Any:
    """Return the one event that has come, once it is there."""
    with httpx.Client(base_url=inspector.url, trust_env=False) as client:

        def link() -> str:
            html = client.get("/reports").text
            return html.partition('class="title" href="')[2].partition('"')[0]

        return client.get(f"{wait_for(link)}.json").json()


def test_node(inspector: Inspector) -> None:
    """An exception in Node.js arrives with its user and traceback."""
    folder = modules("@sentry/node")
    program = (
        'const Sentry = require("@sentry/node");'
        f"Sentry.init({{ dsn: {json.dumps(inspector.dsn)} }});"
        f"{SEND.replace('USER', json.dumps(USER))}"
        "Sentry.close(10000);"
    )
    environment = {**os.environ, "NODE_PATH": str(folder), "no_proxy": "127.0.0.1"}
    subprocess.run(["node", "-e", program], check=True, env=environment, timeout=60)
    event = only_event(inspector)

    assert event["user"].items() >= USER.items()
    assert event["exception"]["values"][-1]["type"] == "TypeError"


@contextmanager
def serving(folder: Path, html: str) -> Iterator[str]:
    """Serve a folder and a page at an origin of their own; a page made up has no address."""

    class Quiet(SimpleHTTPRequestHandler):
        extensions_map = dict.fromkeys((".js", ".mjs"), "text/javascript")

        def do_GET(self) -> None:
            if self.path != "/page":
                super().do_GET()
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


PAGE = """<!doctype html><script type="importmap">{"imports": IMPORTS}</script>
<script type="module">
import * as Sentry from "@sentry/browser";
Sentry.init({ dsn: DSN });
SEND
await Sentry.flush(10000);
document.title = "sent";
</script>"""


def entries(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield where each package, and each part of one, is for a browser."""
    for described in [*folder.glob("*/package.json"), *folder.glob("@*/*/package.json")]:
        package = json.loads(described.read_text())
        exports = package.get("exports")
        if not isinstance(exports, dict):
            continue
        for part, targets in exports.items():
            target = module_in(targets)
            if target.endswith(("js", "mjs")):
                place = (described.parent / target).relative_to(folder).as_posix()
                yield package["name"] + part[1:], f"/{place}"


def module_in(targets: Any) -> str:
    """Return the module among the targets of an export."""
    while isinstance(targets, dict):
        wanted = (name for name in ("production", "import", "default") if name in targets)
        targets = targets.get(next(wanted, ""), "")
    return str(targets)


def test_browser(inspector: Inspector) -> None:
    """An exception in a page of another origin arrives as well: the answers allow it."""
    folder = modules("@sentry/browser")
    html = (
        PAGE.replace("IMPORTS", json.dumps(dict(entries(folder))))
        .replace("DSN", json.dumps(inspector.dsn))
        .replace("SEND", SEND.replace("USER", json.dumps(USER)))
    )
    with serving(folder, html) as origin, browsing() as browser:
        page = browser.new_page()
        page.route(
            f"{origin}/page", lambda route: route.fulfill(body=html, content_type="text/html")
        )
        page.goto(f"{origin}/page")
        page.wait_for_function("document.title === 'sent'")
    event = only_event(inspector)

    assert event["user"].items() >= USER.items()
    assert event["request"]["url"] == f"{origin}/page"
