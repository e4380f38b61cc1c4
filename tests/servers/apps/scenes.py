"""What every app does at a route, whichever framework serves it.

A request says in headers what it wants, so that all frameworks read it alike: `x-user` is the
user that the resolver finds, `x-set` the one that the endpoint sets, `x-id` names the request in
what is observed of it. Answers and observations are what `get_user()` said there, None for nobody.

A framework joins the matrix with `<name>_app.py` beside this file and an entry in
`../frameworks.py`. Its module calls `start()`, builds the app twice (with ours added once and, for
the feature `twice`, two times) in the framework's own native form, its resolver `resolver`, and
ends in

    application = publish(OutsideASGI(once, {"/twice": twice}))      # or OutsideWSGI

A framework with a server of its own uses `outside.watched` instead, and is run as
`python -m apps.<name>_app PORT`.

Most routes are in the tables `SYNC`, `THREADS`, `ASYNC`, `STREAMS` and `SYNC_STREAMS` at the end.
Each names a function that takes the request's headers (a mapping that knows them in lower case)
and returns what is answered as JSON, or yields the chunks of a stream. What no table holds:

every app         `SYNC`, wherever the framework runs an endpoint, `/whoami-sync` with POST too.
                  `/whoami`: GET, HEAD and POST; answers `whoami` when it has read the body.
                  `/boom`: a 500, and one report of it by our module.
handlers          `/handled`: the app's own handler answers with `report_handled` and 409.
handler500        `/boom`: the app's handler answers with JSON, whose values are all that it can
                  see: `who()`, `who(request=...)`, `who(error=...)`.
middleware        the header `x-middleware: str(who())` on the response of `/whoami`, by a
                  middleware or hook of the framework inside ours when the endpoint is done.
async             `ASYNC` (but `/lifespan`): endpoints that are coroutines.
threads           `THREADS`: endpoints that may block, in threads of their own (by
                  `asyncio.to_thread` where the framework has none).
streams           `STREAMS`: from async generators; the endpoint calls `set_if_asked` before.
sync_streams      `SYNC_STREAMS`: the same from plain generators, `/stream-sync` with HEAD too.
plain_streams     `/stream-plain`: `chunks`, without what the framework does for generators.
background        `/background`: `whoami`, and after the response `background_thread(headers)`, in
                  a background task, a hook, or the response's `close()`.
background_tasks  there, also `background(headers)` in an async background task.
files             `/file`: `FILE` as the framework sends files, after `set_if_asked`.
in_process        `/sub-requests` and `/thousand`: the scenes of these names, given `this_app()`.
twice             `/twice/...`: the app with ours around it twice.
wrapped           `/wrapped/...`: the app with ours outermost, where a framework's middleware
                  usually runs ours in another task, which hides what the server would see.
websockets        `/websocket`: `websocket`, or the framework's own that answers each text with
                  `websocket_answer` and observes "closed" at its end.
lifespan          `/lifespan`: `lifespan_starts()` at startup, its task cancelled at the end.
mounted_asgi      `mounted_asgi_apps()` below our middleware, mounted by the framework or `Paths`.
mounted_wsgi      `mounted_wsgi_apps()` there, over ASGI with a2wsgi.
raw               `RAW`: WSGI apps beside the framework's, below our middleware (werkzeug's
                  `DispatcherMiddleware(app, {**mounted_wsgi_apps(), **RAW})`).
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import usercontext
import usercontext.asgi
import usercontext.wsgi

Headers = Mapping[str, str]
Scene = Callable[[Headers], dict[str, Any]]
AsyncScene = Callable[[Headers], Awaitable[dict[str, Any]]]

PATIENCE = 10.0  # seconds; only a failing test waits so long
ENDLESS = 2000  # chunks of 16 KiB, more than any server buffers
FILE_TEXT = b"the file\n" * 1000

#: Threads that outlive the requests that started them, as every app has some.
pool = ThreadPoolExecutor(8)

_sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
# Few datagrams fit into the queue. Connected, gevent waits for it to have room, and tries but once
# more; and it lets one greenlet at a time wait for a socket. Reentrant, as garbage may be collected
# here, and a generator that ends then is observed.
_sender.connect(os.environ["OBSERVER"])
_sender_lock = threading.RLock()
_gates: dict[str, asyncio.Barrier] = {}
_thread_gates: dict[str, threading.Barrier] = {}
_thread_gates_lock = threading.Lock()
_releases: dict[str, asyncio.Event] = {}
_lifespan: dict[str, str | None] = {}


def _some_file() -> str:
    """Write the file that is sent; the tests' own folder goes away with them."""
    with NamedTemporaryFile(delete=False, dir=os.environ.get("TMPDIR")) as file:
        file.write(FILE_TEXT)
    return file.name


