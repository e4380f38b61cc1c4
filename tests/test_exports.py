"""Every module says what is public in it, and every public name says what it is for."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import usercontext

ROOT = Path(usercontext.__file__).parent
# Parsed, not imported: this holds for modules whose optional package is missing, too.
TREES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(ROOT.rglob("*.py"))
    if path.name != "__main__.py"
}


def exported(tree: ast.Module) -> list[str]:
    """Return what a module lists in `__all__`."""
    node = definitions(tree).get("__all__")
    assert isinstance(node, (ast.Assign, ast.AnnAssign)), "the module has no __all__"
    assert node.value is not None
    return list(ast.literal_eval(node.value))


def definitions(tree: ast.Module) -> dict[str, ast.AST]:
    """Return what each name at the top of a module stands for."""
    found: dict[str, ast.AST] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.setdefault(node.name, node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update({alias.asname or alias.name: node for alias in node.names})
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.update({ast.unparse(target): node for target in targets})
    return found


def place(name: str) -> tuple[int, str]:
    """Order names as isort does: constants, classes, the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("module", TREES)
def test_modules_have_a_docstring(module: str) -> None:
    """Every module says what is in it."""
    assert ast.get_docstring(TREES[module])


@pytest.mark.parametrize("module", TREES)
def test_exports_are_sorted(module: str) -> None:
    """`__all__` is there, in order, and names nothing twice."""
    names = exported(TREES[module])
    assert names == sorted(set(names), key=place)


@pytest.mark.parametrize("module", TREES)
def test_exports_exist(module: str) -> None:
    """`__all__` names only what the module has."""
    assert set(exported(TREES[module])) <= definitions(TREES[module]).keys()


@pytest.mark.parametrize("module", TREES)
def test_exports_have_docstrings(module: str) -> None:
    """Every public class and function has a docstring, and so has every public method of it."""
    found = definitions(TREES[module])
    nodes = [found[name] for name in exported(TREES[module])]
    methods = [inner for node in nodes if isinstance(node, ast.ClassDef) for inner in node.body]
    bare = [
        node.name
        for node in nodes + methods
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and not (node.name.startswith("_") or ast.get_docstring(node))
        and "overload" not in map(ast.unparse, node.decorator_list)
    ]
    assert bare == []


@pytest.mark.parametrize("name", usercontext.__all__)
def test_the_package_has_what_it_exports(name: str) -> None:
    """Everything that the package lists can be had from it."""
    assert getattr(usercontext, name) is not None


def test_the_contract_is_exported() -> None:
    """The names that the documentation promises are all there."""
    promised = """RequestData User get_user set_user update_user use_user isolation_scope
    resolve_user bind init capture_exception capture_message flush close set_request_data
    UserContextError InvalidUserError ConfigurationError InvalidDsnError MissingDependencyError"""
    assert set(promised.split()) <= set(usercontext.__all__)


#: What plain English says in another way: "the app's" for "that of the app", "the user that" for
#: "whom", "again" for "anew", and what a thing is not by a verb.
INVERTED = re.compile(
    r"\b(?:that of|those of|whom|anew)\b"
    r"|(?<!there )\b(?:is|are) no (?!longer|more|less|such|other)\w",
    re.IGNORECASE,
)


def test_the_english_is_plain() -> None:
    """A reader whose mother tongue is another one understands nearly every sentence at once."""
    found = []
    for module in TREES:
        text = " ".join((ROOT / module).read_text(encoding="utf-8").replace("#", " ").split())
        found += [(module, text[one.start() : one.end() + 30]) for one in INVERTED.finditer(text)]
    assert len(found) <= 25, found
