"""The inspector's pages and its DSN, as an ASGI app."""

from __future__ import annotations

import asyncio
import hmac
import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from usercontext._version import __version__
from usercontext.inspector import pages
from usercontext.inspector.guard import Guard
from usercontext.inspector.intake import (
    MAX_BODY,
    Intake,
    RefusedError,
    decompressed,
    event_of,
    events_of_envelope,
    sent_key,
)
from usercontext.inspector.report import LEVELS, visible

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from starlette.requests import Request

    from usercontext.inspector.lists import Lists

__all__ = ["Changes", "build_app"]

_HERE = Path(__file__).parent
_POLL_SECONDS = 0.4
_KEEPALIVE_SECONDS = 15.0
_MAX_STREAMS = 32
_MAX_QUERY = 200
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "X-Sentry-Error, X-Sentry-Rate-Limits, Retry-After",
}
_PREFLIGHT = {
    **_CORS,
    "Access-Control-Allow-Methods": "POST, OPTIONS",
    "Access-Control-Allow-Headers": "X-Sentry-Auth, X-Requested-With, Origin, Accept, "
    "Content-Type, Authentication, Authorization, Content-Encoding, Transfer-Encoding",
    "Access-Control-Allow-Private-Network": "true",
    "Access-Control-Max-Age": "3600",
}
_TITLES = {404: "There is no such page", 405: "Not this way", 503: "Too busy"}


class Changes:
    """What the pages in browsers wait for: the number of the newest report, and the end."""

    def __init__(self) -> None:
        self.newest: int = 0
        self.is_over: bool = False


def build_app(
    lists: Lists,
    intake: Intake,
    changes: Changes,
    *,
    dsn: str,
    file: str,
    hosts: Iterable[str] = (),
    token: str | None = None,
) -> Guard:
    """Return the app: its pages, its DSN, and the guard around both.

    Args:
        lists: reads what the pages show.
        intake: keeps what SDKs send.
        changes: tells what is new.
        dsn: what to give to an SDK; its key has to be shown.
        file: the file's name, as it is shown.
        hosts: names by which the inspector may be asked, beside `localhost` and addresses.
        token: what has to be shown to see the pages.
    """
    site = _Pages(lists, changes, dsn=dsn, file=file)
    receiver = _Receiver(intake, dsn.partition("//")[2].partition("@")[0])
    takers = {"envelope": receiver.envelope, "store": receiver.store}
    app = Starlette(
        routes=[
            Route("/", site.problems),
            Route("/problems/{number:int}", site.problem),
            Route("/users", site.users),
            Route("/user", site.user),
            Route("/reports", site.reports),
            Route("/reports/{event_id}.json", site.raw),
            Route("/reports/{event_id}", site.report),
            Route("/search", site.search),
            Route("/live", site.live),
            Mount("/static", StaticFiles(directory=_HERE / "static")),
            *(
                Route(f"/api/{{project}}/{name}{end}", taker, methods=["POST", "OPTIONS"])
                for name, taker in takers.items()
                for end in ("", "/")
            ),
        ],
        exception_handlers={HTTPException: site.refuse, sqlite3.OperationalError: site.fail},
    )
    return Guard(app, hosts=hosts, token=token)


