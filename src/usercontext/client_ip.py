"""Peer, forwarding header and trust make one address: the client's, which it cannot choose; pure.

The header is read from the right, since only its last entries were written by proxies of ours,
and no further than the rules need: 64 entries of 128 characters, whatever its length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NoReturn, TypeAlias

from usercontext import diagnostics
from usercontext.address import canonical_address
from usercontext.exceptions import ConfigurationError
from usercontext.trusted_networks import TrustedNetworks

__all__ = ["ADDRESS_HEADERS", "ClientAddress", "ProxyTrust"]

Origin: TypeAlias = Literal["peer", "header"]
Reason: TypeAlias = Literal["ok", "untrusted-peer", "no-peer", "malformed", "too-short", "too-long"]

#: Headers in which proxies and platforms hand on a client's address, `_` folded to `-`.
ADDRESS_HEADERS = frozenset(
    {
        "cf-connecting-ip",
        "cf-connecting-ipv6",
        "cf-pseudo-ipv4",
        "client-ip",
        "cloudfront-viewer-address",
        "do-connecting-ip",
        "fastly-client-ip",
        "fly-client-ip",
        "forwarded",
        "forwarded-for",
        "remote-addr",
        "true-client-ip",
        "x-appengine-user-ip",
        "x-azure-clientip",
        "x-azure-socketip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-envoy-external-address",
        "x-forwarded",
        "x-forwarded-for",
        "x-original-forwarded-for",
        "x-real-ip",
        "x-sentry-forwarded-for",
        "x-vercel-forwarded-for",
    }
)

_MAX_ENTRIES = 64
_MAX_ENTRY = 128
# As much of a header as its last 64 entries and their commas can fill.
_MAX_TEXT = _MAX_ENTRIES * (_MAX_ENTRY + 1)

# How servers name the peer of a unix socket: uvicorn and others, gunicorn, waitress, werkzeug,
# eventlet, uwsgi. Trusted by the name "unix" alone, and never an address.
_UNIX_PEERS = frozenset({"", "localhost", "<local>", "unix", "0.0.0.0"})  # noqa: S104

_UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104

# Peers come from the network: what is remembered of them is bounded.
_MAX_PEERS = 1024
_MAX_PEER_TEXT = 64

_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
# RFC 7239 wants addresses with a colon or bracket quoted; proxies in the wild leave them bare.
_BARE_VALUE = _TOKEN | frozenset(":[]")
_ZONE = frozenset("._~-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")

# Servers that fold X_Forwarded_For into the environ key of X-Forwarded-For.
_UNDERSCORE_SERVERS = ("wsgiserver/", "hypercorn", "granian", "cheroot")

_BEHIND_PROXY_LOOKS = 64
_FAILURES_BEFORE_WARNING = 3

_Outcome: TypeAlias = "tuple[str | None, Origin, int, Reason]"

# What is done with a known peer: its answer stands, or the header is read, or the answer stands
# and somebody should be told if a forwarding header is seen.
_ANSWER, _READ, _WATCH = range(3)


class ClientAddress:
    """The client's address, and how it was found.

    Attributes:
        address: canonical text, or None where nothing can be trusted.
        source: `"peer"` (the connection) or `"header"` (the configured forwarding header).
        hops: the entry's place in the header, counted from the right; 0 for the peer.
        reason: `"ok"`; `"untrusted-peer"` (the connection came from none of the trusted
            proxies, and is the answer); `"no-peer"` (a unix socket, or no address);
            `"malformed"`, `"too-short"` and `"too-long"` (of the header, so no address).
    """

    __slots__ = ("address", "hops", "reason", "source")

    address: str | None
    source: Origin
    hops: int
    reason: Reason

    def __init__(
        self, address: str | None, source: Origin = "peer", hops: int = 0, reason: Reason = "ok"
    ) -> None:
        put = object.__setattr__
        put(self, "address", address)
        put(self, "source", source)
        put(self, "hops", hops)
        put(self, "reason", reason)

    def _values(self) -> _Outcome:
        return (self.address, self.source, self.hops, self.reason)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __eq__(self, other: object) -> bool:
        return (
            self._values() == other._values()
            if isinstance(other, ClientAddress)
            else NotImplemented
        )

    def __hash__(self) -> int:
        return hash(self._values())

    def __reduce__(self) -> tuple[type[ClientAddress], _Outcome]:
        return type(self), self._values()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(address={self.address!r}, source={self.source!r}, "
            f"hops={self.hops!r}, reason={self.reason!r})"
        )


class ProxyTrust:
    """Which proxies are believed, and which one header of theirs.

    Args:
        trusted_proxies: addresses, networks and the names `loopback`, `private`, `linklocal`,
            `cgnat`, `unix`. The header is read only for a peer among them, from the right, up to
            the first address that is not.
        trusted_hops: the number of proxies that append to the header; the address is that many
            entries from the right. With `trusted_proxies` too, the peer must be one of them.
        forwarded_header: `"x-forwarded-for"`, `"forwarded"` (RFC 7239), or a header of one value
            such as `"cf-connecting-ip"`, which needs `trusted_proxies`.

    Raises:
        ConfigurationError: an option is wrong; the text names it, and what to write instead.
    """

    __slots__ = (
        "_environ_key",
        "_failures",
        "_looks",
        "_networks",
        "_peers",
        "_read",
        "_scope_name",
        "forwarded_header",
        "trusted_hops",
        "trusted_proxies",
    )

    def __init__(
        self,
        trusted_proxies: Iterable[str] = (),
        trusted_hops: int | None = None,
        forwarded_header: str = "x-forwarded-for",
    ) -> None:
        self._networks = TrustedNetworks(trusted_proxies)
        self.trusted_proxies = tuple(trusted_proxies)
        self.trusted_hops = _checked_hops(trusted_hops)
        self.forwarded_header = _checked_header(forwarded_header)
        self._check_together()
        self._scope_name = self.forwarded_header.encode("ascii")
        self._environ_key = "HTTP_" + self.forwarded_header.upper().replace("-", "_")
        self._read = self._reader()
        self._peers: dict[str | None, tuple[int, _Outcome]] = {}
        self._looks = 0 if self._trusts_anything else _BEHIND_PROXY_LOOKS
        self._failures: dict[str, int] = {}

    @property
    def _trusts_anything(self) -> bool:
        return bool(self._networks) or self.trusted_hops is not None

    def _check_together(self) -> None:
        header = self.forwarded_header
        if header not in ("x-forwarded-for", "forwarded"):
            if self.trusted_hops is not None:
                raise ConfigurationError(
                    f"trusted_hops counts entries, and {header!r} has one value: leave "
                    "trusted_hops out and keep trusted_proxies"
                )
            if not self._networks:
                raise ConfigurationError(
                    f"forwarded_header={header!r} needs trusted_proxies, since any client can "
                    "send that header: name the proxies that set it"
                )
        elif header != "x-forwarded-for" and not self._trusts_anything:
            raise ConfigurationError(
                f"forwarded_header={header!r} would never be read, as nothing is trusted: give "
                "trusted_proxies or trusted_hops, or leave it out"
            )
        if self.trusted_hops and not self._networks:
            diagnostics.warn_once(
                "client-ip: hops without proxies",
                "trusted_hops without trusted_proxies: a client that reaches this server "
                "directly can choose its address; name your proxies in trusted_proxies too",
            )

    def _reader(self) -> Callable[[list[str], _Outcome], _Outcome]:
        if self.forwarded_header not in ("x-forwarded-for", "forwarded"):
            return self._read_single
        return self._walk if self.trusted_hops is None else self._count

    def locate(self, source: Mapping[str, Any]) -> ClientAddress:
        """Find the client's address in an ASGI scope or a WSGI environ, and say how.

        Never raises, and changes neither `scope["client"]` nor `REMOTE_ADDR`.
        """
        return ClientAddress(*self.outcome(source))

    def outcome(self, source: Mapping[str, Any]) -> _Outcome:
        """Return what `locate` does as a plain tuple: address, source, hops, reason."""
        is_environ = "REQUEST_METHOD" in source
        peer = _environ_peer(source) if is_environ else _scope_peer(source)
        known = self._peers.get(peer) or self._meet(peer, source)
        if known[0] == _ANSWER:
            return known[1]
        if known[0] == _WATCH:
            self._watch(source)
            return known[1]
        if is_environ:
            value = source.get(self._environ_key)
            values = [value] if isinstance(value, str) else []
        else:
            values = _scope_values(source, self._scope_name)
        found = self._read(values, known[1])
        if found[0] is None and found[3] != "no-peer":
            self._count_failure(found[3])
        return found

    # -- the peer --

    def _meet(self, peer: str | None, source: Mapping[str, Any]) -> tuple[int, _Outcome]:
        """Judge a peer that is not remembered, and remember it."""
        known = self._judge(peer)
        self._warn_of_server(source, known[0])
        if peer is None or len(peer) <= _MAX_PEER_TEXT:
            if len(self._peers) >= _MAX_PEERS:
                self._peers.clear()
            self._peers[peer] = known
        return known

    def _judge(self, peer: str | None) -> tuple[int, _Outcome]:
        is_unix = peer is None or peer in _UNIX_PEERS
        address = None if is_unix or peer is None else _bare_address(peer)
        answer: _Outcome = (address, "peer", 0, "no-peer" if address is None else "ok")
        if not self._trusts_anything:
            near = is_unix or (address is not None and address in _near())
            return (_WATCH if near and self._looks else _ANSWER), answer
        if self._networks and not self._trusts(address, is_unix=is_unix):
            return _ANSWER, (answer if address is None else (address, "peer", 0, "untrusted-peer"))
        return (_ANSWER if self.trusted_hops == 0 else _READ), answer

    def _trusts(self, address: str | None, *, is_unix: bool) -> bool:
        if is_unix:
            return self._networks.includes_unix
        return address is not None and address in self._networks

    # -- the header --

    def _walk(self, values: list[str], peer: _Outcome) -> _Outcome:
        """Take the first address from the right that is no trusted proxy."""
        text = _last_entries(values)
        previous, address_of = self._syntax()
        networks = self._networks
        end = len(text)
        found, place = peer, 0
        for _ in range(_MAX_ENTRIES):
            entry, end = previous(text, end)
            if entry is None:
                return _TOO_LONG
            if entry:
                place += 1
                address = address_of(entry)
                if address is None:
                    return None, "header", place, "malformed"
                found = (address, "header", place, "ok")
                if address not in networks:
                    return found
            if end < 0:
                return found  # every entry is trusted: the leftmost, or without any the peer
        return _TOO_LONG

    def _count(self, values: list[str], _peer: _Outcome) -> _Outcome:
        """Take the entry that is `trusted_hops` from the right."""
        text = _last_entries(values)
        previous, address_of = self._syntax()
        end, place = len(text), 0
        for _ in range(_MAX_ENTRIES):
            entry, end = previous(text, end)
            if entry is None:
                return _TOO_LONG
            if entry:
                place += 1
            if entry and place == self.trusted_hops:
                address = address_of(entry)
                return address, "header", place, "malformed" if address is None else "ok"
            if end < 0:
                return None, "header", place, "too-short"
        return _TOO_LONG

    def _read_single(self, values: list[str], _peer: _Outcome) -> _Outcome:
        """Take the header's only value."""
        if not values:
            return None, "header", 0, "too-short"
        value = values[0]
        if len(values) > 1 or "," in value[: _MAX_ENTRY + 1]:
            return None, "header", 0, "malformed"
        if len(value) > _MAX_ENTRY:
            return _TOO_LONG
        value = value.strip(" \t")
        if self.forwarded_header == "cloudfront-viewer-address":
            value = _without_last_port(value)
        address = _bare_address(value)
        return address, "header", 1, "malformed" if address is None else "ok"

    def _syntax(self) -> tuple[_Previous, Callable[[str], str | None]]:
        if self.forwarded_header == "forwarded":
            return _previous_element, _address_of_element
        return _previous_entry, _bare_address

    # -- warnings, each once a process, never with an address --

    def _warn_of_server(self, source: Mapping[str, Any], action: int) -> None:
        if "werkzeug.proxy_fix.orig" in source and not self._trusts_anything:
            diagnostics.warn_once(
                "client-ip: ProxyFix",
                "werkzeug's ProxyFix is in use while nothing is trusted here, so the proxy's "
                "address is reported: give RequestData the same number as trusted_hops",
            )
        software = source.get("SERVER_SOFTWARE")
        software = software.lower() if isinstance(software, str) else ""
        if action == _READ and software.startswith(_UNDERSCORE_SERVERS):
            diagnostics.warn_once(
                "client-ip: underscore headers",
                "this WSGI server takes X_Forwarded_For for X-Forwarded-For, so a client may "
                "add to the header: let the proxy drop headers with underscores",
            )
        if _has_port_zero(source):
            diagnostics.warn_once(
                "client-ip: rewritten peer",
                'scope["client"] has port 0: uvicorn\'s ProxyHeaders, on by default, rewrote it '
                "before us; start uvicorn with --no-proxy-headers and give trusted_proxies",
            )

    def _watch(self, source: Mapping[str, Any]) -> None:
        """Look at a few requests for signs of a proxy that nobody told us of."""
        if _has_address_header(source):
            self._looks = 0
            diagnostics.warn_once(
                "client-ip: behind a proxy",
                "you seem to be behind a proxy: a forwarding header arrived from a private "
                "address or a unix socket, but nothing is trusted, so the proxy's address is "
                "reported; give RequestData trusted_proxies",
            )
        self._looks -= 1
        if self._looks <= 0:
            self._looks = 0
            self._peers.clear()

    def _count_failure(self, reason: str) -> None:
        count = self._failures[reason] = self._failures.get(reason, 0) + 1
        if count >= _FAILURES_BEFORE_WARNING:
            diagnostics.warn_once(
                f"client-ip: {reason}",
                "no client address in %s of %d requests through a trusted proxy (%s): check "
                "trusted_proxies, trusted_hops and forwarded_header against what it sends",
                self.forwarded_header,
                count,
                reason,
            )


