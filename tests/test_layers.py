"""Imports point one way: a module knows those above it in `LAYERS`, and none below."""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import usercontext

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(usercontext.__file__).parent

# From what knows nothing to what knows all. A new module has its place here, and imports only
# from earlier lines or its own; a package stands for all that is in it.
LAYERS = [
    # words, the place where failures are logged, and the reader of scopes and environs
    ["_version", "exceptions", "diagnostics", "source", "checks", "optional"],
    # rules: no I/O, no framework, no request in sight
    ["accounts", "address", "event_loop", "extra_values"],
    ["user"],
    ["types"],
    ["carried", "privacy"],
    ["request"],
    # the request's record, and the configured pipeline
    ["core"],
    # who calls us
    ["asgi", "wsgi"],
    ["frameworks", "resolvers"],
    # whom we call
    ["clients"],
    ["sentry"],
    # all of it together
    ["initialise"],
    # where the user goes on to
    ["jobs", "services", "calls"],
    [""],
    ["inspector"],
    ["testing", "cli", "__main__"],
]
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}

# What is not of the standard library, and the only files that may import it.
OPTIONAL = {
    "asgi": {"starlette"},
    "wsgi": {"werkzeug"},
    "calls.ariadne": {"ariadne", "graphql"},
    "calls.connectrpc": {"connectrpc"},
    "calls.fastmcp": {"fastmcp"},
    "calls.graphene": {"graphene", "graphql"},
    "calls.grpc": {"grpc"},
    "calls.mcp": {"mcp"},
    "calls.socketio": {"socketio"},
    "calls.strawberry": {"strawberry"},
    "carried": {"itsdangerous"},
    "event_loop": {"gevent", "trio"},
    "frameworks.aiohttp": {"aiohttp"},
    "frameworks.blacksheep": {"blacksheep"},
    "frameworks.bottle": {"bottle"},
    "frameworks.channels": {"django"},
    "frameworks.connexion": {"connexion", "starlette"},
    "frameworks.django.apps": {"django"},
    "frameworks.django.checks": {"django"},
    "frameworks.django.configuration": {"django"},
    "frameworks.django.impersonation": {"django"},
    "frameworks.django.middleware": {"django", "asgiref"},
    "frameworks.django.signals": {"django"},
    "frameworks.django.users": {"django", "asgiref"},
    "frameworks.django_bolt": {"django_bolt"},
    "frameworks.emmett": {"emmett"},
    "frameworks.falcon": {"falcon"},
    "frameworks.fastapi": {"fastapi"},
    "frameworks.flask": {"flask", "flask_login"},
    "frameworks.litestar": {"litestar"},
    "frameworks.pyramid": {"pyramid"},
    "frameworks.quart": {"quart", "werkzeug"},
    "frameworks.robyn": {"robyn"},
    "frameworks.sanic": {"sanic"},
    "frameworks.starlette": {"starlette"},
    "frameworks.tornado": {"tornado"},
    "jobs.celery": {"celery"},
    "jobs.rq": {"rq"},
    "jobs.dramatiq": {"dramatiq"},
    "jobs.arq": {"arq"},
    "jobs.taskiq": {"taskiq"},
    "jobs.huey": {"huey"},
    "jobs.procrastinate": {"procrastinate"},
    "jobs.saq": {"saq"},
    "jobs.django_tasks": {"django", "django_tasks"},
    "jobs.apscheduler": {"apscheduler"},
    "inspector.app": {"jinja2", "starlette"},
    "inspector.intake": {"brotli", "zstandard"},
    "inspector.server": {"uvicorn"},
    "resolvers.jwt": {"jwt"},
    "sentry.delivery.compression": {"isal", "zlib_ng"},
    "sentry.delivery.httpx_connection": {"httpx", "httpx2"},
    "sentry.delivery.postgres_engine": {"psycopg"},
    "sentry.delivery.redis_engine": {"redis"},
    "services.aiohttp": {"aiohttp"},
    "services.grpc": {"grpc"},
    "services.httpx": {"httpx", "httpx2"},
    "services.requests": {"requests"},
    "sentry.event.json_text": {"orjson"},
    "testing.pytest_plugin": {"pytest"},
}


