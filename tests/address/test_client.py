"""The client's address: found over both interfaces alike, and never chosen by the client."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import forwarded
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.requests_of import environ_of, scope_of
from usercontext.address.client import ClientAddress, ProxyTrust
from usercontext.address.networks import TrustedNetworks
from usercontext.address.spelling import canonical_address
from usercontext.exceptions import ConfigurationError
from usercontext.request import RequestData

VECTORS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "vectors" / "client_ip.jsonl").read_text().splitlines()
]
ROWS = [row for row in VECTORS if "expected" in row]
BUILDERS = {"asgi": scope_of, "wsgi": environ_of}


def options(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row's configuration under our names."""
    config = dict(row["config"])
    if "header" in config:
        config["forwarded_header"] = config.pop("header")
    return config


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_vector(row: dict[str, Any], interface: str) -> None:
    """Every case collected from RFC 7239, other libraries and attacks gives its address."""
    if row["interface"] not in ("any", interface):
        return
    request_data = RequestData(include_ip=True, **options(row))
    source = BUILDERS[interface](row["peer"], row["headers"])
    assert request_data.ip_address(source) == row["expected"], row["why"]


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_vector_read_later(row: dict[str, Any], interface: str) -> None:
    """What was observed of a request gives the same address when the request has gone."""
    if row["interface"] not in ("any", interface):
        return
    request_data = RequestData(include_ip=True, **options(row))
    source = BUILDERS[interface](row["peer"], row["headers"])
    found = request_data.locate(source)
    observed = request_data.observe(source)
    source.clear()
    assert request_data.observed_ip_address(observed) == row["expected"], row["why"]
    assert ProxyTrust(**options(row)).read(observed) == found._values()


def test_an_observed_address_is_anonymised_and_asked_for() -> None:
    """As one that is looked up at once."""
    source = scope_of("203.0.113.9")
    masked = RequestData(include_ip=True, anonymize_ip="mask")
    assert masked.observed_ip_address(masked.observe(source)) == "203.0.113.0"
    assert RequestData().observed_ip_address(masked.observe(source)) is None


def test_the_header_is_observed_only_of_a_trusted_peer() -> None:
    """Nobody else's is kept, whatever its length."""
    trust = ProxyTrust(["10.0.0.1"])
    headers = [("X-Forwarded-For", "6.6.6.6")]
    assert "6.6.6.6" in str(trust.observe(scope_of("10.0.0.1", headers)))
    assert "6.6.6.6" not in str(trust.observe(scope_of("10.0.0.2", headers)))


ERRORS = [row for row in VECTORS if "expected_error" in row]


@pytest.mark.parametrize("row", ERRORS, ids=[row["name"] for row in ERRORS])
def test_vector_of_a_wrong_option(row: dict[str, Any]) -> None:
    """Every configuration that the vectors call wrong is refused when it is built."""
    with pytest.raises(ConfigurationError):
        RequestData(**options(row))


