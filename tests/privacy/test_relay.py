"""Rules of ours beside the same rules in the real Relay: what it hides, we hide at least."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usercontext.privacy import Scrubber

if TYPE_CHECKING:
    from collections.abc import Iterator

processing = pytest.importorskip(
    "sentry_relay.processing", reason="sentry-relay is not installed: nothing to compare with"
)

KEY = b"sixteen bytes ok"
ROWS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "vectors" / "relay_scrubbing.jsonl")
    .read_text()
    .splitlines()
]


def our_rules(pii: dict[str, Any]) -> list[tuple[str, str]] | None:
    """Return Relay's rules as ours; None for what only Relay has: rules of one's own, filters."""
    rules = []
    for selector, names in pii["applications"].items():
        for name in names:
            if name not in RULES:
                return None
            rules.append((selector, RULES[name]))
    return rules


RULES = {
    "@anything:filter": "replace",
    **{
        f"@{pattern}:{method}": method if pattern == "anything" else f"@{pattern}:{method}"
        for pattern in ("anything", "ip", "email")
        for method in ("remove", "mask", "replace", "hash")
    },
}
# The server computes the unique user, from what it is sent: no rule of ours can be about it.
COMPARED = [
    row
    for row in ROWS
    if "pii" in row["opts"]
    and our_rules(row["opts"]["pii"])
    and row["opts"]["pii"]["applications"].keys() != {"$user.sentry_user"}
]


def as_stored(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event as the server stores it: of its many fields those that the event has."""
    stored = processing.StoreNormalizer().normalize_event(copy.deepcopy(event))
    assert "errors" not in stored
    return {name: stored.get(name) for name in event if name not in ("platform", "sdk")}


def as_sent(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event of ours as stored: no address is inferred, as our client asks."""
    settings = {"infer_ip": "never"}
    return as_stored(
        {**event, "sdk": {"name": "usercontext", "version": "0", "settings": settings}}
    )


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every value that holds no others, with its path; pairs count as an object."""
    if (
        isinstance(value, list)
        and value
        and all(
            isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) for item in value
        )
    ):
        value = dict(value)
    if isinstance(value, dict):
        for key, inner in value.items():
            if key != "_meta":  # Relay's account of what it did
                yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from leaves(inner, (*path, str(at)))
    elif value not in (None, ""):  # the server stores no empty texts
        yield path, value


def unhidden(event: dict[str, Any], plain: dict[str, Any]) -> set[tuple[str, ...]]:
    """Return where an event still says what it said without any rule."""
    said = dict(leaves(plain))
    return {path for path, value in leaves(event) if path in said and said[path] == value}


@pytest.mark.parametrize("row", COMPARED, ids=[row["n"] for row in COMPARED])
def test_relay_hides_no_more(row: dict[str, Any]) -> None:
    """Whatever Relay's rule hides is hidden by the same rule of ours."""
    plain = as_stored(row["in"])
    scrubber = Scrubber(our_rules(row["opts"]["pii"]) or (), hash_key=KEY)
    ours = as_sent(scrubber.event(row["in"]))
    assert unhidden(ours, plain) <= unhidden(row["out"], plain)


SAME = [
    row
    for row in COMPARED
    if not any(word in row["n"] for word in ("hash", "/ip-only-user", "auto+", "/$user.**"))
    and not row["n"].endswith(("/$user", "$user.plan", "/$user.ip_address"))
]


@pytest.mark.parametrize("row", SAME, ids=[row["n"] for row in SAME])
def test_same_as_relay(row: dict[str, Any]) -> None:
    """Where docs/privacy.md lists no difference, the text that is left is Relay's to the letter."""
    scrubber = Scrubber(our_rules(row["opts"]["pii"]) or (), hash_key=KEY)
    ours = dict(leaves(as_sent(scrubber.event(row["in"]))))
    theirs = dict(leaves(row["out"]))
    for path in (("user", "sentry_user"), ("user", "ip_address")):
        # Relay computes the first before its rules; of the second see docs/privacy.md.
        ours.pop(path, None)
        theirs.pop(path, None)
    assert ours == theirs


