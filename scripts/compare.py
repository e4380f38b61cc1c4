"""Ask what people use today whom a report names, on one FastAPI app and a real uvicorn.

    python scripts/compare.py            # prints the table of README.md and docs/compared.md
    python scripts/compare.py --write    # puts it into both
    python scripts/compare.py --versions # says what was compared

Each tool is set up as its own documentation says, in a process of its own. A dependency finds the
user of a token and tells the tool; usercontext is given a resolver. Then requests of ada, and of
nobody, ask at the places below whom a line or report written there names.

Needs fastapi, uvicorn, httpx, sentry-sdk, structlog, starlette-context, asgi-correlation-id,
opentelemetry-sdk and opentelemetry-instrumentation-fastapi; for django-structlog also django.
"""

import argparse
import json
import re
import socket
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

__all__ = ["QUESTIONS", "TOOLS", "ask", "main", "table"]

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "compared.md")
MARKS = "<!-- compared -->\n", "<!-- end -->\n"

#: What is asked, and what the answer has to be.
QUESTIONS = {
    "endpoint": ("in a `def` endpoint", "ada"),
    "crash": ("an unhandled error", "ada"),
    "stream": ("in a streamed body", "ada"),
    "task": ("in a background task", "ada"),
    "next": ("next on the connection", None),
    "peer": ("a forged address", "127.0.0.1"),
}
TOOLS = {
    "usercontext": "usercontext",
    "sentry-sdk": "`sentry_sdk.set_user`",
    "structlog": "structlog contextvars",
    "starlette-context": "starlette-context",
    "opentelemetry-sdk": "OpenTelemetry",
    "asgi-correlation-id": "asgi-correlation-id",
    "django-structlog": "django-structlog",
}
FORGED = "198.51.100.66"
#: What a tool has no notion of.
ABSENT = "-"


class Tool:
    """One way to know the user: how it is set up, told, and asked."""

    def around(self, app: Any) -> None:
        """Set it up for an app."""

    def tell(self, name: str) -> None:
        """Say who makes the current request, where a dependency has found out."""

    def named(self) -> object:
        """Return whom a line or report names that is written here."""
        raise NotImplementedError

    def address(self) -> object:
        """Return the address that it would name."""
        return ABSENT

    def crashed(self) -> object:
        """Return whom the report of an unhandled error names; asked in the handler for 500."""
        return self.named()


class UserContext(Tool):
    """A resolver, and the built-in client."""

    def around(self, app: Any) -> None:
        import usercontext
        from usercontext.frameworks.fastapi import UserContext
        from usercontext.testing import RecordingClient

        self._recorder = RecordingClient()
        usercontext.init(
            client=self._recorder, request_data=usercontext.RequestData(include_ip=True)
        )
        UserContext(app, resolver=lambda request: _user_of(request.headers.get("authorization")))

    def named(self) -> object:
        return self._reported().get("username")

    def address(self) -> object:
        return self._reported().get("ip_address")

    def _reported(self) -> dict[str, Any]:
        import usercontext

        usercontext.capture_message("hello")
        found: dict[str, Any] = self._recorder.events[-1].get("user", {})
        return found


class SentrySdk(Tool):
    """The SDK with its own integrations, and addresses on."""

    def around(self, app: Any) -> None:
        import sentry_sdk

        self._events: list[Any] = []
        sentry_sdk.init(
            "https://key@sentry.example/1",
            send_default_pii=True,
            before_send=lambda event, hint: self._events.append(event),
        )

    def tell(self, name: str) -> None:
        import sentry_sdk

        sentry_sdk.set_user({"username": name})

    def named(self) -> object:
        return self._reported().get("user", {}).get("username")

    def address(self) -> object:
        event = self._reported()
        found = event.get("request", {}).get("env", {}).get("REMOTE_ADDR", ABSENT)
        return event.get("user", {}).get("ip_address", found)

    def _reported(self) -> dict[str, Any]:
        import sentry_sdk

        sentry_sdk.capture_message("hello")
        found: dict[str, Any] = self._events[-1]
        return found


class Structlog(Tool):
    """Context variables, cleared by a middleware at the start of each request."""

    def around(self, app: Any) -> None:
        import structlog

        @app.middleware("http")
        async def clear(request: Any, call_next: Any) -> Any:
            structlog.contextvars.clear_contextvars()
            return await call_next(request)

    def tell(self, name: str) -> None:
        import structlog

        structlog.contextvars.bind_contextvars(username=name)

    def named(self) -> object:
        import structlog

        return structlog.contextvars.get_contextvars().get("username")