_TOO_LONG: _Outcome = (None, "header", 0, "too-long")

_near_networks: list[TrustedNetworks] = []


def _near() -> TrustedNetworks:
    """Return the ranges in which proxies usually live."""
    if not _near_networks:
        _near_networks.append(TrustedNetworks(["loopback", "private", "linklocal", "cgnat"]))
    return _near_networks[0]


# -- options --


def _checked_hops(hops: object) -> int | None:
    if hops is None:
        return None
    if isinstance(hops, bool) or not isinstance(hops, int):
        raise ConfigurationError(
            f"trusted_hops must be a whole number such as 1, not {type(hops).__name__}"
        )
    if hops < 0:
        raise ConfigurationError(f"trusted_hops is {hops}: write the number of proxies, 0 or more")
    return hops


def _checked_header(header: object) -> str:
    if not isinstance(header, str):
        raise ConfigurationError(
            f'forwarded_header must be a name such as "x-real-ip", not {type(header).__name__}'
        )
    if "_" in header:
        raise ConfigurationError(
            f"forwarded_header={header!r} has an underscore, as only a forged header would: "
            f"write {header.replace('_', '-').lower()!r}"
        )
    if not header or not _TOKEN.issuperset(header):
        raise ConfigurationError(
            f"forwarded_header={header!r} is no header name: write one such as 'x-forwarded-for'"
        )
    return header.lower()


