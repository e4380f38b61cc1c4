"""Peer, forwarding header and trust make one address: the client's, which it cannot choose; pure.

How a header is read is `forwarding`'s matter; who is believed is decided here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeAlias

from usercontext import diagnostics
from usercontext.address.forwarding import (
    MAX_ENTRY,
    MAX_TEXT,
    TOKEN,
    UNSPECIFIED,
    address_of_element,
    bare_address,
    elements,
    entries,
    without_last_port,
)
from usercontext.address.networks import TrustedNetworks
from usercontext.checks import is_whole
from usercontext.exceptions import ConfigurationError
from usercontext.source import (
    PROXY_FIX,
    REMOTE_PORT,
    REQUEST_METHOD,
    SERVER_SOFTWARE,
    environ_key,
    has_proxy_fix,
    header_line,
    headers,
    may_be_adapters,
    server_software,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from usercontext.address.peers import Peer
    from usercontext.source import Source

__all__ = ["BEGAN", "Began", "ClientAddress", "Observed", "Outcome", "ProxyTrust"]

Origin: TypeAlias = Literal["peer", "header"]
Reason: TypeAlias = Literal["ok", "untrusted-peer", "no-peer", "malformed", "too-short", "too-long"]

# How servers name the peer of a unix socket: uvicorn and others, gunicorn, waitress, werkzeug,
# eventlet, uwsgi, nginx. Trusted by the name "unix" alone, and never an address.
_UNIX_PEERS = frozenset({"", "localhost", "<local>", "unix", "0.0.0.0", "unix:"})  # noqa: S104
# What nginx appends for a proxy before it that is connected by a unix socket.
_UNIX_ENTRY = "unix:"

# Peers and headers come from the network: what is remembered of them is bounded.
_MAX_REMEMBERED = 1024
_MAX_REMEMBERED_TEXT = 128

# Headers of several entries, each of a proxy; all others have one value.
_LISTS = ("x-forwarded-for", "forwarded")

_BEHIND_PROXY_LOOKS = 64
_FAILURES_BEFORE_WARNING = 3

#: Where a scope or environ keeps what was observed when its request began, and which trust did.
BEGAN: Final = "usercontext.address"

#: Address, source, hops and reason, as `ClientAddress` has them.
Outcome: TypeAlias = "tuple[str | None, Origin, int, Reason]"
#: The peer's own answer, where its header stands, and what is to be done, as below.
Observed: TypeAlias = "tuple[Outcome, Any, int]"
#: What was observed as a request began, and by whose rules.
Began: TypeAlias = "tuple[ProxyTrust, Observed]"

# What is done with a peer: its answer stands, or the header is read, or the answer stands
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

    def _values(self) -> Outcome:
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

    def __reduce__(self) -> tuple[type[ClientAddress], Outcome]:
        return type(self), self._values()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(address={self.address!r}, source={self.source!r}, "
            f"hops={self.hops!r}, reason={self.reason!r})"
        )


_TOO_LONG: Outcome = (None, "header", 0, "too-long")
_LOST: Observed = ((None, "peer", 0, "no-peer"), None, _ANSWER)


def _untrusted(address: str) -> Outcome:
    return address, "peer", 0, "untrusted-peer"


def _malformed(place: int) -> Outcome:
    return None, "header", place, "malformed"


def _found(address: str | None, place: int) -> Outcome:
    return _malformed(place) if address is None else (address, "header", place, "ok")


def _holds_nothing(_text: str) -> None:
    """Leave every entry to be read with its syntax."""


def _observed(answer: Outcome, source: Source, key: str, action: int) -> Observed:
    return (answer, _kept(source.get(key)), _READ) if action == _READ else (answer, None, _ANSWER)


def _kept(lines: Any) -> Any:
    """Return what is kept of a header's value, or of all headers."""
    return tuple(lines) if type(lines) is list else lines


