"""The last word: what rules take out is gone, wherever it stood, and nothing else is touched."""

from __future__ import annotations

import copy
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usercontext.exceptions import ConfigurationError
from usercontext.privacy import Scrubber, hash_id
from usercontext.privacy.patterns import PATTERNS as PATTERN_NAMES

KEY = b"sixteen bytes ok"
ADDRESS = "203.0.113.7"


NOTE = f"jane@example.com from {ADDRESS}"


def event() -> dict[str, Any]:
    """Return an event that has the same address and email in many places."""
    note = NOTE
    return {
        "event_id": "a" * 32,
        "timestamp": 1700000000.5,
        "platform": "python",
        "release": "1.2.3.4",
        "transaction": f"/of/{ADDRESS}",
        "server_name": ADDRESS,
        "logentry": {"message": note, "formatted": note, "params": [ADDRESS]},
        "user": {
            "id": "42",
            "username": "jane",
            "email": "jane@example.com",
            "ip_address": ADDRESS,
            "plan": "pro",
            "note": note,
        },
        "request": {
            "method": "GET",
            "url": f"http://x/{ADDRESS}",
            "query_string": f"a={ADDRESS}&token=1",
            "headers": {"X-Forwarded-For": f"{ADDRESS}, 10.0.0.1", "User-Agent": "ua"},
            "cookies": {"theme": "dark"},
            "env": {"REMOTE_ADDR": ADDRESS},
            "data": {"mail": "jane@example.com"},
        },
        "tags": {"ip": ADDRESS},
        "extra": {"ip": ADDRESS, "by": {ADDRESS: 1}, "n": 5},
        "contexts": {"trace": {"type": "trace", "peer": ADDRESS}},
        "breadcrumbs": {"values": [{"type": "http", "message": note}]},
        "exception": {
            "values": [
                {
                    "type": "ValueError",
                    "value": note,
                    "stacktrace": {
                        "frames": [
                            {
                                "function": "f",
                                "lineno": 1,
                                "context_line": f"x = {ADDRESS!r}",
                                "vars": {"a": ADDRESS},
                            }
                        ]
                    },
                }
            ]
        },
    }


def at(value: Any, path: str) -> Any:
    """Return what stands at a dotted path, "absent" where nothing does."""
    for name in path.split("."):
        value = value[int(name)] if isinstance(value, list) else value.get(name, "absent")
    return value


FRAME = "exception.values.0.stacktrace.frames.0"