class StarletteContext(Tool):
    """Its middleware, and its global `context`."""

    def around(self, app: Any) -> None:
        from starlette_context.middleware import RawContextMiddleware

        app.add_middleware(RawContextMiddleware)

    def tell(self, name: str) -> None:
        from starlette_context import context

        context["username"] = name

    def named(self) -> object:
        from starlette_context import context

        return context.get("username") if context.exists() else None


class OpenTelemetry(Tool):
    """The instrumentation of FastAPI, and an attribute of the current span."""

    def around(self, app: Any) -> None:
        from opentelemetry import trace
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
        from opentelemetry.sdk.trace import TracerProvider

        trace.set_tracer_provider(TracerProvider())
        FastAPIInstrumentor.instrument_app(app)

    def tell(self, name: str) -> None:
        from opentelemetry import trace

        trace.get_current_span().set_attribute("user.name", name)

    def named(self) -> object:
        return self._attributes().get("user.name")

    def address(self) -> object:
        found = self._attributes()
        return found.get("client.address") or found.get("net.peer.ip") or ABSENT

    def _attributes(self) -> dict[str, Any]:
        from opentelemetry import trace

        return dict(getattr(trace.get_current_span(), "attributes", None) or {})


class CorrelationId(Tool):
    """Names requests: whoever has the log of the login finds the user by it."""

    def around(self, app: Any) -> None:
        from asgi_correlation_id import CorrelationIdMiddleware

        app.add_middleware(CorrelationIdMiddleware)

    def named(self) -> object:
        return ABSENT


_CLASSES: dict[str, type[Tool]] = {
    "usercontext": UserContext,
    "sentry-sdk": SentrySdk,
    "structlog": Structlog,
    "starlette-context": StarletteContext,
    "opentelemetry-sdk": OpenTelemetry,
    "asgi-correlation-id": CorrelationId,
}


def _user_of(token: str | None) -> dict[str, Any] | None:
    return {"id": 1, "username": "ada"} if token == "ada" else None


def _app(tool: Tool, answers: dict[str, object]) -> Any:
    from fastapi import BackgroundTasks, Depends, FastAPI, Header, Request
    from fastapi.responses import JSONResponse, StreamingResponse

    app = FastAPI()

    def find_user(authorization: str | None = Header(None)) -> None:
        user = _user_of(authorization)
        if user is not None:
            tool.tell(user["username"])

    def note(question: str) -> None:
        answers[question] = tool.named()

    @app.get("/endpoint", dependencies=[Depends(find_user)])
    def endpoint() -> None:
        note("endpoint")

    @app.get("/crash", dependencies=[Depends(find_user)])
    async def crash() -> None:
        raise KeyError("an order that is not there")

    @app.exception_handler(500)
    async def apologise(request: Request, error: Exception) -> JSONResponse:
        answers["crash"] = tool.crashed()
        return JSONResponse({}, 500)

    @app.get("/stream", dependencies=[Depends(find_user)])
    async def stream() -> StreamingResponse:
        def body() -> Any:
            note("stream")
            yield b"hello"

        return StreamingResponse(body())

    @app.get("/task", dependencies=[Depends(find_user)])
    async def task(tasks: BackgroundTasks) -> None:
        tasks.add_task(note, "task")

    @app.post("/upload", dependencies=[Depends(find_user)])
    async def upload(request: Request) -> int:
        return len(await request.body())

    @app.get("/next", dependencies=[Depends(find_user)])
    async def following() -> None:
        note("next")

    @app.get("/peer")
    async def peer() -> None:
        answers["peer"] = tool.address()

    tool.around(app)
    return app