FILE = _some_file()


class BoomError(RuntimeError):
    """Raised by endpoints, and handled by nobody."""


class HandledError(RuntimeError):
    """Raised by endpoints, and handled by the app's own error handler."""


def who(**how: Any) -> str | None:
    """Return the id of the current user as `get_user()` says it."""
    user = usercontext.get_user(**how)
    return None if user is None else user.id


def resolver(request: Any) -> dict[str, str] | None:
    """Find the user of any framework's request: the one named in a header."""
    observe(request.headers, "resolver", None)
    identifier = request.headers.get("x-user")
    return {"id": identifier} if identifier else None


def inner_resolver(request: Any) -> dict[str, str] | None:
    """Find the user of a mounted app, which has an authentication of its own."""
    identifier = request.headers.get("x-inner")
    return {"id": identifier} if identifier else None


def observe(headers: Headers, point: str, seen: object) -> None:
    """Tell the tests what was seen at a point of a request, also after its response."""
    if "x-id" not in headers:
        return
    seen_there = {"request": headers["x-id"], "point": point, "seen": seen}
    with _sender_lock:
        _sender.send(json.dumps(seen_there).encode())


def start() -> None:
    """Set up usercontext as an app does at import time, and set a user where none belongs."""
    request_data = usercontext.RequestData(include_ip=True)
    usercontext.init(os.environ["REPORTS"], request_data=request_data)
    usercontext.set_user({"id": "import-time"})


_served: list[Any] = []


def publish(application: Any) -> Any:
    """Keep the whole app for the scenes that send requests to it; return it."""
    _served.append(application)
    return application


def this_app() -> Any:
    """Return the app that the server runs."""
    return _served[0]


def set_if_asked(headers: Headers) -> None:
    """Set the user of the header `x-set`, if there is one; `-` is nobody."""
    identifier = headers.get("x-set")
    if identifier:
        usercontext.set_user(None if identifier == "-" else {"id": identifier})


def whoami(headers: Headers) -> dict[str, Any]:
    """Set the user if asked; say who it is."""
    set_if_asked(headers)
    return {"user": who()}


def collect(headers: Headers) -> dict[str, Any]:
    """Collect what is garbage, abandoned generators too: they end inside this request."""
    gc.collect()
    return whoami(headers)


def boom(headers: Headers) -> dict[str, Any]:
    """Set the user if asked, then fail."""
    set_if_asked(headers)
    raise BoomError(headers["x-id"])


def handled(headers: Headers) -> dict[str, Any]:
    """Set the user if asked, then fail in a way that the app handles."""
    set_if_asked(headers)
    raise HandledError(headers["x-id"])


def report_handled(error: Exception) -> dict[str, Any]:
    """Answer for a `HandledError` error: report it, and say who is seen in the handler."""
    usercontext.capture_exception(error)
    return {"user": who()}


def report_message(headers: Headers) -> dict[str, Any]:
    """Report a message of the current request."""
    set_if_asked(headers)
    usercontext.capture_message(headers["x-id"])
    return {"user": who()}


def idle(headers: Headers) -> dict[str, Any]:
    """Answer without asking who it is."""
    return {}


#: A user as apps keep them in a cache: one object for all of their requests.
CACHED_USER = {"id": "cached", "plan": {"name": "free"}}


def cached(headers: Headers) -> dict[str, Any]:
    """Report a message with a user out of a cache; return what has become of that."""
    usercontext.set_user(CACHED_USER)
    usercontext.capture_message(headers["x-id"])
    return CACHED_USER


class BrokenUser:
    """A user whose properties fail, as those of a detached database object do."""

    @property
    def id(self) -> str:
        """Fail."""
        raise LookupError("the session of this object is closed")


