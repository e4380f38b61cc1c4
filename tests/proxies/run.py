"""Runs each proxy, and writes what it sent and what was reported into docs/client-ip.md.

python -m tests.proxies.run
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.proxies.programs import CONNECTIONS, PROXIES, SERVERS, Proxy
from tests.proxies.running import CLIENT, FORGED, REQUESTS, Stack, StartError, ask

GUIDE = Path(__file__).parents[2] / "docs" / "client-ip.md"
TRUST = {"trusted_proxies": ["127.0.0.1"]}
#: What stands for addresses of a run.
WORDS = {CLIENT: "CLIENT", FORGED: "FORGED"}
_HEAD = """\
| proxy | configured with | to nothing | to `X-Forwarded-For: FORGED` | passes on | reported |
| --- | --- | --- | --- | --- | --- |
"""
_HEAD_2 = """\
| in front | configured with | the client's, of so many requests |
| --- | --- | --- |
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


def connection_row_of(proxy: Proxy, stack: Stack) -> str:
    """Return the row of what hands on the connection, before each server that understands it."""
    shown: list[str] = []
    for name in (name for name in SERVERS if "PROXY" in name):
        if (proxy.program, name) == ("haproxy", "uWSGI, PROXY"):
            continue  # it knows version 1 alone
        place = stack.proxy(proxy, stack.server(name, {}))
        tls = proxy.program != "haproxy"
        found = [ask(place, headers, tls=tls)["address"] for headers in REQUESTS.values()]
        shown.append(f"{name.partition(',')[0]}: {found.count(CLIENT)} of {len(REQUESTS)}")
    return f"| {proxy.title} {proxy.told_version()} | {proxy.needed} | {', '.join(shown)} |"


def written(answer: dict[str, Any]) -> str:
    """Return the lines of X-Forwarded-For that reached the app."""
    lines = [value for name, value in answer["received"] if name == "x-forwarded-for"]
    for address, word in WORDS.items():
        lines = [line.replace(address, word) for line in lines]
    return "; ".join(f"`{line}`" for line in lines) or "nothing"


def main() -> None:
    """Run all that are installed, and write the table."""
    with Stack() as stack:
        for proxy in (*PROXIES.values(), *CONNECTIONS.values()):
            if proxy.found() is None:
                raise StartError(f"{proxy.title} is not installed: the table needs all of them")
        rows = [row_of(proxy, stack) for proxy in PROXIES.values()]
        connections = [connection_row_of(proxy, stack) for proxy in CONNECTIONS.values()]
    text = GUIDE.read_text(encoding="utf-8")
    text = _with_table(text, "made", _HEAD, rows)
    GUIDE.write_text(_with_table(text, "connections made", _HEAD_2, connections), encoding="utf-8")


def _with_table(text: str, mark: str, head: str, rows: list[str]) -> str:
    table = f"\\1\n{head}" + "\n".join(rows) + "\n\\2"
    pattern = rf"(<!-- {mark} by [^\n]* -->)\n.*?(<!-- end -->)"
    return re.sub(pattern, table, text, count=1, flags=re.DOTALL)


if __name__ == "__main__":
    main()