# -- scope and environ --


def _scope_peer(scope: Mapping[str, Any]) -> str | None:
    client = scope.get("client")
    if not client:
        return None
    peer = client[0] if isinstance(client, (tuple, list)) else "?"
    return peer if peer is None or isinstance(peer, str) else "?"


def _environ_peer(environ: Mapping[str, Any]) -> str | None:
    # What werkzeug's ProxyFix made of the header is set aside: it is judged here.
    original = environ.get("werkzeug.proxy_fix.orig")
    peer = (original if isinstance(original, dict) else environ).get("REMOTE_ADDR")
    return peer if peer is None or isinstance(peer, str) else "?"


def _scope_values(scope: Mapping[str, Any], name: bytes) -> list[str]:
    """Return the values of one header, in order, of each no more than can matter."""
    headers = scope.get("headers")
    length = len(name)
    try:
        values = [
            value for key, value in headers or () if len(key) == length and key.lower() == name
        ]
        return [value[-_MAX_TEXT:].decode("latin-1") for value in values]
    except (TypeError, ValueError, AttributeError):
        return [value.decode("latin-1") for key, value in _sound_headers(headers) if key == name]


def _sound_headers(headers: object) -> list[tuple[bytes, bytes]]:
    """Return the pairs of bytes among headers that are not as ASGI wants them."""
    # An iterator is the app's to read: taking from it would empty it.
    if not isinstance(headers, (list, tuple)):
        return []
    pairs = [pair for pair in headers if isinstance(pair, (list, tuple)) and len(pair) == 2]
    return [
        (key.lower(), value[-_MAX_TEXT:])
        for key, value in pairs
        if isinstance(key, bytes) and isinstance(value, bytes)
    ]


