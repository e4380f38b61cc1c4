"""Check that every link within the built site leads to a page, and to a place on it.

    python scripts/check_links.py FOLDER

MkDocs checks the links between pages written by hand; this checks what it has made of them, with
the reference that is generated, its menus and its images.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page links to, and the places on it that can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.places: set[str] = {"", "__top"}
        self.feed(text)

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element leads to, and by what it can be reached."""
        named = dict(attrs)
        self.places.update(filter(None, (named.get("id"), named.get("name"))))
        self.links.update(filter(None, (named.get("href"), named.get("src"))))


def broken(folder: Path) -> list[str]:
    """Return a line for each link that leads nowhere."""
    pages = {path: Page(path.read_text()) for path in sorted(folder.rglob("*.html"))}
    return [
        f"{path.relative_to(folder)}: {link}"
        for path, page in pages.items()
        for link in sorted(page.links)
        if path.name != "404.html" and not _leads_somewhere(link, path, folder, pages)
    ]


def _leads_somewhere(link: str, path: Path, folder: Path, pages: dict[Path, Page]) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.is_relative_to(folder) or not target.exists():
        return False
    return target not in pages or unquote(parts.fragment) in pages[target].places


def main() -> int:
    """Print what is broken; return 1 if anything is."""
    folder = Path(sys.argv[1]).resolve()
    lines = broken(folder)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    count = sum(1 for _ in folder.rglob("*.html"))
    sys.stdout.write(f"{count} pages, {len(lines)} links that lead nowhere\n")
    return 1 if lines or not count else 0


if __name__ == "__main__":
    sys.exit(main())