def name_of(path: Path) -> str:
    """Name a module of ours by its dotted path below `usercontext`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(path: Path, *, for_types: bool = False) -> Iterator[str]:
    """Yield what a file imports when it is run, by full names, those of functions included.

    Those that only a type checker follows are left out, unless asked for.
    """

    def statements(node: ast.AST) -> Iterator[ast.AST]:
        yield node
        inner = ast.iter_child_nodes(node)
        is_type_checking = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if isinstance(node, ast.If) and is_type_checking and not for_types:
            inner = iter(node.orelse)
        for child in inner:
            yield from statements(child)

    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours_among(names: Iterator[str]) -> set[str]:
    """Return the modules of ours that are meant by full names."""
    found = set()
    for name in names:
        package, _, rest = name.partition(".")
        if package == "usercontext":
            # `from usercontext.user import User` names a class: the module is one part shorter.
            found.add(rest if rest in MODULES else rest.rpartition(".")[0])
    return found


def level_of(module: str) -> int:
    """Return the line of `LAYERS` that a module stands in."""
    return LEVELS[module.partition(".")[0]]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_layer(module: str) -> None:
    """A new module is given its place in `LAYERS`."""
    assert module.partition(".")[0] in LEVELS


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_upwards(module: str) -> None:
    """A module imports from earlier layers or its own, inside functions and for types as well."""
    used = ours_among(imports_of(MODULES[module], for_types=True))
    assert {name for name in used if level_of(name) > level_of(module)} == set()


def test_there_are_no_cycles() -> None:
    """No module needs itself through others, not even inside a function or for its types."""
    graph = {
        module: ours_among(imports_of(path, for_types=True)) - {module}
        for module, path in MODULES.items()
    }
    TopologicalSorter(graph).prepare()


def test_packages_have_no_cycles_either() -> None:
    """No package needs itself through others, by whichever of its modules, or for its types."""
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        package = module.partition(".")[0]
        used = {name.partition(".")[0] for name in ours_among(imports_of(path, for_types=True))}
        graph[package] = graph.get(package, set()) | used - {package}
    TopologicalSorter(graph).prepare()


def test_the_root_has_few_modules() -> None:
    """What takes several modules is a package, so that a reader finds it by its subject."""
    root = {name for name in MODULES if "." not in name} - {"", "__main__", "_version"}
    packages = {name for name in root if MODULES[name].name == "__init__.py"}
    assert len(root - packages) <= 15
    assert len(packages) <= 13


@pytest.mark.parametrize("module", MODULES)
def test_private_names_stay_at_home(module: str) -> None:
    """A name with an underscore is its module's own, and a module with one its package's."""
    own = f"usercontext.{module}".rpartition(".")[0]
    names = [one for one in imports_of(MODULES[module], for_types=True) if "._" in one]
    ours = [one for one in names if one.startswith("usercontext.") and "__" not in one]
    assert {one for one in ours if one.partition("._")[0] != own or one.count("._") > 1} == set()


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith("clients.")])
def test_optional_packages_stay_in_their_files(module: str) -> None:
    """What is not of the standard library is imported where it is due, and nowhere else."""
    packages = {name.partition(".")[0] for name in imports_of(MODULES[module])}
    foreign = packages - sys.stdlib_module_names - {"usercontext"}
    assert foreign <= OPTIONAL.get(module, set())


# The doors by which requests come in. They say when a request begins, starts its response, fails
# and ends; what happens then stands in `core.lifecycle`, and for WSGI, once more, in `core.plain`.
DOORS = [
    name
    for name in MODULES
    if name.partition(".")[0] in ("asgi", "wsgi", "frameworks", "jobs", "calls")
]


@pytest.mark.parametrize("module", DOORS)
def test_doors_leave_the_steps_of_a_request_to_the_lifecycle(module: str) -> None:
    """No door points the context at a record, or closes one, by itself."""
    source = MODULES[module].read_text(encoding="utf-8")
    calls = [
        ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)
    ]
    entered = {call for call in calls if call.startswith("enter(") and call != "enter(None)"}
    assert entered == set()
    assert not [call for call in calls if "record.close(" in call or ".ended =" in call]


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("frameworks.")])
def test_frameworks_find_records_and_refuse_apps_in_one_place(module: str) -> None:
    """What every framework's module does in the same way stands in `frameworks.base`."""
    source = MODULES[module].read_text(encoding="utf-8")
    calls = [
        ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)
    ]
    finds = [one for one in calls if one.startswith("isinstance(") and "RequestRecord" in one]
    assert len(finds) == (module == "frameworks.base")
    assert "a UserContext already" not in source or module == "frameworks.base"


def test_the_record_is_data() -> None:
    """The record of a request calls nothing of settings, pipeline or resolver."""
    used = ours_among(imports_of(MODULES["core.record"]))
    assert {name for name in used if name.startswith("core.")} == set()