#: What is wrong, the options, and words of the message: the entry and the fix.
WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("bare string", {"trusted_proxies": "10.0.0.1"}, "'10.0.0.1'", "['10.0.0.1']"),
    ("bytes", {"trusted_proxies": b"10.0.0.1"}, "b'10.0.0.1'", "write a list"),
    ("a number", {"trusted_proxies": 10}, "int", '["10.0.0.0/8"]'),
    ("a mapping", {"trusted_proxies": {"10.0.0.1": 1}}, "dict", '["10.0.0.0/8"]'),
    ("an entry of another type", {"trusted_proxies": [10]}, "int", "write the text"),
    ("empty entry", {"trusted_proxies": [""]}, "empty entry", "leave it out"),
    ("blank entry", {"trusted_proxies": [" "]}, "empty entry", "leave it out"),
    ("host name", {"trusted_proxies": ["proxy.internal"]}, "'proxy.internal'", "never looked up"),
    ("upper-case name", {"trusted_proxies": ["Private"]}, "'Private'", "private"),
    ("zone", {"trusted_proxies": ["fe80::1%eth0"]}, "'fe80::1%eth0'", "address alone"),
    ("prefix too long", {"trusted_proxies": ["10.0.0.0/33"]}, "'10.0.0.0/33'", "1 to 32"),
    ("prefix of IPv6", {"trusted_proxies": ["fd00::/129"]}, "'fd00::/129'", "1 to 128"),
    ("netmask", {"trusted_proxies": ["10.0.0.0/255.0.0.0"]}, "'10.0.0.0/255.0.0.0'", "number"),
    ("no prefix", {"trusted_proxies": ["10.0.0.0/"]}, "'10.0.0.0/'", "number"),
    ("superscript", {"trusted_proxies": ["10.0.0.0/²"]}, "'10.0.0.0/²'", "number"),
    ("host bits", {"trusted_proxies": ["10.0.0.1/8"]}, "'10.0.0.1/8'", "'10.0.0.0/8'"),
    ("host bits of IPv6", {"trusted_proxies": ["fd00::1/8"]}, "'fd00::1/8'", "'fd00::/8'"),
    ("everyone", {"trusted_proxies": ["0.0.0.0/0"]}, "'0.0.0.0/0'", "ranges of your proxies"),
    ("everyone, IPv6", {"trusted_proxies": ["::/0"]}, "'::/0'", "ranges of your proxies"),
    ("everyone, mapped", {"trusted_proxies": ["::ffff:0.0.0.0/96"]}, "/96'", "ranges of your"),
    ("mapped below /96", {"trusted_proxies": ["::ffff:10.0.0.0/8"]}, "/8'", "IPv4 network"),
    ("unspecified", {"trusted_proxies": ["0.0.0.0"]}, "'0.0.0.0'", '"unix"'),
    ("star", {"trusted_proxies": ["*"]}, '"*"', "ranges of your proxies"),
    ("negative hops", {"trusted_hops": -1}, "-1", "0 or more"),
    ("hops True", {"trusted_hops": True}, "bool", "such as 1"),
    ("hops text", {"trusted_hops": "1"}, "str", "such as 1"),
    ("single, untrusted", {"forwarded_header": "X-Real-IP"}, "'x-real-ip'", "trusted_proxies"),
    (
        "single with hops",
        {"forwarded_header": "x-real-ip", "trusted_hops": 1, "trusted_proxies": ["unix"]},
        "trusted_hops",
        "leave trusted_hops out",
    ),
    ("named, untrusted", {"forwarded_header": "forwarded"}, "'forwarded'", "trusted_proxies"),
    ("underscore", {"forwarded_header": "X_Real_IP"}, "'X_Real_IP'", "'x-real-ip'"),
    ("no token", {"forwarded_header": "x real ip"}, "'x real ip'", "'x-forwarded-for'"),
    ("empty name", {"forwarded_header": ""}, "''", "'x-forwarded-for'"),
    ("no text", {"forwarded_header": None}, "NoneType", '"x-real-ip"'),
]


@pytest.mark.parametrize(
    ("config", "entry", "fix"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG]
)
def test_wrong_option_names_the_entry_and_the_fix(
    config: dict[str, Any], entry: str, fix: str
) -> None:
    """A wrong option raises when it is built, naming what is wrong and what to write."""
    with pytest.raises(ConfigurationError) as caught:
        RequestData(**config)
    assert entry in str(caught.value)
    assert fix in str(caught.value)


# -- no header breaks the rules --


class Counting(str):  # noqa: SLOT000
    """A header that counts the characters that are taken out of it, one by one or in pieces."""

    taken = 0

    def __getitem__(self, key: Any) -> str:
        piece = Counting(super().__getitem__(key))
        Counting.taken = max(Counting.taken, len(piece))
        return piece


TRUSTED = ["10.0.0.0/8", "fd00::/8", "unix"]
CHAINS = {
    "walk": ProxyTrust(TRUSTED),
    "hops": ProxyTrust(TRUSTED, 3),
    "walk, Forwarded": ProxyTrust(TRUSTED, None, "forwarded"),
    "hops, Forwarded": ProxyTrust(TRUSTED, 3, "forwarded"),
    "single": ProxyTrust(TRUSTED, None, "x-real-ip"),
    "CloudFront": ProxyTrust(TRUSTED, None, "cloudfront-viewer-address"),
}
chains = pytest.mark.parametrize("trust", CHAINS.values(), ids=list(CHAINS))