def broken_user(headers: Headers) -> dict[str, Any]:
    """Report a message with a user who cannot be read."""
    usercontext.set_user(BrokenUser())
    usercontext.capture_message(headers["x-id"])
    return {"user": who()}


# Interleaving: nobody goes on before everybody has set a user.


async def interleave(headers: Headers) -> dict[str, Any]:
    """Meet the other requests of the group at three gates; say who it was after each."""
    gate = _gates.setdefault(headers["x-group"], asyncio.Barrier(int(headers["x-size"])))
    set_if_asked(headers)
    seen = [who()]
    for _ in range(3):
        async with asyncio.timeout(PATIENCE):
            await gate.wait()
        seen.append(who())
    return {"seen": seen}


def interleave_threads(headers: Headers) -> dict[str, Any]:
    """Do what `interleave` does, in a thread."""
    with _thread_gates_lock:
        gate = _thread_gates.setdefault(
            headers["x-group"], threading.Barrier(int(headers["x-size"]))
        )
    set_if_asked(headers)
    seen = [who()]
    for _ in range(3):
        gate.wait(PATIENCE)
        seen.append(who())
    return {"seen": seen}


# Threads and tasks of one request.


def _in_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(PATIENCE)


def threads(headers: Headers) -> dict[str, Any]:
    """Look at the user from threads that got a context, the scope, or nothing."""
    set_if_asked(headers)
    seen: dict[str, str | None] = {"endpoint": who()}
    _in_thread(lambda: seen.update(thread=who()))
    _in_thread(usercontext.bind(lambda: seen.update(bound_thread=who())))
    seen["copied"] = pool.submit(contextvars.copy_context().run, who).result(PATIENCE)
    seen["submitted"] = pool.submit(who).result(PATIENCE)
    seen["bound"] = pool.submit(usercontext.bind(who)).result(PATIENCE)
    seen["submitted_again"] = pool.submit(who).result(PATIENCE)
    late = usercontext.bind(lambda: usercontext.set_user({"id": headers["x-late"]}))
    pool.submit(late).result(PATIENCE)
    seen["set_in_a_thread"] = who()
    return seen


async def threads_of_a_loop(headers: Headers) -> dict[str, Any]:
    """Look at the user from the threads that asyncio gives a coroutine."""
    set_if_asked(headers)
    loop = asyncio.get_running_loop()
    seen = {
        "endpoint": who(),
        "to_thread": await asyncio.to_thread(who),
        "copied": await loop.run_in_executor(pool, contextvars.copy_context().run, who),
        "submitted": await loop.run_in_executor(pool, who),
        "bound": await loop.run_in_executor(pool, usercontext.bind(who)),
        "submitted_again": await loop.run_in_executor(pool, who),
    }
    await asyncio.to_thread(usercontext.set_user, {"id": headers["x-late"]})
    return {**seen, "set_in_a_thread": who()}


async def tasks(headers: Headers) -> dict[str, Any]:
    """Look at the user from child tasks, which see, set and borrow it."""
    set_if_asked(headers)

    async def see() -> str | None:
        await asyncio.sleep(0)
        return who()

    async def borrow(identifier: str) -> str | None:
        with usercontext.use_user({"id": identifier}):
            return await see()

    async def set_late() -> None:
        usercontext.set_user({"id": headers["x-late"]})

    child = await asyncio.create_task(see())
    borrowed = await asyncio.gather(borrow("first"), borrow("second"), see())
    await asyncio.create_task(set_late())
    return {"child": child, "borrowed": borrowed, "set_in_a_task": who()}


# What is seen after the response.


async def detach(headers: Headers) -> dict[str, Any]:
    """Leave a task and a timer behind that look at the user when the response is over."""
    set_if_asked(headers)
    user = who()
    released = _releases.setdefault(headers["x-id"], asyncio.Event())

    async def look_later() -> None:
        async with asyncio.timeout(PATIENCE):
            await released.wait()
        observe(headers, "task", who())

    # The loop holds tasks weakly; the event's waiter and this set keep it alive.
    task = asyncio.create_task(look_later())
    _detached.add(task)
    task.add_done_callback(_detached.discard)
    asyncio.get_running_loop().call_later(0.02, lambda: observe(headers, "timer", who()))
    return {"user": user}


_detached: set[asyncio.Task[None]] = set()