#: Rule, path, what stands there afterwards.
RULES: list[tuple[Any, str, Any]] = [
    ("$user.ip_address", "user.ip_address", "absent"),
    ("$user.email", "user.email", "absent"),
    ("$user.EMAIL", "user.email", "absent"),
    ("user.email", "user.email", "absent"),
    (("$user.email", "remove"), "user.email", "absent"),
    (("$user.email", "mask"), "user.email", "*" * 16),
    (("$user.email", "replace"), "user.email", "[Filtered]"),
    (("$user.email", "hash"), "user.email", hash_id("jane@example.com", key=KEY)),
    (("$user.email", "@email:replace"), "user.email", "[email]"),
    (("$user.email", "@email"), "user.email", "absent"),
    (("$user.email", "@ip:replace"), "user.email", "jane@example.com"),
    ("$user.email", "user.id", "42"),
    ("$user.data.plan", "user.plan", "absent"),
    ("$user.plan", "user.plan", "absent"),
    ("$user.data", "user.plan", "absent"),
    ("$user.data.**", "user.note", "absent"),
    (("$user.data.**", "mask"), "user.plan", "***"),
    (("$user.data", "hash"), "user.plan", "absent"),
    (("$user.data", "@ip:replace"), "user.note", "jane@example.com from [ip]"),
    ("$user.** && !$user.id", "user", {"id": "42"}),
    ("$user.email || $user.username", "user.username", "absent"),
    ("**.email || $user.username", "user.username", "absent"),
    ("$boolean || $user.email", "extra.n", 5),
    ("!($user.id) && $user.*", "user", {"id": "42"}),
    ("$request.headers.x-forwarded-for", "request.headers", {"User-Agent": "ua"}),
    ("$request.headers.*", "request.headers", {}),
    ("$http.env.REMOTE_ADDR", "request.env", {}),
    ("$request.query_string.token", "request.query_string", f"a={ADDRESS}"),
    (("$request.query_string.a", "replace"), "request.query_string", "a=[Filtered]&token=1"),
    ("$request.query_string", "request.query_string", "absent"),
    ("$request.cookies.theme", "request.cookies", {}),
    ("$request.data.mail", "request.data", {}),
    ("$extra.by.*", "extra.by", {}),
    (f"$extra.by.'{ADDRESS}'", "extra.by", {}),
    ("extra.**.ip", "extra.ip", "absent"),
    (("$extra.n", "mask"), "extra.n", "*"),
    (("$extra.by", "mask"), "extra.by", "absent"),
    (("$number", "replace"), "extra.n", "[Filtered]"),
    (("$number", "replace"), "timestamp", 1700000000.5),
    ("$tags.ip", "tags", {}),
    ("$transaction", "transaction", "absent"),
    ("$server_name", "server_name", "absent"),
    ("$contexts.trace.peer", "contexts.trace", {"type": "trace"}),
    ("$logentry.formatted", "logentry.formatted", "absent"),
    ("$breadcrumb.message", "breadcrumbs.values.0", {"type": "http"}),
    ("$exception.value", "exception.values.0.value", "absent"),
    ("$error.value", "exception.values.0.type", "ValueError"),
    ("$frame.vars.a", f"{FRAME}.vars", {}),
    (("$stacktrace.**", "@ip:replace"), f"{FRAME}.vars.a", "[ip]"),
    ("@ip", "tags.ip", "absent"),
    ("@ip:replace", "tags.ip", "[ip]"),
    (("@ip", "replace"), "transaction", "/of/[ip]"),
    (("@ip", "mask"), "server_name", "*" * 11),
    (("@ip", "hash"), "extra.ip", hash_id(ADDRESS, key=KEY)),
    (("@ip", "replace"), "extra.by", {"[ip]": 1}),
    (("@ip", "replace"), "request.url", "http://x/[ip]"),
    (("@ip", "replace"), "request.headers.X-Forwarded-For", "[ip], [ip]"),
    (("@ip", "replace"), f"{FRAME}.context_line", "x = '[ip]'"),
    (("@ip", "replace"), "release", "1.2.3.4"),
    (("@ip", "replace"), "user.ip_address", "absent"),
    (("@email", "replace"), "logentry.formatted", f"[email] from {ADDRESS}"),
    (("@email", "replace"), "request.data.mail", "[email]"),
    ("**", "event_id", "a" * 32),
    ("**", "user", "absent"),
    ("**", "exception.values.0.type", "ValueError"),
    ("**", "exception.values.0.value", "absent"),
    ("**", f"{FRAME}.vars", "absent"),
    ("**", f"{FRAME}.function", "f"),
    ("$user.email | $extra", "user.email", "absent"),
    ("$user.email & $string", "user.email", "absent"),
    ("$user.email & $number", "user.email", "jane@example.com"),
    (("$string", "replace"), "extra.ip", "[Filtered]"),
    (("$string", "replace"), "platform", "python"),
    ("$user.data.ip", "user.id", "42"),
    ((re.compile("jane"), "replace"), "user.username", "[Filtered]"),
    (re.compile("jane"), "user.username", "absent"),
    (("$user.*", re.compile("jane")), "user.email", "@example.com"),
    (("$user.*", re.compile("jane"), "mask"), "logentry.message", NOTE),
    (("$user.*", re.compile("j(a)n(e)"), "mask"), "user.username", "j*n*"),
    (("$user.*", "@email", "replace"), "user.email", "[email]"),
    ("/of/<address>", "transaction", "/of/"),
    ("/of/<address>:mask", "transaction", "/of/" + "*" * 11),
    (("/of/<address>", "replace"), "transaction", "/of/[address]"),
    (("$transaction", "/of/{address}", "replace"), "transaction", "/of/[address]"),
    (("$request.url", "/<str:of>", "replace"), "transaction", f"/of/{ADDRESS}"),
]