HEADER_PIECES = st.sampled_from([
    "10.0.0.7", "203.0.113.9", "2001:db8::9", "[2001:db8::9]:443", "fd00::1", "unknown", "_hidden",
    "for=", "For=", "by=", "host=", "proto=https", ",", ", ", ";", '"', "\\", "=", " ", "\t", ":80",
    "%eth0", "\xa0", "²", "", "::", "0.0.0.0", "::ffff:10.0.0.1", "\x00", "é",
])  # fmt: skip
HOSTILE_HEADERS = st.lists(HEADER_PIECES, max_size=30).map("".join) | st.text(
    st.characters(max_codepoint=255), max_size=200
)


@chains
@given(lines=st.lists(HOSTILE_HEADERS, max_size=4), peer=st.sampled_from(["10.0.0.1", None, "x"]))
def test_no_header_raises(trust: ProxyTrust, lines: list[str], peer: str | None) -> None:
    """Whatever the header's lines, both interfaces give the same answer, and a sound one."""
    headers = [(trust.forwarded_header, line) for line in lines]
    found = trust.locate(scope_of(peer, headers))
    assert trust.locate(environ_of(peer, headers)) == found
    assert found.address is None or canonical_address(found.address) == found.address
    assert found.address not in ("0.0.0.0", "::")


@chains
@given(
    tail=st.lists(HEADER_PIECES, max_size=80).map("".join),
    more=st.text('x," =;:.1', max_size=40),
)
def test_no_more_than_64_entries_are_looked_at(trust: ProxyTrust, tail: str, more: str) -> None:
    """What stands left of the last 64 entries of 128 characters changes nothing."""
    text = tail.rjust(64 * 129, ",")
    name = trust.forwarded_header
    long = trust.locate(environ_of("10.0.0.1", [(name, more * 2000 + "," + text)]))
    longer = trust.locate(environ_of("10.0.0.1", [(name, "," + more + "y" * 90_000 + "," + text)]))
    assert long == longer