async def release(headers: Headers) -> dict[str, Any]:
    """Let the task that an earlier request left behind go on."""
    _releases.pop(headers["x-release"]).set()
    return {"user": who()}


async def background(headers: Headers) -> None:
    """Look at the user in a background task, which runs after the response."""
    await asyncio.sleep(0)
    observe(headers, "background", who())


def background_thread(headers: Headers) -> None:
    """Look at the user in a background task that runs in a thread."""
    observe(headers, "background-thread", who())


# Streams.


def chunks(headers: Headers) -> Iterator[bytes]:
    """Say who is seen at each of four chunks, and at the end."""
    try:
        for _ in range(4):
            yield f"{who()}\n".encode()
    finally:
        observe(headers, "closed", who())


async def async_chunks(headers: Headers) -> AsyncIterator[bytes]:
    """Do what `chunks` does, asynchronously."""
    try:
        for _ in range(4):
            await asyncio.sleep(0)
            yield f"{who()}\n".encode()
    finally:
        observe(headers, "closed", who())


def failing_chunks(headers: Headers) -> Iterator[bytes]:
    """Fail after two chunks."""
    yield f"{who()}\n".encode()
    yield f"{who()}\n".encode()
    raise BoomError(headers["x-id"])


async def async_failing_chunks(headers: Headers) -> AsyncIterator[bytes]:
    """Fail after two chunks, asynchronously."""
    for chunk in (f"{who()}\n", f"{who()}\n"):
        await asyncio.sleep(0)
        yield chunk.encode()
    raise BoomError(headers["x-id"])


def endless_chunks(headers: Headers) -> Iterator[bytes]:
    """Go on until the client has gone away."""
    try:
        for _ in range(ENDLESS):
            yield f"{who()}\n".encode().ljust(16384, b".")
    finally:
        observe(headers, "closed", who())


async def async_endless_chunks(headers: Headers) -> AsyncIterator[bytes]:
    """Go on until the client has gone away, asynchronously."""
    try:
        for _ in range(ENDLESS):
            await asyncio.sleep(0)
            yield f"{who()}\n".encode().ljust(16384, b".")
    finally:
        observe(headers, "closed", who())


# Lifespan.


async def lifespan_starts() -> asyncio.Task[str | None]:
    """Look at the user, and set one, where there is no request."""
    usercontext.set_user({"id": "lifespan"})
    _lifespan["startup"] = who()
    return asyncio.create_task(_reaper())


async def _reaper() -> str | None:
    """Stand for the housekeeping tasks that live as long as the process."""
    usercontext.set_user({"id": "reaper"})
    while True:
        _lifespan["reaper"] = who()
        await asyncio.sleep(0.01)


async def lifespan(headers: Headers) -> dict[str, Any]:
    """Say who was seen in the lifespan and is seen in a task of it."""
    set_if_asked(headers)
    return {**_lifespan, "user": who()}


# Requests inside a request.

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]


async def call_asgi(app: ASGIApp, path: str, headers: Headers) -> dict[str, Any]:
    """Send one request to an ASGI app in this process; return its JSON."""
    body = bytearray()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    over = asyncio.Event()
    requests = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in requests:
            return message
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        body.extend(message.get("body", b""))
        # As a server does: Quart 0.23 waits for the client to go once it has answered.
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            over.set()

    try:
        await app(scope, receive, send)
    finally:
        over.set()
    answer: dict[str, Any] = json.loads(body)
    return answer


def call_wsgi(app: Any, path: str, headers: Headers) -> dict[str, Any]:
    """Send one request to a WSGI app in this process; return its JSON."""
    from io import BytesIO
    from wsgiref.util import setup_testing_defaults

    environ: dict[str, Any] = {"PATH_INFO": path, "REMOTE_ADDR": "127.0.0.1"}
    for key, value in headers.items():
        environ["HTTP_" + key.upper().replace("-", "_")] = value
    environ["wsgi.input"] = BytesIO()
    setup_testing_defaults(environ)
    body = app(environ, lambda status, headers, exc_info=None: None)
    try:
        answer: dict[str, Any] = json.loads(b"".join(body))
    finally:
        if hasattr(body, "close"):
            body.close()
    return answer


