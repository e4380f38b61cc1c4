"""Add to the documentation's site what stands elsewhere in the project, and order its pages.

MkDocs calls the functions `on_...` as it builds: see `mkdocs.yml`. Nothing has to be listed by
hand: a new page, example or public module is on the site as soon as it is there.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "usercontext"

# Pages that stand in the root, where everybody looks for them.
IN_ROOT = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "benchmarks/README.md": "project/benchmarks.md",
}
START = ["index.md", "tutorial.md", "why.md", "compared.md"]
FOLDERS = {
    "Frameworks": "frameworks",
    "Reporting clients": "clients",
    "Background jobs": "jobs",
    "Calls": "calls",
    "Recipes": "recipes",
    "Examples": "examples",
    "API": "api",
    "Project": "project",
}
# Modules that apps import from, each a page of its own.
MODULES = ["asgi", "wsgi", "types", "exceptions", "testing", "carried", "privacy", "resolvers"]
ROOMS = ["frameworks", "clients", "jobs", "calls", "services"]
LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root, of the examples and of the API."""
    pages = {target: (ROOT / name).read_text() for name, target in IN_ROOT.items()}
    examples = sorted((ROOT / "examples").glob("*/README.md"))
    pages["examples/index.md"] = _list_of(examples)
    for example in examples:
        pages[f"examples/{example.parent.name}.md"] = _example(example)
    for module in _public_modules():
        pages[f"api/{module}.md"] = f"# {module}\n\n::: {module}\n"
    for target, text in pages.items():
        files.append(File.generated(config, target, content=text))
    config.nav = _nav([file.src_uri for file in files.documentation_pages()])
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links that leave the folder of the docs lead to where that page is on the site."""
    here = next((name for name, to in IN_ROOT.items() if to == page.file.src_uri), None)
    example = re.fullmatch(r"examples/(.+)\.md", page.file.src_uri)
    if example:
        here = f"examples/{example[1]}/README.md"
    here = here or f"docs/{page.file.src_uri}"
    return LINK.sub(lambda link: _on_site(link[1], here, page.file.src_uri), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Write in words what docstrings say in Sphinx's: since when a name is there."""
    return re.sub(r"\.\. versionadded:: ([\w.]+)", r"<em>New in version \1.</em>", html)


def _list_of(examples: list[Path]) -> str:
    """Return the page that leads to each example by its title."""
    titles = {path.parent.name: path.read_text().splitlines()[0][2:] for path in examples}
    lines = [f"- [{title}]({name}.md)" for name, title in titles.items()]
    return "\n".join(["# Examples", "", "Each runs as it stands, and has its tests.", "", *lines])


def _example(readme: Path) -> str:
    """Return an example's page: what it is, and all of its code."""
    parts = [readme.read_text()]
    for name in ("app.py", "test_app.py"):
        path = readme.with_name(name)
        if path.exists():
            parts.append(f"## {name}\n\n```python\n{path.read_text()}```\n")
    return "\n".join(parts)


def _public_modules() -> list[str]:
    found = ["usercontext", *(f"usercontext.{name}" for name in MODULES)]
    found.append("usercontext.sentry")
    for room in ROOMS:
        for path in sorted((SOURCE / room).iterdir()):
            is_module = path.suffix == ".py" or (path / "__init__.py").exists()
            if is_module and path.stem[0] != "_" and _is_imported_by_apps(room, path.stem):
                found.append(f"usercontext.{room}.{path.stem}")
    return found


def _is_imported_by_apps(room: str, name: str) -> bool:
    """Clients stand beside what they are made of, and each has a page."""
    if room == "clients":
        page = ROOT / "docs" / room / f"{name.replace('_', '-')}.md"
        return name == "base" or page.exists()
    return name != "base"


def _nav(pages: list[str]) -> list[Any]:
    guides = sorted(page for page in pages if "/" not in page and page not in START)
    nav: list[Any] = [{"Start": START}, {"Guides": guides}]
    for title, folder in FOLDERS.items():
        within = sorted(page for page in pages if page.startswith(f"{folder}/"))
        nav.append({title: within})
    return nav


def _on_site(link: str, here: str, page: str) -> str:
    """Return where a link of a file of the project leads to, seen from a page of the site."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(here), link))
    if target.startswith("docs/"):
        found = target.removeprefix("docs/")
    elif target.startswith("examples/"):
        parts = target.split("/")
        found = f"examples/{parts[1]}.md"
    elif target == "examples":
        found = "examples/index.md"
    else:
        found = IN_ROOT.get(target, "")
    if not found:
        return link
    return posixpath.relpath(found, posixpath.dirname(page) or os.curdir)
