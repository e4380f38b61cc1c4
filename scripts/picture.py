"""Draw the README's picture: one error of one request, reported without and with usercontext.

    python scripts/picture.py            # writes docs/images/one-report-{light,dark}.svg
    python scripts/picture.py FOLDER     # elsewhere

Both halves are what sentry-sdk would have sent, of the same FastAPI app and the same request.
Needs fastapi, httpx and sentry-sdk.
"""

import json
import subprocess
import sys
from html import escape
from pathlib import Path
from typing import Any

__all__ = ["draw", "main", "reported"]

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
COLOURS = {
    "light": {"page": "#ffffff", "card": "#f6f8fa", "line": "#d0d7de", "text": "#1f2328"}
    | {"weak": "#59636e", "bad": "#b42318", "good": "#116329"},
    "dark": {"page": "#0d1117", "card": "#151b23", "line": "#3d444d", "text": "#f0f6fc"}
    | {"weak": "#9198a1", "bad": "#ff8f87", "good": "#56d364"},
}
WIDTH, HEIGHT, CARD = 860, 254, 410
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"


def reported(*, with_ours: bool) -> dict[str, Any]:
    """Return the event that sentry-sdk sends of a failing request, in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--event", str(int(with_ours))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    event: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return event


def _event(*, with_ours: bool) -> dict[str, Any]:
    import sentry_sdk
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    events: list[Any] = []
    sentry_sdk.init(
        "https://key@sentry.example/1", before_send=lambda event, hint: events.append(event)
    )
    customers = {"Bearer ada's token": {"id": 1, "username": "ada", "email": "ada@shop.example"}}
    app = FastAPI()
    if with_ours:
        import usercontext
        from usercontext.clients.sentry_sdk import SentrySdkClient
        from usercontext.frameworks.fastapi import UserContext

        usercontext.init(None, clients=[SentrySdkClient()])
        UserContext(app, resolver=lambda request: customers.get(request.headers["authorization"]))

    @app.get("/orders/{number}")
    async def order(number: int) -> str:
        return {12: "a kettle"}[number]

    client = TestClient(app, raise_server_exceptions=False)
    client.get("/orders/7", headers={"authorization": "Bearer ada's token"})
    event: dict[str, Any] = events[0]
    return event


def _lines(event: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what the picture shows of an event: a colour's name and a text for each line."""
    error = event["exception"]["values"][-1]
    frame = error["stacktrace"]["frames"][-1]
    user = event.get("user") or {}
    shown = [f"  {name}: {user[name]}" for name in ("id", "username", "email") if name in user]
    request = event["request"]
    path = request["url"].removeprefix("http://testserver")
    return [
        ("text", f"{error['type']}: {error['value']}"),
        ("weak", f"  in {frame['function']}()  {frame['context_line'].strip()}"),
        ("text", f"{request['method']} {path}"),
        ("good", "user") if shown else ("bad", "user: nobody"),
        *[("good", line) for line in shown],
    ]


def _card(left: int, title: str, event: dict[str, Any], colours: dict[str, str]) -> str:
    parts = [
        f'<text x="{left}" y="28" fill="{colours["weak"]}">{escape(title)}</text>',
        f'<rect x="{left}" y="42" width="{CARD}" height="{HEIGHT - 54}" rx="8" '
        f'fill="{colours["card"]}" stroke="{colours["line"]}"/>',
    ]
    for number, (colour, text) in enumerate(_lines(event)):
        y = 72 + 24 * number
        parts.append(
            f'<text x="{left + 18}" y="{y}" fill="{colours[colour]}" xml:space="preserve">'
            f"{escape(text)}</text>"
        )
    return "\n".join(parts)


def draw(before: dict[str, Any], after: dict[str, Any], theme: str) -> str:
    """Return the picture of two events as SVG."""
    colours = COLOURS[theme]
    title = "One error of one request: without usercontext its report names nobody, with it ada"
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} \
{HEIGHT}" role="img" aria-label="{title}" font-family="{FONT}" font-size="14">
<title>{title}</title>
<rect width="{WIDTH}" height="{HEIGHT}" fill="{colours["page"]}"/>
{_card(10, "before", before, colours)}
{_card(WIDTH - CARD - 10, "after", after, colours)}
</svg>
"""


def main(arguments: list[str]) -> int:
    """Write both pictures; return 0."""
    if arguments[:1] == ["--event"]:
        print(json.dumps(_event(with_ours=arguments[1] == "1"), default=str))
        return 0
    folder = Path(arguments[0]) if arguments else IMAGES
    before, after = reported(with_ours=False), reported(with_ours=True)
    for theme in COLOURS:
        (folder / f"one-report-{theme}.svg").write_text(draw(before, after, theme))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