@pytest.mark.parametrize(("rule", "path", "expected"), RULES, ids=[str(row[:2]) for row in RULES])
def test_rule(rule: Any, path: str, expected: Any) -> None:
    """A rule does to what it names what its method says, and spares the rest."""
    scrubbed = Scrubber([rule], hash_key=KEY).event(event())
    assert at(scrubbed, path) == expected


#: What is wrong, the rules, and words of the message.
WRONG: list[tuple[str, Any, str]] = [
    ("unknown type", ["$usr.email"], "did you mean '$user'?"),
    ("unknown type, far off", ["$zzz"], "write one of"),
    ("a slip of a field", ["$user.emial"], "did you mean 'email'?"),
    ("a slip of a field of the request", ["$request.header.x"], "did you mean 'headers'?"),
    ("a slip without the sign", ["user.emial"], "did you mean 'email'?"),
    ("unknown method", [("$user.email", "hush")], "did you mean 'hash'?"),
    ("unknown method, far off", [("$user.email", "zzz")], "hash, mask, remove, replace"),
    ("unknown pattern", ["@ipp"], "did you mean '@ip'?"),
    ("a field of the user", ["email"], "did you mean '$user.email'?"),
    ("a field of the request", ["headers.x-a"], "did you mean '$request.headers'?"),
    ("what others call it", ["ip"], "did you mean '$user.ip_address'?"),
    ("what others call it, of a user", ["$user.mail"], "did you mean 'email'?"),
    ("a slip of a key", ["exrta.a"], "did you mean 'extra'?"),
    ("no key of an event", ["zzz.a"], "not an event's key: write one of"),
    ("no part of a request", ["$request.zzz"], "write one of api_target"),
    ("no part of an exception", ["$exception.message"], "write one of"),
    ("below a text", ["$request.url.path"], "write '$request.url'"),
    ("below a user's text", ["$user.email.domain"], "write '$user.email'"),
    ("below the transaction", ["$transaction.name"], "write '$transaction'"),
    ("an expression that is everywhere", [re.compile("a*")], "write '+'"),
    ("an expression of bytes", [re.compile(b"a")], "compile it from a str"),
    ("a path without a segment", ["/reset"], "'/reset/<token>'"),
    ("a method alone", [("$user.email", re.compile("a"), "hush")], "did you mean 'hash'?"),
    ("no text in it", [("$user.email", re.compile("a"), 5)], "pair of selector and method"),
    ("nothing in it", [()], "pair of selector and method"),
    ("a pattern before a pattern", [("@ip", re.compile("a"))], "pair of selector and method"),
    ("hash without a key", [("$user.email", "hash")], "needs hash_key"),
    ("empty selector", [""], "is empty"),
    ("empty name", ["$user..email"], "empty name"),
    ("part of a name", ["$user.em*"], "whole names"),
    ("below a value", ["$string.x"], "stands alone"),
    ("ends too soon", ["$user.email &&"], "ends too soon"),
    ("open bracket", ["($user.email"], "closing bracket"),
    ("two selectors", ["$user.email $user.id"], "left over"),
    ("open quote", ["$extra.'a"], "selector"),
    ("no name", ["$user.["], "in quotes"),
    ("a type within a path", ["$user.$string"], "in quotes"),
    ("a pattern within a condition", ["!$user.email && @ip"], "in quotes"),
    ("quotes of nothing", ["$user.''"], "empty name"),
    ("quotes joined", ["$extra.'a''b'c"], "dot"),
    ("one text", "$user.email", "list of rules"),
    ("a mapping", {"$user.email": "hash"}, "list of rules"),
    ("no list", 5, "list of rules"),
    ("no rule", [5], "pair of selector and method"),
    ("three parts", [("$user.email", "hash", "x")], "pair of selector and method"),
]


