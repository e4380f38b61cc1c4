"""Two copies of the package in one process: one that a plugin brings, or one loaded again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import asyncio, contextlib, json, sys
from types import SimpleNamespace
from tests.driver import asgi_call, environ_of, scope_of, wsgi_request

def load():
    for name in [name for name in sys.modules if name.partition(".")[0] == "usercontext"]:
        del sys.modules[name]
    import usercontext, usercontext.asgi, usercontext.wsgi
    from usercontext.testing import RecordingClient
    client = RecordingClient()
    usercontext.init(client=client)
    return SimpleNamespace(
        asgi=usercontext.asgi.UserContextMiddleware,
        wsgi=usercontext.wsgi.UserContextMiddleware,
        get=lambda source: [usercontext.get_user().id, usercontext.get_user(request=source).id],
        set=lambda id: usercontext.set_user({"id": id}),
        reported=lambda: [event["user"]["id"] for event in client.events],
    )

a, b = load(), load()
seen = []

def handle(source):
    for copy, id in ((a, "ann"), (b, "bob")):
        copy.set(id)
    seen.append([a.get(source), b.get(source)])
    raise KeyError("order")

async def asgi_app(scope, receive, send):
    handle(scope)

def wsgi_app(environ, start_response):
    handle(environ)

interface, order = sys.argv[1:]
app = {"asgi": asgi_app, "wsgi": wsgi_app}[interface]
for copy in reversed(order):
    app = getattr({"a": a, "b": b}[copy], interface)(app)
with contextlib.suppress(KeyError):
    if interface == "asgi":
        asyncio.run(asgi_call(app, scope_of()))
    else:
        wsgi_request(app, environ_of())
print(json.dumps([seen, a.reported(), b.reported()]))
"""


@pytest.mark.parametrize("order", ["ab", "ba", "aba"])
@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_each_copy_answers_for_itself(interface: str, order: str) -> None:
    """Each finds its own user, by the request as well, and reports an error once, with that."""
    command = [sys.executable, "-c", PROGRAM, interface, order]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=root)

    assert done.returncode == 0, done.stderr
    answers: Any = json.loads(done.stdout)
    assert answers == [[[["ann", "ann"], ["bob", "bob"]]], ["ann"], ["bob"]]