def test_never_store_ip_is_as_strict_as_the_server() -> None:
    """never_store_ip hides whatever "Prevent Storing of IP Addresses" does, and tags as well."""
    rows = [row for row in ROWS if row["opts"].get("scrub", {}).get("scrubIpAddresses")]
    assert rows
    for row in rows:
        plain = as_stored(row["in"])
        ours = as_sent(Scrubber(never_store_ip=True).event(row["in"]))
        secrets = {path for path, value in leaves(row["out"]) if value == "[Filtered]"}
        assert unhidden(ours, plain) - secrets <= unhidden(row["out"], plain)
        assert "203.0.113.7" not in json.dumps(ours)


HOLES = [
    ("the unique user", "$user.ip_address", {"user": {"ip_address": "203.0.113.7"}}),
    ("tags", "@ip", {"tags": {"a": "203.0.113.7"}}),
    ("transaction", "@ip", {"transaction": "/of/203.0.113.7"}),
    ("URL", "@ip", {"request": {"url": "http://x/203.0.113.7"}}),
    ("extra keys by name", "$user.last_ip", {"user": {"id": "1", "last_ip": "203.0.113.7"}}),
]


@pytest.mark.parametrize(("rule", "event"), [row[1:] for row in HOLES], ids=[r[0] for r in HOLES])
def test_holes_of_relay_are_closed(rule: str, event: dict[str, Any]) -> None:
    """What Relay leaves in is gone from what it stores of ours."""
    event = {"platform": "python", **event}
    applications = {"**": ["@ip:remove"]} if rule == "@ip" else {rule: ["@anything:remove"]}
    theirs = processing.pii_strip_event({"applications": applications}, as_stored(event))
    assert "203.0.113.7" in json.dumps(theirs)
    assert "203.0.113.7" not in json.dumps(as_sent(Scrubber([rule]).event(event)))


TEXTS = st.sampled_from([
    "203.0.113.7", "from 203.0.113.7:80", "::1", "2001:db8::1 too", "jane@example.com", "plain",
    "mail jane@example.com or a.b+c@d.example.org", "v1.2.3.4.5", "at 12:34:56", "",
])  # fmt: skip
EVENTS = st.fixed_dictionaries(
    {"platform": st.just("python")},
    optional={
        "user": st.fixed_dictionaries(
            {"id": st.just("42")},
            optional={
                "username": TEXTS, "email": TEXTS, "ip_address": st.just("203.0.113.7"),
                "data": st.dictionaries(st.sampled_from(["a", "b"]), TEXTS),
            },
        ),
        "request": st.fixed_dictionaries(
            {},
            optional={
                "env": st.fixed_dictionaries({"REMOTE_ADDR": TEXTS}),
                "headers": st.dictionaries(st.sampled_from(["X-A", "Accept"]), TEXTS),
                "data": st.dictionaries(st.sampled_from(["a", "b"]), TEXTS),
                "cookies": st.dictionaries(st.sampled_from(["a", "b"]), TEXTS),
            },
        ),
        "extra": st.dictionaries(st.sampled_from(["a", "b"]), TEXTS | st.lists(TEXTS, max_size=2)),
        "logentry": st.fixed_dictionaries({"formatted": TEXTS}),
        "breadcrumbs": st.lists(st.fixed_dictionaries({"message": TEXTS}), max_size=2).map(
            lambda crumbs: {"values": crumbs}
        ),
        "exception": st.lists(
            st.fixed_dictionaries({"type": st.just("E"), "value": TEXTS}), max_size=2
        ).map(lambda values: {"values": values}),
    },
)  # fmt: skip
SELECTORS = st.sampled_from([
    "**", "$user.*", "$user.**", "$user.data.a", "$user.data.*", "extra.**", "extra.a",
    "$request.headers.*", "$request.env.REMOTE_ADDR", "$request.cookies.a", "$request.**",
    "$logentry.formatted", "$breadcrumb.message", "$exception.value", "$error.value", "$string",
    "$user.** && !$user.id", "$user.email || extra.a", "($user.email || extra.*) && !extra.b",
])  # fmt: skip