def _has_port_zero(source: Mapping[str, Any]) -> bool:
    client = source.get("client")
    if not isinstance(client, (tuple, list)) or len(client) < 2:
        return False
    return bool(client[0]) and isinstance(client[1], int) and client[1] == 0


def _has_address_header(source: Mapping[str, Any]) -> bool:
    if "REQUEST_METHOD" in source:
        return any(
            key[5:].replace("_", "-").lower() in ADDRESS_HEADERS
            for key in source
            if key.startswith("HTTP_")
        )
    pairs = _sound_headers(source.get("headers"))
    return any(key.decode("latin-1") in ADDRESS_HEADERS for key, _ in pairs)


# -- lists of entries, from the right --

#: Given a text and where its unread part ends: the last entry in it (None: too long), and where
#: the unread part ends now (-1: nothing is left).
_Previous: TypeAlias = Callable[[str, int], "tuple[str | None, int]"]


def _last_entries(values: list[str]) -> str:
    """Join several lines of a header as one list (RFC 9110, section 5.3), its end alone."""
    if len(values) == 1:
        return values[0][-_MAX_TEXT:]
    kept: list[str] = []
    room = _MAX_TEXT
    for value in reversed(values):
        kept.append(value[-room:])
        room -= len(kept[-1]) + 1
        if room <= 0:
            break
    return ",".join(reversed(kept))[-_MAX_TEXT:]