@pytest.mark.parametrize(("rules", "words"), [row[1:] for row in WRONG], ids=[r[0] for r in WRONG])
def test_wrong_rule_says_what_to_write(rules: Any, words: str) -> None:
    """A rule that cannot be read raises when it is built, and suggests the nearest one."""
    with pytest.raises(ConfigurationError, match="scrub") as caught:
        Scrubber(rules)
    assert words in str(caught.value)


@pytest.mark.parametrize("key", [b"", b"fifteen bytes..", "fifteen bytes..", 16, ["x"] * 16])
def test_short_key_is_refused(key: Any) -> None:
    """A key of fewer than 16 bytes, or of another type, is refused."""
    with pytest.raises(ConfigurationError, match="at least 16"):
        Scrubber([("$user.email", "hash")], hash_key=key)
    with pytest.raises(ConfigurationError, match="at least 16"):
        hash_id("42", key=key)


def test_never_store_ip_is_a_flag() -> None:
    """Anything but True and False is refused."""
    with pytest.raises(ConfigurationError, match="never_store_ip"):
        Scrubber(never_store_ip="yes")  # type: ignore[arg-type]


def test_nothing_to_do_is_false() -> None:
    """A scrubber without rules is false, and gives back the very event."""
    given_event = event()
    assert not Scrubber()
    assert Scrubber().event(given_event) is given_event
    assert Scrubber(["$user.email"])
    assert Scrubber(never_store_ip=True)


def test_never_store_ip_leaves_no_address() -> None:
    """With never_store_ip no address is in the bytes of an event, wherever it stood."""
    scrubbed = Scrubber(never_store_ip=True).event(event())
    assert ADDRESS not in json.dumps(scrubbed)
    assert "10.0.0.1" not in json.dumps(scrubbed)
    assert scrubbed["request"]["headers"] == {"User-Agent": "ua"}
    assert scrubbed["request"]["env"] == {}
    assert scrubbed["release"] == "1.2.3.4"


def test_never_store_ip_refuses_auto() -> None:
    """With never_store_ip the server is not asked to fill in an address either."""
    sent = {
        "user": {"id": "1", "ip_address": "{{auto}}"},
        "sdk": {"name": "x", "client_ip": ADDRESS, "settings": {"infer_ip": "auto"}},
    }
    scrubbed = Scrubber(never_store_ip=True).event(sent)
    assert scrubbed["user"] == {"id": "1"}
    assert scrubbed["sdk"] == {"name": "x", "settings": {"infer_ip": "never"}}


def test_versions_are_no_addresses() -> None:
    """Versions in contexts and the list of modules are left alone by patterns."""
    sent = {"contexts": {"os": {"kernel_version": "5.15.0.91"}}, "modules": {"x": "1.2.3.4"}}
    assert Scrubber(never_store_ip=True).event(sent) == sent


@pytest.mark.parametrize("method", ["mask", "replace", "hash", "@ip:mask"])
def test_scrubbed_address_is_not_sent_as_one(method: str) -> None:
    """What is not an address any more is left out: Relay would move it into the user's id."""
    scrubber = Scrubber([("$user.ip_address", method)], hash_key=KEY)
    assert scrubber.user({"ip_address": ADDRESS}) is None
    assert scrubber.user({"id": "1", "ip_address": ADDRESS}) == {"id": "1"}


def test_computed_unique_user_goes() -> None:
    """A changed user does not keep the unique user that its raw value was computed into."""
    user = {"id": "1", "email": "j@x.org", "sentry_user": "email:j@x.org"}
    assert Scrubber(["$user.email"]).user(user) == {"id": "1"}