class _Shortcomings:
    """Counts what is wrong with the header, and says so once.

    Attributes:
        server: how the server that hands us the header calls itself.
    """

    __slots__ = ("_absent", "_failures", "_name", "server")

    def __init__(self, name: str) -> None:
        self._name = name
        self._failures: dict[str, int] = {}
        self._absent = 0  # -1 once the header was there
        self.server: str = ""

    def found(self) -> None:
        """Stop counting, as the header is there."""
        self._absent = -1

    def count_absent(self) -> None:
        """Count requests of trusted proxies without the header, until one has it."""
        if self._absent < 0 or self._name not in _LISTS:
            return
        from usercontext.address.servers import warn_of_absence

        is_told = warn_of_absence(self._name, self.server, self._absent + 1)
        self._absent = -1 if is_told else self._absent + 1

    def count_failure(self, reason: str) -> None:
        """Count requests of trusted proxies whose header gives no address, and say so of many."""
        count = self._failures[reason] = self._failures.get(reason, 0) + 1
        if count >= _FAILURES_BEFORE_WARNING:
            diagnostics.warn_once(
                f"client-ip: {reason}",
                "no client address in %s of %d requests through a trusted proxy (%s): check "
                "trusted_proxies, trusted_hops and forwarded_header against what it sends",
                self._name,
                count,
                reason,
            )


class _HeaderReader:
    """Reads the one header that is believed, from the right.

    Attributes:
        shortcomings: counts the requests that it gives no address of.
    """

    __slots__ = (
        "_address_of",
        "_answers",
        "_holds_ipv4",
        "_hops",
        "_name",
        "_networks",
        "_read",
        "_scope_name",
        "_split",
        "_walks_unix",
        "shortcomings",
    )

    def __init__(self, networks: TrustedNetworks, hops: int | None, name: str) -> None:
        self._networks = networks
        self._hops = hops
        self._name = name
        self._scope_name = name.encode("ascii")
        is_rfc7239 = name == "forwarded"
        self._holds_ipv4 = _holds_nothing if is_rfc7239 else networks.holds_ipv4
        self._split = elements if is_rfc7239 else entries
        self._address_of = address_of_element if is_rfc7239 else bare_address
        self._read = self._reader()
        self._answers: dict[str | bytes | None, Outcome] = {}
        self.shortcomings: _Shortcomings = _Shortcomings(name)
        # It stands for a proxy on the same host, which "loopback" means as well.
        self._walks_unix = networks.includes_unix and "127.0.0.1" in networks

    def _reader(self) -> Callable[[str | None, Outcome], Outcome]:
        if self._name not in _LISTS:
            return self._read_single
        return self._walk if self._hops is None else self._count

    def read(self, lines: Any, peer: Outcome) -> Outcome:
        """Read the header that a trusted peer has sent; both as `observe` has taken them."""
        line: str | bytes | None = None
        if type(lines) is tuple or type(lines) is list:
            name = self._scope_name
            try:
                for key, value in lines:
                    if key == name:
                        line = value if line is None else ""  # of several, below
            except (TypeError, ValueError):
                line = None
            if type(line) is not bytes:
                line = header_line(lines, name, MAX_TEXT)
        elif isinstance(lines, str):
            line = lines
        elif lines is not None:
            line = header_line(lines, self._scope_name, MAX_TEXT)
        found = self._answers.get(line) or self._answer(line, peer)
        if found[0] is None and found[3] != "no-peer":
            self.shortcomings.count_failure(found[3])
        return found

    def confirms(self, answer: Outcome, source: Source) -> bool:
        """Return whether a header says, read from the right, what the server has made of it."""
        line = header_line(source.get("headers"), b"x-forwarded-for", MAX_TEXT)
        text = (line or b"").decode("latin-1")
        if self._networks and self._name == "x-forwarded-for":
            return self._walk(text, _LOST[0])[0] == answer[0]
        return bare_address(entries(text)[-1].strip(" \t")) == answer[0]

    def _answer(self, line: str | bytes | None, peer: Outcome) -> Outcome:
        """Read the header, and remember what it says where that does not depend on the peer."""
        text = line[-MAX_TEXT:].decode("latin-1") if isinstance(line, bytes) else line
        found = self._read(text, peer)
        if line is None:
            self.shortcomings.count_absent()
        else:
            self.shortcomings.found()
        if line and found is not peer and len(line) <= _MAX_REMEMBERED_TEXT:
            if len(self._answers) >= _MAX_REMEMBERED:
                self._answers.clear()
            self._answers[line] = found
        return found

    def _walk(self, text: str | None, peer: Outcome) -> Outcome:
        """Take the first address from the right that is not a trusted proxy."""
        holds_ipv4 = self._holds_ipv4
        place, found = 0, peer[0]
        for entry in reversed(self._split(text) if text else ()):
            node = entry.strip(" \t")
            # Bare IPv4, by far the most frequent, is parsed once for both questions.
            is_proxy = None if ":" in node else holds_ipv4(node)
            if is_proxy is None:
                if not node:
                    continue
                if len(entry) > MAX_ENTRY:
                    return _TOO_LONG
                address = self._address_of(node)
                if node == _UNIX_ENTRY and self._walks_unix:
                    place, found = place + 1, None
                    continue
                node, is_proxy = address or "::", address is not None and address in self._networks
            place += 1
            if not is_proxy:
                return _malformed(place) if node in UNSPECIFIED else (node, "header", place, "ok")
            found = node
        # Every entry is trusted: the leftmost, or without any the peer.
        if not place:
            return peer
        return _malformed(place) if found is None else (found, "header", place, "ok")

    def _count(self, text: str | None, _peer: Outcome) -> Outcome:
        """Take the entry that is `trusted_hops` from the right."""
        place = 0
        for entry in reversed(self._split(text or "")):
            if len(entry) > MAX_ENTRY:
                return _TOO_LONG
            node = entry.strip(" \t")
            place += 1 if node else 0
            if node and place == self._hops:
                return _found(self._address_of(node), place)
        return None, "header", place, "too-short"

    def _read_single(self, text: str | None, _peer: Outcome) -> Outcome:
        """Take the header's only value."""
        if text is None:
            return None, "header", 0, "too-short"
        if len(text) > MAX_ENTRY:
            return _TOO_LONG
        value = text.strip(" \t")
        if self._name == "cloudfront-viewer-address":
            value = without_last_port(value)
        return _found(bare_address(value), 1)  # none with a comma, so none of several lines


