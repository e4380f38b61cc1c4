"""Runs the Python of a page as a reader would: block after block, in one module.

    python tests/snippets.py README.md

Functions called `test_*` are then run as pytest would run them, with `usercontext_recorder`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

from usercontext import init
from usercontext.testing import RecordingClient, reset

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(page: Path) -> ModuleType:
    """Run every Python block of a page, then its tests; return the module that they made."""
    module = ModuleType("page")
    sys.modules["page"] = module
    text = page.read_text()
    for block in _BLOCK.finditer(text):
        # Errors show the page's own line numbers.
        lines_before = text.count("\n", 0, block.start(1))
        exec(compile("\n" * lines_before + block[1], str(page), "exec"), vars(module))
    for name, value in list(vars(module).items()):
        if name.startswith("test_"):
            recorder = RecordingClient()
            init(client=recorder)
            value(recorder)
            reset()
    return module


if __name__ == "__main__":
    run(Path(sys.argv[1]).resolve())