def test_user_alone() -> None:
    """What is pushed to other clients passes the same rules."""
    scrubber = Scrubber(["$user.email", "@ip:replace"])
    assert scrubber.user({"id": "1", "email": "j@x.org", "seen": f"at {ADDRESS}"}) == {
        "id": "1",
        "seen": "at [ip]",
    }
    assert scrubber.user(None) is None
    assert scrubber.user({"email": "j@x.org"}) is None


def test_pairs_count_as_an_object() -> None:
    """Headers, tags and the like are scrubbed as well where they are lists of pairs."""
    sent = {"request": {"headers": [["X-Real-Ip", "1.1.1.1"], ["Accept", "*/*"]]}}
    rule = "$request.headers.x-real-ip"
    assert Scrubber([rule]).event(sent) == {"request": {"headers": [["Accept", "*/*"]]}}
    sent = {"tags": [["of 1.1.1.1", "1.1.1.1"]]}
    assert Scrubber(["@ip:replace"]).event(sent) == {"tags": [["of [ip]", "[ip]"]]}


def test_lists_without_values() -> None:
    """Exceptions and breadcrumbs are found without the `values` around them too."""
    sent = {"exception": [{"type": "E", "value": "x"}], "breadcrumbs": [{"message": "x"}]}
    scrubbed = Scrubber(["$exception.value", "$breadcrumb.message"]).event(sent)
    assert scrubbed == {"exception": [{"type": "E"}], "breadcrumbs": [{}]}


def test_removed_items_keep_their_places() -> None:
    """An item removed from a list leaves None behind, so that the others keep their numbers."""
    assert Scrubber(["$extra.a.0"]).event({"extra": {"a": [1, 2]}}) == {"extra": {"a": [None, 2]}}


EMAILS = [
    ("jane@example.com", "[email]"),
    ("<jane.doe+tag@mail.example.co.uk>", "<[email]>"),
    ("mailto:jane@example.com?x", "mailto:[email]?x"),
    ("mail=jane%40example.com&x=1", "mail=[email]&x=1"),
    ("a@b c@d", "[email] [email]"),
    ("https://user:pass@example.com/x", "https://user:[email]/x"),
    ("jürgen@exämple.de", "[email]"),
    ("@decorator", "@decorator"),
    ("a @ b", "a @ b"),
    ("x@", "x@"),
]


@pytest.mark.parametrize(("text", "expected"), EMAILS)
def test_emails_in_text(text: str, expected: str) -> None:
    """Emails are found inside any text."""
    assert Scrubber(["@email:replace"]).event({"extra": text}) == {"extra": expected}


CARD = "4111 1111 1111 1111"
PATTERNS = [
    ("creditcard", f"of {CARD}, 378282246310005.", "of [creditcard], [creditcard]."),
    ("creditcard", "12 5555-5555-5555-4444", "12 [creditcard]"),
    ("creditcard", "4111 1111 1111 1112 at 1700000000123", "4111 1111 1111 1112 at 1700000000123"),
    ("creditcard", f"x{CARD}", f"x{CARD}"),
    ("iban", "DE89370400440532013000 x", "[iban] x"),
    ("iban", "GB82 WEST 1234 5698 7654 32 xx", "[iban] xx"),
    ("iban", "gb82west12345698765432", "[iban]"),
    ("iban", "GB83 WEST 1234 5698 7654 32", "GB83 WEST 1234 5698 7654 32"),
    ("iban", "AB12CDEF and DE89", "AB12CDEF and DE89"),
    ("password", "the password is x", "[password]"),
    ("password", "plain", "plain"),
    ("urlauth", "https://u:p@x.org/a@b", "https://[auth]@x.org/a@b"),
    ("urlauth", "redis://:p@ss@x", "redis://[auth]@x"),
    ("bearer", "X: Bearer a.b-c=, bearer d", "X: Bearer [token], bearer [token]"),
    ("pemkey", "-----BEGIN EC PRIVATE KEY-----\nab\ncd\n-----END EC PRIVATE KEY-----",
     "-----BEGIN EC PRIVATE KEY-----\n[pemkey]\n-----END EC PRIVATE KEY-----"),
    ("pemkey", "-----BEGIN PRIVATE KEY-----\nab", "-----BEGIN PRIVATE KEY-----\n[pemkey]"),
    ("usssn", "078-05-1120 but 1078-05-1120", "[us-ssn] but 1078-05-1120"),
    ("mac", "00:1b:44:11:3A:B7 001b.4411.3ab7", "[mac] [mac]"),
    ("uuid", "550e8400-e29b-41d4-a716-446655440000", "[uuid]"),
    ("imei", "356938035643809", "[imei]"),
    ("userpath", "/home/ada/x C:\\Users\\ada\\y", "/home/[user]/x C:\\Users\\[user]\\y"),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "text", "expected"), PATTERNS)