class _Pages:
    """The pages for people."""

    def __init__(self, lists: Lists, changes: Changes, *, dsn: str, file: str) -> None:
        self._lists = lists
        self._changes = changes
        self._shown = {"dsn": dsn, "file": file, "version": __version__, "levels": list(LEVELS)}
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self._templates.filters["visible"] = visible
        self._templates.globals.update(
            ago=pages.ago,
            clock=pages.clock,
            grouped=pages.grouped,
            link=pages.link,
            sparkline=pages.sparkline,
        )
        self._streams = 0

    def problems(self, request: Request) -> Response:
        after = _query(request, "after")
        page = self._lists.problems(after)
        older = pages.link("/", after=page.after) if page.after else ""
        return self._page("problems", "problems", page=page, older=older, after=after)

    def problem(self, request: Request) -> Response:
        number, after = int(request.path_params["number"]), _query(request, "after")
        problem = self._lists.problem(number) if number < 1 << 62 else None
        if problem is None:
            raise HTTPException(404)
        page = self._lists.timeline(problem=number, after=after)
        older = pages.link(f"/problems/{number}", after=page.after) if page.after else ""
        return self._page("problem", "problems", problem=problem, page=page, older=older)

    def users(self, request: Request) -> Response:
        page = self._lists.users(_query(request, "after"))
        older = pages.link("/users", after=page.after) if page.after else ""
        return self._page("users", "users", page=page, older=older)

    def user(self, request: Request) -> Response:
        identity, after = request.query_params.get("of", ""), _query(request, "after")
        user = self._lists.user(identity) if identity else None
        if user is None:
            raise HTTPException(404)
        page = self._lists.timeline(identity=identity, after=after)
        older = pages.link("/user", of=identity, after=page.after) if page.after else ""
        return self._page("user", "users", user=user, page=page, older=older)

    def reports(self, request: Request) -> Response:
        of, level, after = (_query(request, name) for name in ("of", "level", "after"))
        level = level if level in LEVELS else ""
        identity = "" if of == "nobody" else None
        page = self._lists.timeline(identity=identity, level=level, after=after)
        older = pages.link("/reports", of=of, level=level, after=page.after) if page.after else ""
        return self._page(
            "reports",
            "reports",
            page=page,
            older=older,
            level=level,
            after=after,
            of_nobody=identity == "",
        )

    def report(self, request: Request) -> Response:
        event_id = request.path_params["event_id"]
        found = self._lists.report(event_id)
        if found is None:
            raise HTTPException(404)
        return self._page(
            "report",
            "reports",
            report=pages.show(found.event),
            event_id=event_id,
            problem=found.problem,
            newer=found.newer,
            older=found.older,
        )

    def raw(self, request: Request) -> Response:
        found = self._lists.report(request.path_params["event_id"])
        if found is None:
            raise HTTPException(404)
        text = json.dumps(found.event, indent=2, ensure_ascii=True)
        return Response(text, media_type="application/json", headers={"Cache-Control": "no-store"})

    def search(self, request: Request) -> Response:
        text = _query(request, "q").strip()
        found = self._lists.search(text) if text else None
        return self._page("search", "", q=text, found=found)

    async def live(self, request: Request) -> Response:
        if self._streams >= _MAX_STREAMS:
            raise HTTPException(503, "as many pages as can be are live")
        try:
            after = int(request.query_params.get("after", "0"))
        except ValueError:
            after = self._changes.newest
        return StreamingResponse(
            self._stream(after),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )

    async def _stream(self, seen: int) -> AsyncIterator[str]:
        """Yield an event whenever there are new reports, and now and then a sign of life."""
        self._streams += 1
        quiet = 0.0
        try:
            yield "retry: 2000\n\n"
            while not self._changes.is_over:
                if self._changes.newest > seen:
                    seen, quiet = self._changes.newest, 0.0
                    yield f"event: reports\ndata: {seen}\n\n"
                elif quiet >= _KEEPALIVE_SECONDS:
                    quiet = 0.0
                    yield ": still here\n\n"
                await asyncio.sleep(_POLL_SECONDS)
                quiet += _POLL_SECONDS
        finally:
            self._streams -= 1

    async def refuse(self, _request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return self._error(status, _TITLES.get(status, "That did not work"), "")

    async def fail(self, _request: Request, error: Exception) -> Response:
        return self._error(503, "The file cannot be read now", str(error))

    def _error(self, status: int, title: str, detail: str) -> Response:
        template = self._templates.get_template("error.html")
        text = template.render(status=status, title=title, detail=detail, version=__version__)
        return HTMLResponse(text, status, headers={"Cache-Control": "no-store"})

    def _page(self, name: str, tab: str, **parts: Any) -> Response:
        totals = self._lists.totals()
        template = self._templates.get_template(f"{name}.html")
        text = template.render(tab=tab, totals=totals, **self._shown, **parts)
        # What SDKs send may hold lone surrogates, which no page can.
        body = text.encode("utf-8", "replace")
        return HTMLResponse(body, headers={"Cache-Control": "no-store"})


def _query(request: Request, name: str) -> str:
    return request.query_params.get(name, "")[:_MAX_QUERY]


class _Receiver:
    """The DSN: takes what SDKs send, and answers as servers of the protocol do."""

    def __init__(self, intake: Intake, key: str) -> None:
        self._intake = intake
        self._key = key

    async def envelope(self, request: Request) -> Response:
        return await self._serve(request, self._take_envelope)

    async def store(self, request: Request) -> Response:
        return await self._serve(request, self._take_event)

    async def _serve(self, request: Request, take: Callable[[bytes], str | None]) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=200, headers=_PREFLIGHT)
        try:
            body = await _body(request)
            event_id = await run_in_threadpool(self._checked, request, body, take)
        except RefusedError as refusal:
            return _refused(refusal.status, refusal.detail)
        except sqlite3.Error:
            return _refused(503, "the file cannot be written now", {"Retry-After": "5"})
        return JSONResponse({} if event_id is None else {"id": event_id}, headers=_CORS)

    def _checked(
        self, request: Request, body: bytes, take: Callable[[bytes], str | None]
    ) -> str | None:
        body = decompressed(body, request.headers.get("content-encoding", ""))
        auth = request.headers.get("x-sentry-auth") or request.headers.get("authorization", "")
        key = sent_key(auth, request.query_params.get("sentry_key", ""), body)
        if not key:
            raise RefusedError(401, "missing authorization: the DSN's key came along nowhere")
        if not hmac.compare_digest(key.encode(), self._key.encode()):
            raise RefusedError(403, "another key: use the DSN that the inspector printed")
        return take(body)

    def _take_envelope(self, body: bytes) -> str | None:
        event_id = None
        for event in events_of_envelope(body):
            self._intake.keep(event)
            event_id = event.event_id
        return event_id

    def _take_event(self, body: bytes) -> str | None:
        event = event_of(body)
        self._intake.keep(event)
        return event.event_id


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > MAX_BODY:
            raise RefusedError(413, f"the body is larger than {MAX_BODY >> 20} MiB")
    return b"".join(parts)


def _refused(status: int, detail: str, more: dict[str, str] | None = None) -> Response:
    headers = {**_CORS, "X-Sentry-Error": detail, **(more or {})}
    return JSONResponse({"detail": detail, "causes": []}, status, headers=headers)