def _asked_on_fastapi(name: str) -> dict[str, object]:
    """Serve the app, send the requests, and return the answers."""
    import httpx
    import uvicorn

    answers: dict[str, object] = {}
    app = _app(_CLASSES[name](), answers)
    listener = socket.create_server(("127.0.0.1", 0))
    # Uvicorn itself believes what comes from 127.0.0.1, which here is everybody.
    config = uvicorn.Config(app, log_level="critical", proxy_headers=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            ada = {"authorization": "ada"}
            for path in ("/endpoint", "/stream", "/task"):
                client.get(path, headers=ada)
            client.post("/upload", headers=ada, content=b"x" * 200_000)
            client.get("/next")
            client.get("/peer", headers={"x-forwarded-for": FORGED})
            client.get("/crash", headers=ada)  # last: the server closes the connection
    finally:
        server.should_exit = True
        thread.join()
    return answers


def _asked_on_django(_name: str) -> dict[str, object]:
    """Ask django-structlog, by Django's own client."""
    import django
    import structlog
    from django.conf import settings
    from django.http import JsonResponse, StreamingHttpResponse
    from django.urls import path

    answers: dict[str, object] = {}

    def named(question: str) -> None:
        found = structlog.contextvars.get_contextvars().get("user_id")
        answers[question] = "ada" if found == 1 else found

    def authenticate(get_response: Any) -> Any:
        from django.contrib.auth.models import AnonymousUser

        def middleware(request: Any) -> Any:
            is_ada = request.headers.get("authorization") == "ada"
            request.user = SimpleNamespace(pk=1, username="ada") if is_ada else AnonymousUser()
            return get_response(request)

        return middleware

    def endpoint(request: Any) -> Any:
        named("endpoint")
        return JsonResponse({})

    def crash(request: Any) -> Any:
        raise KeyError("an order that is not there")

    def apologise(request: Any) -> Any:
        named("crash")
        return JsonResponse({}, status=500)

    def stream(request: Any) -> Any:
        def body() -> Any:
            named("stream")
            yield b"hello"

        return StreamingHttpResponse(body())

    def following(request: Any) -> Any:
        named("next")
        answers["peer"] = structlog.contextvars.get_contextvars().get("ip")
        return JsonResponse({})

    module: Any = sys.modules[__name__]
    module.authenticate, module.handler500 = authenticate, apologise
    views = {"endpoint": endpoint, "crash": crash, "stream": stream, "next": following}
    module.urlpatterns = [path(name, view) for name, view in views.items()]
    settings.configure(
        ALLOWED_HOSTS=["testserver"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="not a secret",
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django_structlog"],
        MIDDLEWARE=[
            f"{__name__}.authenticate",
            "django_structlog.middlewares.RequestMiddleware",
        ],
        LOGGING_CONFIG=None,
    )
    django.setup()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    from django.test import Client

    client = Client(raise_request_exception=False)
    for name in ("endpoint", "crash", "stream"):
        response = client.get(f"/{name}", headers={"authorization": "ada"})
        b"".join(response.streaming_content) if response.streaming else response.content
    client.get("/next", headers={"x-forwarded-for": FORGED})
    return {"task": ABSENT, **answers}


def ask(name: str) -> dict[str, object]:
    """Return a tool's answers, found in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--ask", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    answers: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answers


def _cell(question: str, answer: object) -> str:
    expected = QUESTIONS[question][1]
    if answer == ABSENT:
        return "–"
    if answer == expected:
        return "✓"
    if question == "peer":
        return "believed" if answer == FORGED else "–"
    return "nobody" if answer is None else "wrong"


def table(answers: dict[str, dict[str, object]]) -> str:
    """Return the answers of all tools in Markdown."""
    rows = [
        ["whom a report names", *(title for title, _ in QUESTIONS.values())],
        ["---"] * (len(QUESTIONS) + 1),
    ]
    for name, found in answers.items():
        cells = [_cell(question, found.get(question)) for question in QUESTIONS]
        rows.append([TOOLS[name], *cells])
    return "".join(f"|{'|'.join(row)}|\n" for row in rows)


def _write(text: str) -> None:
    begin, end = MARKS
    for page in PAGES:
        before = page.read_text()
        page.write_text(
            re.sub(f"{begin}.*?{end}", lambda _: begin + text + end, before, flags=re.DOTALL)
        )


def main(arguments: list[str] | None = None) -> int:
    """Print the table, or put it into the pages; return 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the table into the pages")
    parser.add_argument("--versions", action="store_true", help="say what was compared")
    parser.add_argument("--ask", metavar="TOOL", choices=TOOLS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.ask:
        asked = _asked_on_django if options.ask == "django-structlog" else _asked_on_fastapi
        print(json.dumps(asked(options.ask)))
        return 0
    if options.versions:
        print(", ".join(f"{name} {version(name)}" for name in TOOLS if name != "usercontext"))
        return 0
    text = table({name: ask(name) for name in TOOLS})
    if options.write:
        _write(text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
