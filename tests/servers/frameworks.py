"""The frameworks of the matrix: an entry for each `apps/<name>_app.py`.

What a feature asks of the app is said at the top of `apps/scenes.py`. A scenario that a framework
has the feature for and cannot pass, for a reason that is not ours, is a `Limit` with that reason.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ASGI",
    "FRAMEWORKS",
    "OWN",
    "WSGI",
    "Framework",
    "Limit",
    "in_slice",
    "is_newer",
    "is_older",
    "release",
]


@dataclass(frozen=True)
class Limit:
    """Scenarios that cannot be run, and why: for the footnotes of the support table.

    Attributes:
        reason: what does not work, whose limit it is, and since when it is known.
        scenarios: the names of the functions in `scenarios`; all of them if empty.
        others: the frameworks (of a server) or servers (of a framework) that it is limited to;
            all of them if empty.
    """

    reason: str
    scenarios: frozenset[str]
    others: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Framework:
    """A framework's app, and which scenarios fit it.

    Attributes:
        name: `apps/<name>_app.py` has its `application`.
        interface: which servers can run it: `asgi`, `wsgi`, or a name of its own.
        needs: the modules that must be installed, the framework's own first.
        features: what the app offers.
        limits: what it cannot do nevertheless.
    """

    name: str
    interface: str
    needs: tuple[str, ...]
    features: frozenset[str]
    limits: tuple[Limit, ...] = ()

    def version(self) -> str:
        """Return the version that is installed."""
        return release(self.needs[0])


def release(module: str) -> str:
    """Return the name and the version of the installed package that has this module."""
    if importlib.util.find_spec(module) is None:
        return "not installed"
    for package in _packages().get(module, ()):
        return f"{package} {importlib.metadata.version(package)}"
    return f"Python {platform.python_version()}"


@functools.cache
def _packages() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def is_from(module: str, *version: int) -> bool:
    """Return whether a package is of this version, or of a later one."""
    numbers = release(module).rpartition(" ")[2].split(".")[: len(version)]
    return all(map(str.isdigit, numbers)) and tuple(map(int, numbers)) >= version


#: What every app has that is served over ASGI: take away what a framework cannot do.
ASGI = frozenset(
    {
        *("async", "threads", "streams", "sync_streams", "background", "middleware"),
        *("handlers", "handler500", "websockets", "lifespan", "in_process", "twice"),
        *("mounted_asgi", "mounted_wsgi"),
    }
)
#: What every app has that is served over WSGI.
WSGI = frozenset(
    {
        *("threads", "sync_streams", "plain_streams", "background", "middleware", "handlers"),
        *("handler500", "in_process", "twice", "mounted_wsgi", "raw"),
    }
)
#: What a framework with a server of its own may have, which neither interface describes.
OWN = frozenset(
    {"async", "threads", "streams", "background", "middleware", "handlers", "handler500"}
)

_STARLETTE = frozenset(
    {"background_tasks", "files", "outer_middleware", "outer_reporter", "wrapped"}
)

_WITH_TASKS = ASGI | {"background_tasks", "files"}

# Each of them seen without ours, too.
_SHARED_STATE = Limit(
    "gunicorn 26.2 hands all requests of its ASGI worker one `state`, of which the ASGI "
    "specification wants a copy for each; Litestar 2.25 keeps what it has read of a request there, "
    "and so answers every request as if it were the first, whoever sent it.",
    frozenset(),
    frozenset({"gunicorn-asgi"}),
)
_NO_SCHEME = Limit(
    "daphne 4.2 sends no `scheme` with a websocket, which the ASGI specification allows and "
    "Quart 0.22 needs.",
    frozenset({"websockets_change_their_user"}),
    frozenset({"daphne"}),
)
_WAITS = Limit(
    "Quart 0.23 waits for the client to go once it has answered, and gunicorn's ASGI worker, up to "
    "27.0, for the app to return before it closes a connection or reads on: neither goes first.",
    frozenset(),
    frozenset({"gunicorn-asgi"}),
)
_NO_END = Limit(
    "gunicorn 26.2 cancels the app when the client of a websocket has gone, and Quart 0.22 leaves "
    "the websocket's own task running then: it never ends.",
    frozenset({"websockets_change_their_user"}),
    frozenset({"gunicorn-asgi"}),
)
_NO_ERROR_PAGE = Limit(
    "uwsgi 2.0 raises a SystemError where an app hands it the error that it answers "
    "(`exc_info`, as PEP 3333 has it): Bottle 0.13 fails to make its error pages, and each such "
    "failure is reported beside the error, with the same user.",
    frozenset(
        {"unhandled_errors", "error_handlers_see_the_user", "wrapped_twice", "forked_workers"}
    ),
    frozenset({"uwsgi", "uwsgi-threads"}),
)

_NO_LIFESPAN = Limit(
    "daphne 4.2 sends no lifespan, without which Sanic 25.12 does not start.",
    frozenset(),
    frozenset({"daphne"}),
)

#: What those frameworks have besides.
_SELF = OWN | {"background_tasks", "files", "lifespan", "websockets"}


def _limits_of_quart() -> tuple[Limit, ...]:
    waits = (_WAITS,) if is_from("quart", 0, 23) else ()
    return (_NO_SCHEME, _NO_END, *waits)


FRAMEWORKS = {
    framework.name: framework
    for framework in (
        Framework("starlette", "asgi", ("starlette", "a2wsgi"), ASGI | _STARLETTE),
        Framework("fastapi", "asgi", ("fastapi", "a2wsgi"), ASGI | _STARLETTE | {"dependencies"}),
        Framework("litestar", "asgi", ("litestar", "a2wsgi"), _WITH_TASKS, (_SHARED_STATE,)),
        Framework("quart", "asgi", ("quart", "a2wsgi"), _WITH_TASKS, _limits_of_quart()),
        Framework("django_asgi", "asgi", ("django", "a2wsgi", "starlette"), ASGI | {"auser"}),
        Framework("flask", "wsgi", ("flask", "blinker"), WSGI | {"teardown"}),
        Framework("django_wsgi", "wsgi", ("django", "werkzeug"), WSGI),
        Framework(
            "falcon_asgi",
            "asgi",
            ("falcon", "a2wsgi"),
            (ASGI | {"background_tasks"}) - {"sync_streams"},
        ),
        Framework("falcon_wsgi", "wsgi", ("falcon", "werkzeug"), WSGI),
        Framework("pyramid", "wsgi", ("pyramid", "werkzeug"), WSGI),
        Framework("bottle", "wsgi", ("bottle", "werkzeug"), WSGI, (_NO_ERROR_PAGE,)),
        Framework(
            "aiohttp",
            "aiohttp",
            ("aiohttp",),
            (_SELF | {"outer_middleware", "outer_reporter", "twice"}) - {"handler500"},
        ),
        Framework("sanic", "sanic", ("sanic",), _SELF),
        Framework("tornado", "tornado", ("tornado",), _SELF - {"files"}),
        Framework("sanic_asgi", "asgi", ("sanic",), _SELF, (_NO_LIFESPAN,)),
        Framework(
            "blacksheep",
            "asgi",
            ("blacksheep", "a2wsgi"),
            (ASGI | {"background_tasks"}) - {"sync_streams"},
        ),
        Framework(
            "connexion",
            "asgi",
            ("connexion", "a2wsgi"),
            _WITH_TASKS - {"handler500", "websockets"},
        ),
        Framework(
            "emmett",
            "asgi",
            ("emmett", "a2wsgi", "starlette"),
            ASGI
            - {
                *("streams", "sync_streams", "background", "handler500", "websockets"),
                "lifespan",
            },
        ),
        Framework("robyn", "robyn", ("robyn",), frozenset({"async", "threads", "middleware"})),
        Framework(
            "django_bolt",
            "django_bolt",
            ("django_bolt",),
            frozenset({"async", "threads", "middleware"}),
        ),
        # The same stack around Flask, which it calls in threads of its own.
        Framework(
            "connexion_flask",
            "asgi",
            ("connexion", "a2wsgi", "flask"),
            (ASGI | {"files", "teardown"}) - {"async", "streams", "handler500", "websockets"},
        ),
    )
}

#: What needs newer packages than the other tests agree on, and is run in an environment of its own.
_NEWER = {"emmett", "robyn", "django_bolt"}
_NEWER_TOO = {"quart", "django_asgi", "django_wsgi"}


def is_newer(framework: str, server: str) -> bool:
    """Return whether a pair is run with the newest packages of all; some are run there alone."""
    on_gunicorn = framework in _EVERYWHERE and server.startswith("gunicorn-")
    return framework in _NEWER | _NEWER_TOO or on_gunicorn


def is_older(framework: str) -> bool:
    """Return whether a framework is run with the packages that the other tests agree on."""
    return framework not in _NEWER


#: The frameworks that the slice runs on every server, and the servers that it runs all others on.
_EVERYWHERE = {"starlette", "flask"}
_EVERYTHING = {
    *("uvicorn-httptools-asyncio", "gunicorn-gthread", "aiohttp", "sanic", "tornado"),
    *("robyn", "django_bolt"),
}


#: The scenarios that it leaves out: others show the same in less time.
_LONG = {"many_requests_on_fifty_connections"}


def in_slice(framework: str, server: str, scenario: str) -> bool:
    """Return whether a plain run of the tests runs this."""
    return scenario not in _LONG and (framework in _EVERYWHERE or server in _EVERYTHING)