def test_patterns(pattern: str, text: str, expected: str) -> None:
    """Each pattern finds what it is named for inside a text, and leaves the rest."""
    assert Scrubber([f"@{pattern}:replace"]).event({"extra": text}) == {"extra": expected}


def test_numbers_are_searched() -> None:
    """A card's number is found where it is a number, too."""
    sent = {"extra": {"card": 4111111111111111, "n": 4, "flag": True}}
    shown = {"card": "[creditcard]", "n": 4, "flag": True}
    assert Scrubber(["@creditcard:replace"]).event(sent) == {"extra": shown}
    assert Scrubber(["@creditcard"]).event(sent) == {"extra": {"n": 4, "flag": True}}


def test_passwords_by_name() -> None:
    """@password takes whatever stands under the name of a secret, whole."""
    sent = {"extra": {"api_key": "x", "secret": {"a": 1}, "pin": 1234, "n": "x"}}
    shown = {"api_key": "[password]", "pin": "[password]", "n": "x"}
    assert Scrubber(["@password:replace"]).event(sent) == {"extra": shown}


ROUTES = [
    ("/reset/<token>", "https://x.org/app/reset/abc?b=1", "https://x.org/app/reset/[token]?b=1"),
    ("/reset/<token>", "next=%2Freset%2Fabc%2Fd", "next=%2Freset%2F[token]%2Fd"),
    ("/of/<user>/<uuid:order>/x", "at '/of/1/2/x'", "at '/of/[user]/[order]/x'"),
    ("/files/<path:name>", "/files/a/b/c?d", "/files/[name]?d"),
    ("/files/{name:path}", "/files/a/b", "/files/[name]"),
    ("/u-{id}.json", "/u-7.json /u-7.xml", "/u-[id].json /u-7.xml"),
    (
        "/reset/<token>",
        "path('/reset/<token>') or '/reset/'",
        "path('/reset/<token>') or '/reset/'",
    ),
]


@pytest.mark.parametrize(("route", "text", "expected"), ROUTES)
def test_segments_of_paths(route: str, text: str, expected: str) -> None:
    """What stands in a route's places is hidden wherever such a path is in a text."""
    assert Scrubber([(route, "replace")]).event({"extra": text}) == {"extra": expected}


def test_groups_within_each_other() -> None:
    """Of groups that lie in each other the outer one is hidden."""
    rule = (re.compile("a((b)c)"), "replace")
    assert Scrubber([rule]).event({"extra": "abc"}) == {"extra": "a[Filtered]"}


def test_nobodys_email() -> None:
    """One pattern takes e-mail addresses out of everything, the names that are one as well."""
    sent = {
        "user": {"id": "ada@shop.example", "username": "ada@shop.example", "email": "ada@x.org"},
        "exception": {
            "values": [{"type": "E", "value": "no ada%40shop.example, ada@shop.example"}]
        },
        "extra": {"ada@shop.example": ["to ada@shop.example"]},
    }
    scrubber = Scrubber(["$user.email", ("@email", "hash")], hash_key=KEY)
    text = json.dumps(scrubber.event(sent))
    assert "shop" not in text
    assert "x.org" not in text
    assert scrubber.event(sent)["user"]["username"] == hash_id("ada@shop.example", key=KEY)