def _previous_entry(text: str, end: int) -> tuple[str | None, int]:
    """Cut at a comma. X-Forwarded-For has no quoting: a quote must not swallow entries."""
    start = end - _MAX_ENTRY - 1
    comma = text.rfind(",", max(0, start), end)
    if comma < 0 <= start:
        return None, -1
    return text[comma + 1 : end].strip(" \t"), comma


def _previous_element(text: str, end: int) -> tuple[str | None, int]:
    """Cut at a comma outside a quoted string, as told from the right.

    From there the part that a proxy of ours wrote is read first, and whatever a client wrote
    before it, an unclosed quote included, cannot reach into it.
    """
    start = end - _MAX_ENTRY - 1
    low = max(start, 0)
    at = end
    while True:
        comma = text.rfind(",", low, at)
        quote = text.rfind('"', low, at)
        if quote < comma or quote < 0:
            break
        at = quote
        if _closes(text, quote, end):
            opening = _opening(text, quote, low)
            if opening is None and low > 0:
                return None, -1  # it may open before the part that is looked at
            at = quote if opening is None or opening < 0 else opening
    if comma < 0 <= start:
        return None, -1
    return text[comma + 1 : end].strip(" \t"), comma


def _closes(text: str, quote: int, end: int) -> bool:
    """Return whether this quote can close a string: nothing but a separator follows it."""
    rest = text[quote + 1 : end].lstrip(" \t")
    return (not rest or rest[0] == ";") and not _is_escaped(text, quote)