@pytest.mark.parametrize("filling", [",", "10.0.0.7,", '"', 'for="', "\\", "x", "for=10.0.0.7,"])
@chains
def test_hostile_header_is_not_copied(trust: ProxyTrust, filling: str) -> None:
    """Of a header of 90 kB no piece is taken that is longer than 64 entries can be."""
    Counting.taken = 0
    environ = environ_of("10.0.0.1")
    environ["HTTP_" + trust.forwarded_header.upper().replace("-", "_")] = Counting(
        filling * (90_000 // len(filling))
    )
    assert trust.locate(environ).address in (None, "10.0.0.7")
    assert Counting.taken <= 64 * 129


def test_65th_entry_is_not_reached() -> None:
    """64 trusted entries are walked through; of one more nothing is said."""
    chain = ["10.0.0.7"] * 63
    for entries, expected in ((["203.0.113.9", *chain], "203.0.113.9"), (["10.0.0.7"] * 65, None)):
        found = ProxyTrust(TRUSTED).locate(
            scope_of("10.0.0.1", [("x-forwarded-for", ", ".join(entries))])
        )
        assert found.address == expected
    assert found.reason == "too-long"


ADDRESSES = st.sampled_from(["203.0.113.9", "2001:db8::9", "[2001:db8::9]:443", "198.51.100.7:80"])


@given(client=HOSTILE_HEADERS, appended=ADDRESSES, inner=st.booleans())
def test_client_cannot_change_the_walk(client: str, appended: str, *, inner: bool) -> None:
    """Behind a trusted proxy, nothing that a client sends changes what its proxy appended."""
    tail = appended + (", 10.0.0.7" if inner else "")
    alone = CHAINS["walk"].locate(scope_of("10.0.0.1", [("x-forwarded-for", tail)]))
    joined = CHAINS["walk"].locate(scope_of("10.0.0.1", [("x-forwarded-for", f"{client}, {tail}")]))
    lines = [("x-forwarded-for", client), ("x-forwarded-for", tail)]
    assert alone == joined == CHAINS["walk"].locate(scope_of("10.0.0.1", lines))
    assert (
        alone.address == canonical_address(appended.partition("]")[0].strip("["))
        or ":80" in appended
    )


ELEMENTS = st.sampled_from([
    "for=203.0.113.9", 'for="[2001:db8::9]:443";proto=https',
    'host="a, for=6.6.6.6";for=203.0.113.9',
    'for=203.0.113.9;by="10.0.0.1";secret="\\", for=6.6.6.6;x=\\""',
    'For="203.0.113.9" ; proto=http',
])  # fmt: skip


@given(client=HOSTILE_HEADERS, appended=ELEMENTS, inner=st.booleans(), own_line=st.booleans())
def test_client_cannot_change_forwarded(
    client: str, appended: str, *, inner: bool, own_line: bool
) -> None:
    """The same of Forwarded: no quote left open reaches into what the proxy appended."""
    tail = appended + (", for=10.0.0.7" if inner else "")
    lines = [client, tail] if own_line else [f"{client}, {tail}"]
    for trust in (CHAINS["walk, Forwarded"], ProxyTrust(TRUSTED, 2 if inner else 1, "forwarded")):
        found = trust.locate(scope_of("10.0.0.1", [("forwarded", line) for line in lines]))
        assert found.address in ("203.0.113.9", "2001:db8::9")
        assert found == trust.locate(scope_of("10.0.0.1", [("forwarded", tail)]))


SPLIT = [
    ("quote without =", 'for=203.0.113.9, x"a, b"', 3),
    ("quote that closes nothing", 'for=203.0.113.9, a="b, c="d, for=10.0.0.7', 4),
    ("escaped quote that closes nothing", 'for=203.0.113.9, a="b, c\\", for=10.0.0.7', 4),
    ("string with separators", 'for=203.0.113.9, a="b, for=6.6.6.6;c";for=10.0.0.7', 2),
    ("escaped quotes in a string", 'for=203.0.113.9, a="\\"b\\", c\\\\";for=10.0.0.7', 2),
]


@pytest.mark.parametrize(("header", "hops"), [row[1:] for row in SPLIT], ids=[r[0] for r in SPLIT])
def test_elements_of_forwarded(header: str, hops: int) -> None:
    """Only a quoted string that is closed as it should be holds commas."""
    trust = ProxyTrust(TRUSTED, hops, "forwarded")
    assert trust.locate(scope_of("10.0.0.1", [("forwarded", header)])).address == "203.0.113.9"


def test_long_string_in_forwarded_hides_no_comma() -> None:
    """A quoted string that opens out of sight is not taken apart at the commas in it."""
    header = f'for=203.0.113.9, for=10.0.0.7;x="a, for=6.6.6.6, {"b" * 120}"'
    trust = ProxyTrust(TRUSTED, 2, "forwarded")
    assert trust.locate(scope_of("10.0.0.1", [("forwarded", header)])).reason == "too-long"


def test_unspecified_address_is_never_trusted() -> None:
    """0.0.0.0 is nobody's address, even in a trusted range."""
    scope = scope_of("0.0.0.1", [("x-forwarded-for", "0.0.0.0")])
    assert ProxyTrust(["0.0.0.0/8"]).locate(scope).reason == "malformed"


@given(
    entries=st.lists(
        st.sampled_from(["10.0.0.7", "203.0.113.9", "2001:db8::9", "[fd00::1]:80", "unknown", "x"]),
        max_size=6,
    ),
    peer=st.sampled_from(["10.0.0.1", "203.0.113.8", "fd00::2"]),
    hops=st.none() | st.integers(0, 4),
)
def test_agrees_with_forwarded(entries: list[str], peer: str, hops: int | None) -> None:
    """The package `forwarded` gives the same answer, where the two mean the same."""
    trusted = {"trusted": TRUSTED[:2]} if hops is None else {"hops": hops}
    client = forwarded.client_from_x_forwarded(", ".join(entries), peer, **trusted)
    theirs = None if client is None or client.node.ip is None else str(client.node.ip)
    ours = ProxyTrust(TRUSTED[:2]) if hops is None else ProxyTrust(trusted_hops=hops)
    # With every entry trusted theirs goes on to what stands there, address or not.
    assert ours.locate(scope_of(peer, [("x-forwarded-for", ", ".join(entries))])).address == theirs


@given(
    elements=st.lists(
        st.sampled_from([
            "for=10.0.0.7", "for=203.0.113.9", 'for="[2001:db8::9]:443";proto=https', "for=unknown",
            'for="10.0.0.7:80";by=x', 'host="a,b";for=203.0.113.9', "proto=http", "for=_x",
            "for=10.0.0.7;for=10.0.0.8", 'for=203.0.113.9;x="a\\"b"',
        ]),
        max_size=5,
    ),
    peer=st.sampled_from(["10.0.0.1", "203.0.113.8"]),
    hops=st.none() | st.integers(0, 4),
)  # fmt: skip
def test_agrees_with_forwarded_on_rfc_7239(
    elements: list[str], peer: str, hops: int | None
) -> None:
    """And so it does on the Forwarded header."""
    trusted = {"trusted": TRUSTED[:2]} if hops is None else {"hops": hops}
    client = forwarded.client_from_forwarded(", ".join(elements), peer, **trusted)
    theirs = None if client is None or client.node.ip is None else str(client.node.ip)
    ours = ProxyTrust(TRUSTED if hops is None else ["private"], hops, "forwarded")
    if hops is not None and peer == "203.0.113.8":
        ours = ProxyTrust((), hops, "forwarded")
    found = ours.locate(scope_of(peer, [("forwarded", ", ".join(elements))]))
    assert found.address == theirs


# -- how it was found --

FOUND: list[tuple[str, dict[str, Any], str | None, str | None, ClientAddress]] = [
    ("peer", {}, "203.0.113.9", None, ClientAddress("203.0.113.9")),
    ("socket", {}, None, None, ClientAddress(None, "peer", 0, "no-peer")),
    ("garbage", {}, "unix:/x", None, ClientAddress(None, "peer", 0, "no-peer")),
    (
        "untrusted",
        {"trusted_proxies": ["10.0.0.0/8"]},
        "203.0.113.9",
        "6.6.6.6",
        ClientAddress("203.0.113.9", "peer", 0, "untrusted-peer"),
    ),
    (
        "untrusted socket",
        {"trusted_proxies": ["10.0.0.0/8"]},
        None,
        "6.6.6.6",
        ClientAddress(None, "peer", 0, "no-peer"),
    ),
    (
        "header absent",
        {"trusted_proxies": ["10.0.0.0/8"]},
        "10.0.0.1",
        None,
        ClientAddress("10.0.0.1", "peer", 0, "ok"),
    ),
    (
        "second entry",
        {"trusted_proxies": ["10.0.0.0/8"]},
        "10.0.0.1",
        "6.6.6.6, 203.0.113.9, 10.0.0.7",
        ClientAddress("203.0.113.9", "header", 2, "ok"),
    ),
    (
        "malformed",
        {"trusted_proxies": ["10.0.0.0/8"]},
        "10.0.0.1",
        "unknown",
        ClientAddress(None, "header", 1, "malformed"),
    ),
    (
        "unspecified",
        {"trusted_proxies": ["10.0.0.0/8"]},
        "10.0.0.1",
        "0.0.0.0",
        ClientAddress(None, "header", 1, "malformed"),
    ),
    (
        "too short",
        {"trusted_hops": 3},
        "10.0.0.1",
        "203.0.113.9",
        ClientAddress(None, "header", 1, "too-short"),
    ),
    (
        "too long",
        {"trusted_hops": 2},
        "10.0.0.1",
        "1" * 200 + ", 203.0.113.9",
        ClientAddress(None, "header", 0, "too-long"),
    ),
]


@pytest.mark.parametrize(
    ("config", "peer", "header", "expected"), [row[1:] for row in FOUND], ids=[r[0] for r in FOUND]
)
@pytest.mark.parametrize("build", BUILDERS.values(), ids=list(BUILDERS))
def test_how_it_was_found(
    build: Any,
    config: dict[str, Any],
    peer: str | None,
    header: str | None,
    expected: ClientAddress,
) -> None:
    """Support can ask where an address came from, and why there is none."""
    headers = [] if header is None else [("X-Forwarded-For", header)]
    assert RequestData(**config).locate(build(peer, headers)) == expected


def test_result_cannot_be_changed() -> None:
    """What was found is a value: frozen, hashable, shown in full, the same after pickling."""
    found = ClientAddress("203.0.113.9", "header", 1)
    for change in (lambda: setattr(found, "address", "x"), lambda: delattr(found, "hops")):
        with pytest.raises(AttributeError):
            change()
    assert found != ClientAddress("203.0.113.9")
    assert found != "203.0.113.9"
    assert len({found, pickle.loads(pickle.dumps(found))}) == 1
    assert repr(found) == (
        "ClientAddress(address='203.0.113.9', source='header', hops=1, reason='ok')"
    )


def test_source_is_left_as_it_was() -> None:
    """Neither scope nor environ is changed by looking."""
    headers = [("x-forwarded-for", "203.0.113.9")]
    for build in BUILDERS.values():
        source = build("10.0.0.1", headers)
        CHAINS["walk"].locate(source)
        assert source == build("10.0.0.1", headers)


def test_peers_remembered_are_bounded() -> None:
    """However many peers connect, and however long their texts, memory stays small."""
    trust = ProxyTrust(["10.0.0.0/8"])
    for number in range(5000):
        trust.locate(scope_of(f"203.0.{number >> 8}.{number & 255}"))
        trust.locate(scope_of("x" * 1000 + str(number)))
    assert len(trust._peers.known) <= 1024


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_headers_remembered_are_bounded(build: Any) -> None:
    """However many headers arrive, and however long, memory stays small."""
    trust = ProxyTrust(["10.0.0.0/8"])
    for number in range(5000):
        trust.locate(
            build("10.0.0.1", [("x-forwarded-for", f"203.0.{number >> 8}.{number & 255}")])
        )
        trust.locate(build("10.0.0.1", [("x-forwarded-for", "x" * 1000 + str(number))]))
    assert len(trust.header._answers) <= 1024
    assert max(map(len, trust.header._answers)) <= 128


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
@pytest.mark.parametrize("header", ["", ",", " , "])
def test_a_header_without_entries_answers_for_each_peer(build: Any, header: str) -> None:
    """Where the header names nobody it is the peer that answers, not the last one that did."""
    trust = ProxyTrust(["10.0.0.0/8"])
    headers = [("x-forwarded-for", header)]
    found = [trust.locate(build(peer, headers)).address for peer in ("10.0.0.1", "10.0.0.2")]
    assert found == ["10.0.0.1", "10.0.0.2"]


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_a_header_that_was_believed_is_not_believed_of_anyone(build: Any) -> None:
    """What a trusted proxy's header said is forgotten for a peer that nobody trusts."""
    trust = ProxyTrust(["10.0.0.0/8"])
    headers = [("x-forwarded-for", "203.0.113.9")]
    found = [trust.locate(build(peer, headers)).address for peer in ("10.0.0.1", "198.51.100.7")]
    assert found == ["203.0.113.9", "198.51.100.7"]


def test_a_remembered_failure_is_counted_again() -> None:
    """Requests with one bad header are each told apart from a single stray one."""
    trust = ProxyTrust(["10.0.0.0/8"])
    for _ in range(3):
        trust.locate(scope_of("10.0.0.1", [("x-forwarded-for", "nonsense")]))
    assert trust.header.shortcomings._failures == {"malformed": 3}


def test_proxyfix_is_set_aside() -> None:
    """Behind werkzeug's ProxyFix the header is judged by our rules, from the real peer."""
    environ = environ_of("6.6.6.6", [("X-Forwarded-For", "6.6.6.6, 203.0.113.9")])
    environ["werkzeug.proxy_fix.orig"] = {"REMOTE_ADDR": "10.0.0.1"}
    assert CHAINS["walk"].locate(environ).address == "203.0.113.9"


@pytest.mark.parametrize("name", ["trusted", "not"])
def test_overlapping_ranges(name: str) -> None:
    """Ranges that overlap, touch or hold each other are one set."""
    ranges = [
        "10.0.0.0/8",
        "10.1.0.0/16",
        "11.0.0.0/8",
        "192.0.2.1",
        "192.0.2.2",
        "::/1",
        "fd00::/8",
    ]
    inside = ["10.0.0.0", "10.255.255.255", "11.0.0.0", "192.0.2.2", "::1", "fdff::", "1::"]
    outside = ["9.255.255.255", "12.0.0.0", "192.0.2.0", "192.0.2.3", "fe00::", "8000::", "0.0.0.0"]
    networks = TrustedNetworks(ranges)
    addresses, expected = (inside, True) if name == "trusted" else (outside, False)
    assert [address in networks for address in addresses] == [expected] * len(addresses)


# -- warnings --

WARNED: list[tuple[str, Any]] = [
    ("trusted_hops without trusted_proxies", lambda: ProxyTrust(trusted_hops=1)),
    (
        "behind a proxy",
        lambda: ProxyTrust().locate(scope_of("10.0.0.1", [("x-forwarded-for", "203.0.113.9")])),
    ),
    (
        "behind a proxy",
        lambda: ProxyTrust().locate(environ_of("", [("x-real-ip", "203.0.113.9")])),
    ),
    (
        "no client address in x-forwarded-for",
        lambda: [
            CHAINS["walk"].locate(scope_of("10.0.0.1", [("x-forwarded-for", "unknown")]))
            for _ in range(3)
        ],
    ),
    (
        "underscores",
        lambda: ProxyTrust(TRUSTED).locate(environ_of("10.0.0.1", SERVER_SOFTWARE="Granian")),
    ),
    (
        "underscores",
        lambda: ProxyTrust(TRUSTED).locate(
            environ_of("10.0.0.1", SERVER_SOFTWARE="WSGIServer/0.2 CPython/3.11.7")
        ),
    ),
    ("port 0", lambda: ProxyTrust(TRUSTED).locate(scope_of(client=("203.0.113.9", 0)))),
    (
        "ProxyFix",
        lambda: ProxyTrust().locate(
            environ_of("203.0.113.9") | {"werkzeug.proxy_fix.orig": {"REMOTE_ADDR": "10.0.0.1"}}
        ),
    ),
]


@pytest.mark.parametrize(("words", "cause"), WARNED, ids=[row[0] for row in WARNED])
def test_warned_once(words: str, cause: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What looks like a wrong set-up is said once, and without an address."""
    CHAINS["walk"].header.shortcomings._failures.clear()
    for _ in range(3):
        cause()
    assert len(caplog.records) == 1
    assert words in caplog.text
    assert "203.0.113.9" not in caplog.text
    assert "10.0.0.1" not in caplog.text


QUIET: list[tuple[str, Any]] = [
    ("peer from outside", lambda: ProxyTrust().locate(
        scope_of("203.0.113.9", [("x-forwarded-for", "6.6.6.6")]))),
    ("private peer, no header", lambda: ProxyTrust().locate(scope_of("10.0.0.1"))),
    ("proxies and hops", lambda: ProxyTrust(TRUSTED, 1)),
    ("no hops", lambda: ProxyTrust(trusted_hops=0)),
    ("granian's unix socket", lambda: ProxyTrust(TRUSTED).locate(scope_of(client=("", "0")))),
    ("gunicorn", lambda: ProxyTrust(TRUSTED).locate(
        environ_of("10.0.0.1", SERVER_SOFTWARE="gunicorn/26.2.0"))),
    ("two failures", lambda: [ProxyTrust(TRUSTED).locate(
        scope_of("10.0.0.1", [("x-forwarded-for", "unknown")])) for _ in range(2)]),
]  # fmt: skip


@pytest.mark.parametrize("cause", [row[1] for row in QUIET], ids=[row[0] for row in QUIET])
def test_not_warned(cause: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A sound set-up is not commented on."""
    cause()
    assert caplog.records == []


def test_search_for_a_proxy_ends() -> None:
    """After a number of requests without a sign of a proxy, nobody looks any more."""
    trust = ProxyTrust()
    for _ in range(100):
        trust.locate(scope_of("10.0.0.1"))
    assert trust._peers._looks == 0
    assert trust.locate(scope_of("10.0.0.1")).address == "10.0.0.1"