def test_hostile_text_costs_no_more_than_its_length() -> None:
    """A long text of signs is read in no time that the test could notice."""
    rules = [f"@{name}" for name in PATTERN_NAMES if name != "anything"]
    texts = ("a" * 100_000 + "@", "@" * 100_000, "a@" * 50_000, "1." * 50_000, ":" * 100_000)
    for text in (*texts, "4 " * 50_000, "DE89 " * 20_000, "://" * 30_000, "4" * 100_000):
        Scrubber(rules).event({"extra": text})


def test_rules_of_both_are_merged() -> None:
    """Rules add up, each with its own key, and never_store_ip stays on."""
    first = Scrubber([("$user.email", "hash")], hash_key=KEY, never_store_ip=True)
    merged = Scrubber(["$user.id"]).merged(first)
    assert merged.never_store_ip
    assert merged.user({"id": "1", "email": "j@x.org", "ip_address": ADDRESS}) == {
        "email": hash_id("j@x.org", key=KEY)
    }
    assert "$user.id" in repr(merged)


def test_key_is_not_shown() -> None:
    """The key is in no text of the scrubber."""
    assert "sixteen" not in repr(Scrubber([("$user.email", "hash")], hash_key=KEY))


ANY_RULE = st.sampled_from([
    "**", "$user", "$user.**", "@ip", "@email", "$string", "$extra.*", "$request.headers.*",
    ("@ip", "hash"), ("**", "mask"), ("$tags", "@ip:replace"), "$object", "$array",
])  # fmt: skip
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
    | st.sampled_from([ADDRESS, "jane@example.com", "x"]) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["a", "headers", "values", ADDRESS]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
EVENTS = st.dictionaries(
    st.sampled_from(["user", "request", "extra", "tags", "exception", "breadcrumbs", "message"]),
    JSON_VALUES,
    max_size=4,
)


@given(EVENTS, st.lists(ANY_RULE, max_size=4))
def test_no_event_breaks_or_is_changed(sent: dict[str, Any], rules: list[Any]) -> None:
    """Whatever the event, scrubbing raises nothing, changes nothing in place and stays JSON."""
    before = copy.deepcopy(sent)
    scrubbed = Scrubber(rules, hash_key=KEY, never_store_ip=True).event(sent)
    assert sent == before
    text = json.dumps(scrubbed)
    assert ADDRESS not in text


def test_hash_needs_the_key() -> None:
    """The same value gives the same pseudonym with one key, and another with another."""
    assert hash_id(42, key=KEY) == hash_id("42", key=KEY.decode())
    assert hash_id(42, key=KEY) != hash_id(42, key=KEY + b"!")
    assert hash_id(42, key=KEY) != hash_id(43, key=KEY)
    assert len(hash_id(42, key=KEY * 100)) == 40


def test_daily_hash_changes_at_midnight() -> None:
    """With daily rotation a pseudonym holds for one day of UTC."""
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
    today = hash_id("42", key=KEY, rotate="daily", now=noon)
    assert today == hash_id("42", key=KEY, rotate="daily", now=noon + timedelta(hours=11))
    assert today != hash_id("42", key=KEY, rotate="daily", now=noon + timedelta(hours=12))
    assert today != hash_id("42", key=KEY)
    elsewhere = noon.astimezone(timezone(timedelta(hours=14)))
    assert today == hash_id("42", key=KEY, rotate="daily", now=elsewhere)


def test_daily_hash_goes_by_the_clock() -> None:
    """Without a time given, today's is taken."""
    assert hash_id("42", key=KEY, rotate="daily") in {
        hash_id("42", key=KEY, rotate="daily", now=datetime.now(UTC) - timedelta(days=days))
        for days in (0, 1)
    }


def test_unknown_rotation_is_refused() -> None:
    """Only daily rotation is known."""
    with pytest.raises(ConfigurationError, match="daily"):
        hash_id("42", key=KEY, rotate="weekly")