async def sub_requests(app: ASGIApp, headers: Headers) -> dict[str, Any]:
    """Send requests of somebody else, of nobody and of a changing user to the same app."""
    set_if_asked(headers)
    inner = headers["x-inner"]
    other = await call_asgi(app, "/whoami", {"x-user": inner})
    after_other = who()
    nobody = await call_asgi(app, "/whoami", {})
    setter = await call_asgi(app, "/whoami", {"x-set": inner})
    together = await asyncio.gather(
        call_asgi(app, "/whoami", {"x-set": inner}), call_asgi(app, "/whoami", {})
    )
    return {
        "other": other["user"],
        "nobody": nobody["user"],
        "setter": setter["user"],
        "together": [answer["user"] for answer in together],
        "outer": [after_other, who()],
    }


def sub_requests_wsgi(app: Any, headers: Headers) -> dict[str, Any]:
    """Do what `sub_requests` does over WSGI."""
    set_if_asked(headers)
    inner = headers["x-inner"]
    other = call_wsgi(app, "/whoami", {"x-user": inner})
    after_other = who()
    nobody = call_wsgi(app, "/whoami", {})
    setter = call_wsgi(app, "/whoami", {"x-set": inner})
    together = [pool.submit(call_wsgi, app, "/whoami", asked) for asked in ({"x-set": inner}, {})]
    return {
        "other": other["user"],
        "nobody": nobody["user"],
        "setter": setter["user"],
        "together": [answer.result(PATIENCE)["user"] for answer in together],
        "outer": [after_other, who()],
    }


def _asked(number: int) -> dict[str, str]:
    """Return a request's headers: found, set or nobody, by turns."""
    return ({"x-user": f"u{number}"}, {"x-set": f"u{number}"}, {})[number % 3]


async def thousand(app: ASGIApp) -> dict[str, Any]:
    """Send 1,000 requests at once; return whom each of them saw."""
    answers = await asyncio.gather(
        *(call_asgi(app, "/whoami", _asked(number)) for number in range(1000))
    )
    return {"users": [answer["user"] for answer in answers]}


def thousand_wsgi(app: Any) -> dict[str, Any]:
    """Send 1,000 requests from 16 threads; return whom each of them saw."""
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda n: call_wsgi(app, "/whoami", _asked(n)), range(1000)))
    return {"users": [answer["user"] for answer in answers]}


# Apps below the framework: what is mounted, and what frameworks do not offer.