def _opening(text: str, closing: int, low: int) -> int | None:
    """Return where the string opens that closes here; -1 if none does, None if it is not seen."""
    at = closing
    while True:
        at = text.rfind('"', low, at)
        if at < 0:
            return None
        if not _is_escaped(text, at):
            return at if text[at - 1 : at] == "=" else -1


def _is_escaped(text: str, at: int) -> bool:
    before = text[max(at - _MAX_ENTRY, 0) : at]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


# -- one entry --


def _address_of_element(element: str) -> str | None:
    """Return the address of the `for` of an element of `Forwarded` (RFC 7239, section 4)."""
    if len(element) > _MAX_ENTRY:
        return None
    node: str | None = None
    names: set[str] = set()
    at = 0
    while at < len(element):
        if element[at] in "; \t":
            at += 1
            continue
        name, value, at = _pair(element, at)
        if value is None or name in names:
            return None  # junk, or twice the same: which one is the proxy's?
        names.add(name)
        if name == "for":
            node = value
    return None if node is None else _bare_address(node, obfuscated_port=True)


def _pair(element: str, at: int) -> tuple[str, str | None, int]:
    """Read `name=value` from a place on; the value is None unless it is well formed."""
    equals = element.find("=", at)
    name = element[at:equals]
    if equals < 0 or not name or not _TOKEN.issuperset(name):
        return "", None, at
    if element[equals + 1 : equals + 2] == '"':
        value, end = _quoted(element, equals + 2)
    else:
        end = element.find(";", equals)
        end = len(element) if end < 0 else end
        bare = element[equals + 1 : end].rstrip(" \t")
        value = bare if bare and _BARE_VALUE.issuperset(bare) else None
    rest = element[end:].lstrip(" \t")
    return name.lower(), value if not rest or rest[0] == ";" else None, end


def _quoted(element: str, at: int) -> tuple[str | None, int]:
    """Read a quoted string (RFC 9110, section 5.6.4) up to its closing quote."""
    characters: list[str] = []
    while at < len(element):
        character = element[at]
        if character == '"':
            return "".join(characters), at + 1
        if character == "\\":
            at += 1
            character = element[at : at + 1]
        characters.append(character)
        at += 1
    return None, at


def _bare_address(text: str, *, obfuscated_port: bool = False) -> str | None:
    """Return the canonical address of `address`, `address:port`, `[address]` or `[address]:port`.

    A zone is dropped; an unspecified address is none.
    """
    if len(text) > _MAX_ENTRY:
        return None
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or ":" not in text or (port and not _is_port(port, obfuscated_port)):
            return None
    elif text.count(":") == 1:
        text, port = text.split(":")
        if not _is_port(":" + port, obfuscated_port):
            return None
    if "%" in text:
        text, _, zone = text.partition("%")
        if ":" not in text or not 1 <= len(zone) <= 64 or not _ZONE.issuperset(zone):
            return None
    address = canonical_address(text)
    return None if address in _UNSPECIFIED else address


def _is_port(text: str, obfuscated: bool) -> bool:
    digits = text[1:]
    if text[0] != ":" or not digits:
        return False
    if obfuscated and digits[0] == "_":
        return len(digits) > 1 and _ZONE.issuperset(digits) and "~" not in digits
    # isdigit() alone accepts "²".
    return digits.isascii() and digits.isdigit() and len(digits) <= 5 and int(digits) <= 65535


def _without_last_port(value: str) -> str:
    """Cut the port off `ip:port`, where an IPv6 address has no brackets."""
    address, _, port = value.rpartition(":")
    return address if _is_port(":" + port, obfuscated=False) else ""
