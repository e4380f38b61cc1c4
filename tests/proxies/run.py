"""Runs each proxy, and writes what it sent and what was reported into docs/client-ip.md.

python -m tests.proxies.run
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.proxies.programs import PROXIES, Proxy
from tests.proxies.running import CLIENT, FORGED, REQUESTS, Stack, StartError, ask

GUIDE = Path(__file__).parents[2] / "docs" / "client-ip.md"
TRUST = {"trusted_proxies": ["127.0.0.1"]}
#: What stands for addresses of a run.
WORDS = {CLIENT: "CLIENT", FORGED: "FORGED"}
_HEAD = """\
| proxy | configured with | to nothing | to `X-Forwarded-For: FORGED` | passes on | reported |
| --- | --- | --- | --- | --- | --- |
"""


def row_of(proxy: Proxy, stack: Stack) -> str:
    """Return the table's row of a proxy that runs before uvicorn."""
    place = stack.proxy(proxy, stack.server("uvicorn", TRUST))
    answers = {name: ask(place, headers) for name, headers in REQUESTS.items()}
    right = sum(answer["address"] == CLIENT for answer in answers.values())
    passed = [
        f"`{name}`"
        for name in ("Forwarded", "X-Real-IP", "X_Forwarded_For")
        if FORGED in str(answers[name]["received"])
    ]
    cells = [
        f"{proxy.title} {proxy.told_version()}",
        proxy.needed or "nothing",
        written(answers["nothing"]),
        written(answers["X-Forwarded-For"]),
        ", ".join(passed) or "nothing",
        f"the client's, {right} of {len(REQUESTS)} requests",
    ]
    return f"| {' | '.join(cells)} |"


def written(answer: dict[str, Any]) -> str:
    """Return the lines of X-Forwarded-For that reached the app."""
    lines = [value for name, value in answer["received"] if name == "x-forwarded-for"]
    for address, word in WORDS.items():
        lines = [line.replace(address, word) for line in lines]
    return "; ".join(f"`{line}`" for line in lines) or "nothing"


def main() -> None:
    """Run all that are installed, and write the table."""
    rows: list[str] = []
    with Stack() as stack:
        for proxy in PROXIES.values():
            if proxy.found() is None:
                raise StartError(f"{proxy.title} is not installed: the table needs all of them")
            rows.append(row_of(proxy, stack))
    text = GUIDE.read_text(encoding="utf-8")
    table = f"\\1\n{_HEAD}" + "\n".join(rows) + "\n\\2"
    text = re.sub(r"(<!-- made by [^\n]* -->)\n.*?(<!-- end -->)", table, text, flags=re.DOTALL)
    GUIDE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