async def mounted_asgi(scope: Any, receive: Any, send: Any) -> None:
    """Say who is seen in an ASGI app that another mounted."""
    answer = json.dumps({"user": who()}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def mounted_wsgi(environ: Any, start_response: Any) -> list[bytes]:
    """Say who is seen in a WSGI app that another mounted."""
    answer = json.dumps({"user": who()}).encode()
    headers = [("content-type", "application/json"), ("content-length", str(len(answer)))]
    start_response("200 OK", headers)
    return [answer]


def _headers_of(environ: Any) -> dict[str, str]:
    return {
        key[5:].lower().replace("_", "-"): value
        for key, value in environ.items()
        if key.startswith("HTTP_")
    }


def raw_write(environ: Any, start_response: Any) -> list[bytes]:
    """Answer through the `write()` callable that PEP 3333 keeps for old apps."""
    headers = _headers_of(environ)
    set_if_asked(headers)
    write = start_response("200 OK", [("content-type", "text/plain")])
    write(f"{who()}\n".encode())
    write(f"{who()}\n".encode())
    return [f"{who()}\n".encode()]


def raw_file(environ: Any, start_response: Any) -> Any:
    """Answer with a file through the server's own `wsgi.file_wrapper`, if it has one."""
    from wsgiref.util import FileWrapper

    set_if_asked(_headers_of(environ))
    headers = [("content-type", "text/plain"), ("content-length", str(len(FILE_TEXT)))]
    start_response("200 OK", headers)
    file = Path(FILE).open("rb")  # noqa: SIM115 - whoever sends the body closes it
    if "wsgi.file_wrapper" not in environ:
        return FileWrapper(file, 4096)
    body = environ["tests.file"] = environ["wsgi.file_wrapper"](file, 4096)
    return body


def raw_list(environ: Any, start_response: Any) -> list[bytes]:
    """Answer with a plain list, of which servers take the length."""
    set_if_asked(_headers_of(environ))
    start_response("200 OK", [("content-type", "text/plain")])
    return [f"{who()}\n".encode()]


def raw_boom(environ: Any, start_response: Any) -> list[bytes]:
    """Fail where no framework turns the error into a response."""
    headers = _headers_of(environ)
    set_if_asked(headers)
    raise BoomError(headers["x-id"])


def raw_broken_close(environ: Any, start_response: Any) -> Any:
    """Answer with a body whose `close()` looks at the user and fails."""
    headers = _headers_of(environ)
    set_if_asked(headers)
    start_response("200 OK", [("content-type", "text/plain")])
    return _BrokenClose(headers)


class _BrokenClose:
    def __init__(self, headers: Headers) -> None:
        self._headers = headers
        self._chunks = iter([f"{who()}\n".encode()])

    def __iter__(self) -> _BrokenClose:
        return self

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        observe(self._headers, "closed", who())
        raise BoomError(self._headers["x-id"])


def mounted_asgi_apps() -> dict[str, Any]:
    """Return ASGI apps with our middleware, without a resolver and with one, by their path."""
    middleware = usercontext.asgi.UserContextMiddleware
    return {
        "/mounted/asgi": middleware(mounted_asgi),
        "/mounted/asgi-own": middleware(mounted_asgi, resolver=inner_resolver),
    }


def mounted_wsgi_apps() -> dict[str, Any]:
    """Return WSGI apps with our middleware, without a resolver and with one, by their path."""
    middleware = usercontext.wsgi.UserContextMiddleware
    return {
        "/mounted/wsgi": middleware(mounted_wsgi),
        "/mounted/wsgi-own": middleware(mounted_wsgi, resolver=inner_resolver),
    }


class Paths:
    """Sends requests to ASGI apps by the path that they begin with, all others to a framework."""

    def __init__(self, app: ASGIApp, apps: Mapping[str, ASGIApp]) -> None:
        self.app = app
        self.apps = apps

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on."""
        path = scope.get("path", "").rstrip("/")
        await self.apps.get(path, self.app)(scope, receive, send)


async def websocket(scope: Any, receive: Any, send: Any) -> None:
    """Answer each message with who is seen; `set:X` makes it X, `task` asks a child task."""
    headers = {key.decode().lower(): value.decode() for key, value in scope["headers"]}
    await receive()
    await send({"type": "websocket.accept"})
    try:
        while (message := await receive())["type"] == "websocket.receive":
            answer = await websocket_answer(message.get("text") or "")
            await send({"type": "websocket.send", "text": answer})
    finally:
        # Servers tell that the client has gone; gunicorn cancels the task instead.
        observe(headers, "closed", who())


async def websocket_answer(text: str) -> str:
    """Do what a websocket's message asks for; say who is seen then."""
    if text.startswith("set:"):
        usercontext.set_user({"id": text[4:]})
    if text == "boom":
        raise BoomError("websocket")
    if text == "task":
        return str(await asyncio.create_task(asyncio.to_thread(who)))
    return str(who())


# The routes of every app; see above.

SYNC: dict[str, Scene] = {
    "/whoami-sync": whoami,
    "/collect": collect,
    "/boom": boom,
    "/handled": handled,
    "/message": report_message,
    "/idle": idle,
    "/cached": cached,
    "/broken-user": broken_user,
}
THREADS: dict[str, Scene] = {"/interleave-sync": interleave_threads, "/threads-sync": threads}
ASYNC: dict[str, AsyncScene] = {
    "/interleave": interleave,
    "/threads": threads_of_a_loop,
    "/tasks": tasks,
    "/detach": detach,
    "/release": release,
    "/lifespan": lifespan,
}
STREAMS: dict[str, Callable[[Headers], AsyncIterator[bytes]]] = {
    "/stream": async_chunks,
    "/stream-failing": async_failing_chunks,
    "/stream-endless": async_endless_chunks,
}
SYNC_STREAMS: dict[str, Callable[[Headers], Iterator[bytes]]] = {
    "/stream-sync": chunks,
    "/stream-sync-failing": failing_chunks,
    "/stream-sync-endless": endless_chunks,
}
RAW: dict[str, Any] = {
    "/raw/write": raw_write,
    "/raw/file": raw_file,
    "/raw/list": raw_list,
    "/raw/boom": raw_boom,
    "/raw/broken-close": raw_broken_close,
}
