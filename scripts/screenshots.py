"""Take the pictures of the inspector that the documentation shows, of the demonstration's reports.

    python scripts/screenshots.py                 # runs the demonstration
    python scripts/screenshots.py reports.db      # of another file

Needs chromium, the extra `inspector`, playwright, and what the demonstration needs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.sync_api import sync_playwright

from usercontext.inspector.server import Inspector

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
SIZE = {"width": 1180, "height": 640}
FLAGS = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]


def _reports() -> Path:
    """Run the demonstration, and return the file that it keeps."""
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--requests", "60"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    kept = re.search(r"inspect (/.*reports\.db)$", done.stdout, re.MULTILINE)
    if kept is None:
        raise SystemExit(f"the demonstration names no file:\n{done.stdout}")
    return Path(kept[1])


def _take(page: Any, url: str) -> None:
    """Take the list of problems, and the newest report of a customer."""
    page.goto(url)
    page.wait_for_selector(".problems .row")
    page.wait_for_selector("#live:not([hidden])")
    page.screenshot(path=IMAGES / "inspector-problems.png", clip={"x": 0, "y": 0, **SIZE})
    page.goto(f"{url}users")
    page.locator("a.title").first.click()
    page.locator(".reports a.title").first.click()
    page.wait_for_selector(".steps")
    page.wait_for_selector("#live:not([hidden])")
    clip = {"x": 0, "y": 0, "width": SIZE["width"], "height": 900}
    page.screenshot(path=IMAGES / "inspector-report.png", clip=clip, full_page=True)


@contextmanager
def _inspecting(path: Path) -> Iterator[str]:
    """Run an inspector, which shows a name that is the same everywhere; give where it answers."""
    inspector = Inspector(str(path))
    inspector.file = "reports.db"
    thread = threading.Thread(target=inspector.run)
    thread.start()
    time.sleep(1.0)  # until the reports are read in
    try:
        yield inspector.url
    finally:
        inspector.stop()
        thread.join()


def main() -> int:
    """Take both pictures; return 0."""
    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("chromium is not installed")
    path = Path(sys.argv[1]) if sys.argv[1:] else _reports()
    IMAGES.mkdir(exist_ok=True)
    with _inspecting(path) as url, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=FLAGS)
        _take(browser.new_page(viewport=SIZE), url)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