class _Peers:
    """Judges who is connected, and remembers it.

    Attributes:
        known: what is remembered of each peer; the dict stays the same one.
        trusts_anything: whether some proxies are named or counted.
    """

    __slots__ = ("_header", "_hops", "_looks", "_networks", "known", "trusts_anything")

    def __init__(self, networks: TrustedNetworks, hops: int | None, header: _HeaderReader) -> None:
        self._networks = networks
        self._hops = hops
        self._header = header
        self.known: dict[Any, Observed] = {}
        self.trusts_anything = bool(networks) or hops is not None
        self._looks = 0 if self.trusts_anything else _BEHIND_PROXY_LOOKS

    def meet(self, peer: object, source: Source) -> Observed:
        """Judge a peer that is not remembered, and remember it."""
        known = self.judge(peer)
        self._warn_of_server(source, known[2])
        if peer is None or (isinstance(peer, str) and len(peer) <= _MAX_REMEMBERED_TEXT):
            if len(self.known) >= _MAX_REMEMBERED:
                self.known.clear()
            self.known[peer] = known
        return known

    def judge(self, peer: object) -> Observed:
        """Return what a peer is to be answered with, and what is done with its header."""
        is_unix = peer is None or peer in _UNIX_PEERS
        address = bare_address(peer) if isinstance(peer, str) and not is_unix else None
        answer: Outcome = (address, "peer", 0, "no-peer" if address is None else "ok")
        if not self.trusts_anything:
            near = is_unix or (address is not None and address in _near())
            return answer, None, (_WATCH if near and self._looks else _ANSWER)
        if self._networks and not self._trusts(address, is_unix=is_unix):
            return (answer if address is None else _untrusted(address)), None, _ANSWER
        return answer, None, (_ANSWER if self._hops == 0 else _READ)

    def _trusts(self, address: str | None, *, is_unix: bool) -> bool:
        if is_unix:
            return self._networks.includes_unix
        return address is not None and address in self._networks

    def _warn_of_server(self, source: Source, action: int) -> None:
        if has_proxy_fix(source) and not self.trusts_anything:
            diagnostics.warn_once(
                "client-ip: ProxyFix",
                "werkzeug's ProxyFix is in use while nothing is trusted here, so the proxy's "
                "address is reported: give RequestData the same number as trusted_hops",
            )
        if action == _READ:
            from usercontext.address.servers import warn_of_folding  # once for each peer

            warn_of_folding(source)
            self._header.shortcomings.server = server_software(source)

    def watch(self, source: Source) -> None:
        """Look at a few requests for signs of a proxy that nobody told us of."""
        from usercontext.address.headers import is_address_header  # few ask

        if any(map(is_address_header, headers(source))):
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
            self.known.clear()

    def observe_told(self, source: Source, key: str, *, is_function: bool) -> Observed:
        """Observe a request whose peer may be something else than the connection's."""
        from usercontext.address.peers import peer_of  # adapters and few servers

        told = peer_of(source)
        if told.origin != "connection":
            return self._observe_other(told, source, key, is_function=is_function)
        try:
            answer, _, action = self.known.get(told.address) or self.meet(told.address, source)
        except TypeError:  # nothing hashable
            answer, _, action = self.judge("?")
        if action == _WATCH:
            self.watch(source)
        return _observed(answer, source, key, action)

    def _observe_other(
        self, told: Peer, source: Source, key: str, *, is_function: bool
    ) -> Observed:
        _warn_of_peer(told)
        answer, _, action = self.judge(told.address) if told.address else _LOST
        if told.origin == "front":
            # Nobody gets past the platform's own front end, so its header is as good as trusted.
            action = _READ if self.trusts_anything else _ANSWER
        elif told.origin == "event" and is_function:
            action = _ANSWER
        elif told.origin == "lost" or not told.address:
            action = _READ if self._hops and not self._networks else _ANSWER
        elif (
            told.origin == "checked"
            and action != _READ
            and not self._header.confirms(answer, source)
        ):
            answer = _LOST[0]
        return _observed(answer, source, key, action)


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
        is_function: whether the app is a function of AWS Lambda, whose event has the last word on
            who is connected, and which no client reaches directly.

    Raises:
        ConfigurationError: an option is wrong; the text names it, and what to write instead.
    """

    __slots__ = (
        "_environ_key",
        "_is_function",
        "_known",
        "_networks",
        "_peers",
        "forwarded_header",
        "header",
        "trusted_hops",
        "trusted_proxies",
    )

    def __init__(
        self,
        trusted_proxies: Iterable[str] = (),
        trusted_hops: int | None = None,
        forwarded_header: str = "x-forwarded-for",
        *,
        is_function: bool = False,
    ) -> None:
        networks = TrustedNetworks(trusted_proxies)
        self._is_function = is_function
        self._networks = networks
        self.trusted_proxies: tuple[str, ...] = tuple(trusted_proxies)
        self.trusted_hops: int | None = _checked_hops(trusted_hops)
        self.forwarded_header: str = _checked_header(forwarded_header)
        _check_together(networks, self.trusted_hops, self.forwarded_header)
        if self.trusted_hops and not networks and not (is_function or _runs_in_lambda()):
            _warn_of_hops()
        self._environ_key = environ_key(self.forwarded_header)
        #: Reads what `observe` has taken of the header.
        self.header: _HeaderReader = _HeaderReader(
            networks, self.trusted_hops, self.forwarded_header
        )
        self._peers = _Peers(networks, self.trusted_hops, self.header)
        self._known = self._peers.known

    def locate(self, source: Source) -> ClientAddress:
        """Find the client's address in an ASGI scope or a WSGI environ, and say how.

        Never raises, and changes neither `scope["client"]` nor `REMOTE_ADDR`.
        """
        return ClientAddress(*self.outcome(source))

    def outcome(self, source: Source) -> Outcome:
        """Return what `locate` does as a plain tuple: address, source, hops, reason."""
        return self.read(self.observe(source))

    def observe(self, source: Source) -> Observed:
        """Take from a request what its client's address can be read of later.

        It parses nothing, nor does it look for the header among a scope's: most requests end
        without anybody asking. Headers are kept only where the peer is trusted.
        """
        began: Began | None = source.get(BEGAN)
        if began is not None and began[0] is self:
            if began[1][2]:
                _warn_of_grown(began[1][1], source)
            return began[1]
        is_environ = REQUEST_METHOD in source
        return (self.begin_environ(source) if is_environ else self.begin_scope(source))[1]

    def begin_environ(self, environ: Source) -> Began:
        """Observe an environ as its request begins, for `BEGAN`, as the app may change it."""
        # In place, with keys of source.py: each request would feel the calls.
        try:
            # Few servers leave out both, and few of those that do are adapters.
            if (
                REMOTE_PORT not in environ
                and SERVER_SOFTWARE not in environ
                and may_be_adapters(environ)
            ):
                return self, self._observe_told(environ, self._environ_key)
            peer = environ.get("REMOTE_ADDR")
            if PROXY_FIX in environ:  # what the header says is judged here, not there
                original = environ[PROXY_FIX]
                peer = original.get("REMOTE_ADDR") if isinstance(original, dict) else peer
            known = self._known.get(peer) or self._peers.meet(peer, environ)
        except TypeError:  # nothing hashable
            known = self._peers.judge("?")
        action = known[2]
        if not action:
            return self, known
        if action == _READ:
            return self, (known[0], environ.get(self._environ_key), _READ)
        self._peers.watch(environ)
        return self, (known[0], None, _ANSWER)

    def begin_scope(self, scope: Source) -> Began:
        """Observe a scope as its request begins, for `BEGAN`, as the app may change it.

        Of headers a copy: what is appended to the list afterwards was not sent by the client.
        """
        try:
            client = scope.get("client")
            if type(client) is not tuple or len(client) < 2 or not client[1]:
                return self, self._observe_told(scope, "headers")
            known = self._known.get(client[0]) or self._peers.meet(client[0], scope)
        except (TypeError, LookupError, AttributeError):  # no pair, or nothing hashable in it
            known = self._peers.judge("?")
        action = known[2]
        if not action:
            return self, known
        if action == _READ:
            return self, (known[0], _kept(scope.get("headers")), _READ)
        self._peers.watch(scope)
        return self, (known[0], None, _ANSWER)

    def _observe_told(self, source: Source, key: str) -> Observed:
        return self._peers.observe_told(source, key, is_function=self._is_function)

    def read(self, observed: Observed) -> Outcome:
        """Return what `outcome` does, of what `observe` has taken."""
        peer, lines, action = observed
        return self.header.read(lines, peer) if action else peer


def _runs_in_lambda() -> bool:
    """Return whether this is a function of AWS Lambda, which no client reaches directly."""
    import os

    return "AWS_LAMBDA_FUNCTION_NAME" in os.environ


def _warn_of_peer(told: Peer) -> None:
    if told.origin in ("checked", "lost"):
        from usercontext.address.rewritten import advice_on

        diagnostics.warn_once(f"client-ip: rewritten peer, {told.by}", advice_on(told.by))


def _warn_of_grown(lines: Any, source: Source) -> None:
    """Say of headers that were added after the request began that nobody reads them."""
    now = source.get("headers")
    if type(lines) is tuple and type(now) is list and len(now) > len(lines):
        diagnostics.warn_once(
            "client-ip: headers that grew",
            "headers were added to a request after it began; the client's address is read "
            "from those with which it came: let what adds them run before usercontext, or "
            "in the proxy",
        )


def _warn_of_hops() -> None:
    diagnostics.warn_once(
        "client-ip: hops without proxies",
        "trusted_hops without trusted_proxies: a client that reaches this server "
        "directly can choose its address; name your proxies in trusted_proxies too",
    )


_near_networks: list[TrustedNetworks] = []


def _near() -> TrustedNetworks:
    """Return the ranges in which proxies usually live."""
    if not _near_networks:
        _near_networks.append(TrustedNetworks(["loopback", "private", "linklocal", "cgnat"]))
    return _near_networks[0]


# -- options --


def _check_together(networks: TrustedNetworks, hops: int | None, header: str) -> None:
    if header not in _LISTS:
        if hops is not None:
            raise ConfigurationError(
                f"trusted_hops counts entries, and {header!r} has one value: leave "
                "trusted_hops out and keep trusted_proxies"
            )
        if not networks:
            raise ConfigurationError(
                f"forwarded_header={header!r} needs trusted_proxies, since any client can "
                "send that header: name the proxies that set it"
            )
    elif header != "x-forwarded-for" and not networks and hops is None:
        raise ConfigurationError(
            f"forwarded_header={header!r} would never be read, as nothing is trusted: give "
            "trusted_proxies or trusted_hops, or leave it out"
        )


def _checked_hops(hops: object) -> int | None:
    if hops is None:
        return None
    if not is_whole(hops):
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
    if not header or not TOKEN.issuperset(header):
        raise ConfigurationError(
            f"forwarded_header={header!r} is not a header name: write one such as 'x-forwarded-for'"
        )
    return header.lower()