@given(EVENTS, SELECTORS, st.sampled_from([name for name in RULES if not name.endswith("filter")]))
def test_relay_hides_no_more_in_generated_events(
    event: dict[str, Any], selector: str, rule: str
) -> None:
    """Whatever the event and the rule, nothing that Relay would hide is left as it was."""
    plain = as_stored(event)
    theirs = processing.pii_strip_event({"applications": {selector: [rule]}}, plain)
    ours = as_sent(Scrubber([(selector, RULES[rule])], hash_key=KEY).event(event))
    computed = {("user", "sentry_user")}  # by the server, from what is left
    assert unhidden(ours, plain) - computed <= unhidden(theirs, plain)


#: Texts in which Relay and our rules find the same.
FOUND_BY_BOTH = {
    "bearer": ["X: Bearer abc.def-1", "Bearer xyz", "a bear"],
    "creditcard": ["of 4111 1111 1111 1111, x", "378282246310005", "5555-5555-5555-4444"],
    "iban": ["IBAN DE89370400440532013000.", "no IBAN"],
    "imei": ["356938035643809", "imei 35-693803-564380-9"],
    "mac": ["at 00:1B:44:11:3A:B7", "00-1b-44-11-3a-b7 too", "00:1B"],
    "password": ["the password", "an auth token", "plain"],
    "pemkey": ["-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----"],
    "urlauth": ["https://u:p@x.org/a", "https://tok@x.org", "https://x.org/@a"],
    "userpath": ["/Users/ada/x", "C:\\Users\\ada\\y", "/home/ada/z", "/var/ada"],
    "usssn": ["ssn 078-05-1120", "219099999"],
    "uuid": ["x 550e8400-e29b-41d4-a716-446655440000", "550e8400e29b41d4a716446655440000"],
}


@pytest.mark.parametrize("pattern", FOUND_BY_BOTH)
def test_patterns_are_those_of_relay(pattern: str) -> None:
    """Each of Relay's patterns leaves of a text what Relay leaves of it."""
    texts = {f"t{at}": text for at, text in enumerate(FOUND_BY_BOTH[pattern])}
    event = as_stored({"platform": "python", "extra": texts})
    rule = f"@{pattern}:replace"
    theirs = processing.pii_strip_event({"applications": {"extra.**": [rule]}}, event)
    ours = Scrubber([("extra.**", rule)]).event(event)
    assert dict(leaves(ours["extra"])) == dict(leaves(theirs["extra"]))
    assert ours["extra"] != event["extra"]


def test_passwords_are_those_of_relay() -> None:
    """The names under which Relay looks for a password are names of secrets here, too."""
    names = ("password", "api_key", "auth", "secret_a", "credentials", "token", "x-api-key", "n")
    event = as_stored({"platform": "python", "extra": dict.fromkeys(names, "x")})
    config = {"applications": {"extra.**": ["@password:replace"]}}
    theirs = processing.pii_strip_event(config, event)
    ours = Scrubber([("extra.**", "@password:replace")]).event(event)
    assert dict(leaves(ours["extra"])) == dict(leaves(theirs["extra"]))


def test_an_expression_is_one_of_relay() -> None:
    """A regular expression of one's own does what Relay's `pattern` does."""
    event = as_stored({"platform": "python", "extra": {"a": "of acct-12 and acct-7"}})
    redaction = {"method": "replace", "text": "[Filtered]"}
    own = {"own": {"type": "pattern", "pattern": "acct-[0-9]+", "redaction": redaction}}
    config = {"rules": own, "applications": {"extra.**": ["own"]}}
    theirs = processing.pii_strip_event(config, event)
    ours = Scrubber([("extra.**", re.compile("acct-[0-9]+"), "replace")]).event(event)
    assert ours["extra"]["a"] == theirs["extra"]["a"] == "of [Filtered] and [Filtered]"
