"""What the pages show, made ready for their templates; pure."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import groupby
from time import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from usercontext.inspector import report as shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usercontext.inspector.lists import Problem

__all__ = [
    "FrameGroup",
    "Shown",
    "Step",
    "ago",
    "clock",
    "grouped",
    "link",
    "show",
    "sparkline",
    "steps",
]

_BAR_WIDTH, _BAR_STEP, _HEIGHT = 4, 5, 24
_AGES = ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h"), (30 * 86_400, 86_400, "d"))


class Step(NamedTuple):
    """A box of the diagram that tells how an address was found."""

    name: str
    value: str
    note: str
    #: `taken`, `trusted`, `ignored`, `failed` or `plain`.
    state: str


class FrameGroup(NamedTuple):
    """Frames that follow each other, all of the app or all of libraries; the innermost first."""

    in_app: bool
    frames: list[shown.Frame]


class Shown(NamedTuple):
    """A report, read for its page."""

    title: str
    level: str
    when: float | None
    place: str
    facts: list[tuple[str, str]]
    is_named: bool
    identity: str
    name: str
    user: list[tuple[str, str]]
    address: str
    exceptions: list[shown.RaisedException]
    request: list[tuple[str, list[tuple[str, str]]]]
    tags: list[tuple[str, str]]
    steps: list[Step]
    withheld: list[shown.Withheld]


def show(event: Mapping[str, Any]) -> Shown:
    """Return what the page of a report shows."""
    user = shown.user_of(event)
    address = shown.client_address(event)
    return Shown(
        shown.title(event) or "(no text)",
        shown.level(event),
        shown.time_of(event),
        shown.place(event),
        list(_facts(event)),
        shown.has_user(user),
        shown.identity(user) if shown.has_user(user) else "",
        shown.username(user),
        shown.user_parts(event),
        address,
        shown.exceptions(event),
        shown.request_parts(event),
        _pairs(event.get("tags")),
        steps(shown.address_trace(event), address),
        shown.withheld(event),
    )


def _facts(event: Mapping[str, Any]) -> Any:
    sdk = shown.mapping(event, "sdk")
    runtime = shown.mapping(shown.mapping(event, "contexts"), "runtime")
    for name, value in (
        ("event", event.get("event_id")),
        ("transaction", event.get("transaction")),
        ("environment", event.get("environment")),
        ("release", event.get("release")),
        ("server", event.get("server_name")),
        ("runtime", _joined(runtime.get("name"), runtime.get("version"))),
        ("sent by", _joined(sdk.get("name"), sdk.get("version"))),
        ("logger", event.get("logger")),
    ):
        if isinstance(value, str) and value:
            yield name, shown.cut(value, 300)


def _joined(*parts: object) -> str:
    return " ".join(part for part in parts if isinstance(part, str))


def _pairs(tags: object) -> list[tuple[str, str]]:
    if isinstance(tags, dict):
        tags = list(tags.items())
    pairs = tags if isinstance(tags, list) else []
    return [
        (shown.cut(str(pair[0]), 100), shown.cut(str(pair[1]), 300))
        for pair in pairs[:100]
        if isinstance(pair, list | tuple) and len(pair) == 2
    ]


def grouped(frames: list[shown.Frame]) -> list[FrameGroup]:
    """Return frames from the innermost on, the libraries' together."""
    inward = groupby(reversed(frames), key=lambda frame: frame.in_app)
    return [FrameGroup(in_app, list(group)) for in_app, group in inward]


# -- how the address was found --


def steps(trace: shown.AddressTrace | None, address: str) -> list[Step]:
    """Return the way that the client's address took, from the client to the app."""
    if trace is None:
        return []
    found = address if trace.is_included and address else "not reported"
    if not trace.is_included:
        note = "include_ip is off"
    else:
        note = "anonymised" if trace.is_anonymized else ""
    app = Step("Your app", "", "", "plain")
    if trace.source == "peer":
        return [*_peer_steps(trace, found, note), app]
    return [*_header_steps(trace, found, note), app]


def _peer_steps(trace: shown.AddressTrace, found: str, note: str) -> list[Step]:
    if trace.reason == "no-peer":
        return [Step("Connection", "no address", "a unix socket, or none was given", "failed")]
    ignored = []
    if trace.reason == "untrusted-peer":
        why = "not read: the connection comes from no trusted proxy"
        ignored = [Step("Forwarding header", "ignored", why, "ignored")]
    return [*ignored, Step("Connection", found, note or "its own address", "taken")]


def _header_steps(trace: shown.AddressTrace, found: str, note: str) -> list[Step]:
    entry = f"entry {trace.hops} from the right" if trace.hops else "its value"
    if trace.reason == "ok":
        client = [Step("Client", found, note, "taken"), Step(trace.header, entry, "", "trusted")]
    else:
        why = {
            "malformed": "holds no address",
            "too-short": "has too few entries",
            "too-long": "is too long to be read",
        }.get(trace.reason, trace.reason)
        client = [
            Step("Client", "unknown", "no address can be trusted", "failed"),
            Step(trace.header, entry, why, "failed"),
        ]
    return [*client, Step("Connection", "a trusted proxy", "so its header is read", "trusted")]


# -- small things that templates ask for --


def sparkline(problem: Problem) -> tuple[str, str]:
    """Return two paths that draw a problem's sparkline: its bars, and where there are none.

    One element each, as a page has many sparklines.
    """
    most = max(problem.bars, default=0) or 1
    drawn: list[str] = []
    empty: list[str] = []
    for at, number in enumerate(problem.bars):
        height = max(1.5, round(number / most * (_HEIGHT - 2), 1)) if number else 1
        bar = f"M{at * _BAR_STEP} {_HEIGHT}v{-height}h{_BAR_WIDTH}v{height}z"
        (drawn if number else empty).append(bar)
    return "".join(drawn), "".join(empty)


def ago(timestamp: float | None) -> str:
    """Return how long ago something was, in one unit."""
    if timestamp is None:
        return "some time ago"
    age = time() - timestamp
    if age < 5:
        return "just now"
    for limit, unit, name in _AGES:
        if age < limit:
            return f"{int(age // unit)} {name} ago"
    return datetime.fromtimestamp(timestamp, UTC).astimezone().strftime("%d %b %Y")


def clock(timestamp: float | None) -> str:
    """Return a moment as the clock of this machine shows it."""
    if timestamp is None:
        return ""
    return datetime.fromtimestamp(timestamp, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def link(path: str, **query: object) -> str:
    """Return a link to a page of ours; what is empty is left out of its query."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path
