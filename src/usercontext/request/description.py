"""The `request` part of a report, built from an ASGI scope or a WSGI environ alike; pure.

Whatever stands there came from the network: it is copied, bounded and filtered, never trusted.
"""

from __future__ import annotations

import re
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from usercontext import diagnostics
from usercontext import source as parts
from usercontext.address.headers import is_address_header
from usercontext.address.search import HiddenAddresses
from usercontext.privacy.secret_names import FILTERED, is_secret, is_secret_parameter
from usercontext.privacy.secret_texts import without_secrets
from usercontext.request.body import copied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from usercontext.request import RequestData
    from usercontext.source import Source

__all__ = ["collect", "explain", "hidden_addresses", "repeats_query", "unquoted"]

_MAX_HEADERS = 128
_MAX_VALUE = 2048
_MAX_PAIRS = 128
_MAX_QUERY = 4096
_MAX_PATH = 2048
_CUT = "..."
_NOTHING: tuple[object, ...] = (None, "", {})  # 0, False and [] are data like any other

_HOST_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]")
_PLAIN_PATH = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=:@/"
# Browsers can send no header with a websocket, so apps pass tokens as a subprotocol.
_SECRET_HEADERS = frozenset({"sec-websocket-protocol", "x-nf-sign"})
# In which proxies repeat the request's own URL, path or query.
_QUERY_NAMES = ("-query", "-query-string", "-querystring", "-args")
_OWN_URL_NAMES = ("-url", "-uri", "-path")
_URL_NAMES = (*_OWN_URL_NAMES, "referer", "referrer", "-location", "-redirect")
_IS_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|/[^\s?]*\?")


def collect(
    options: RequestData, source: Source, *, data: object = None, include_ip: bool | None = None
) -> dict[str, Any]:
    """Return the `request` of a report: what the flags allow, copied, bounded, filtered.

    Never raises and never changes the source; a part that cannot be read is left out.

    Args:
        options: what may be reported.
        source: an ASGI scope or a WSGI environ.
        data: what the app handed over as the request's data.
        include_ip: overrules the option of that name.
    """
    shows_ip = options.include_ip if include_ip is None else include_ip
    try:
        return _payload(options, source, data, shows_ip=shows_ip)
    except Exception:  # noqa: BLE001
        diagnostics.failure("request data", "a request could not be described; it is left out")
        return {}


def explain(options: RequestData, source: Source, *, data: object = None) -> dict[str, Any]:
    """Return how the client's address was found, and what of a request is kept back, and why.

    For the report itself, so never an address: only source, header, hops and reason, and the
    names of parts and options. Never raises.
    """
    told: dict[str, Any] = {"address": _address_told(options, source)}
    try:
        withheld = [
            {"what": what, "rule": rule} for what, rule in _kept_back(options, source, data)
        ]
    except Exception:  # noqa: BLE001
        diagnostics.failure("request data", "what a report keeps back could not be told")
        return told
    if not options.include_ip:
        withheld.insert(0, {"what": "client address", "rule": "include_ip=False"})
    return {**told, "withheld": withheld} if withheld else told


def _address_told(options: RequestData, source: Source) -> dict[str, Any]:
    found = options.locate(source)
    told: dict[str, Any] = {
        "source": found.source,
        "hops": found.hops,
        "reason": found.reason,
        "included": options.include_ip,
        "anonymized": options.anonymize_ip is not False,
    }
    if found.source == "header":
        told["header"] = options.forwarded_header
    return told


def _payload(
    options: RequestData, source: Source, data: object, *, shows_ip: bool
) -> dict[str, Any]:
    address = options.locate(source).address if shows_ip else None
    hides_raw_address = not shows_ip or options.anonymize_ip is not False
    hidden = hidden_addresses(options, source) if hides_raw_address else HiddenAddresses()
    headers: dict[str, str] = {}
    if options.include_headers or options.include_cookies:
        headers = parts.headers(source)
    request: dict[str, Any] = {}
    _add(request, "method", _method, source)
    if options.include_url:
        _add(request, "url", _url, source, hidden)
    if options.include_query_string:
        _add(request, "query_string", _query, source, hidden)
    if options.include_headers:
        shown = partial(_reported_headers, options, drops=hides_raw_address)
        _add(request, "headers", shown, headers, hidden)
    if options.include_cookies:
        _add(request, "cookies", _cookies, headers, hidden)
    if options.include_data and data is not None:
        _add(request, "data", partial(copied, hides=hidden.is_in), data)
    if address is not None:
        request["env"] = {"REMOTE_ADDR": address}
    return request


def _kept_back(options: RequestData, source: Source, data: object) -> Iterator[tuple[str, str]]:
    """Yield which parts of a request the options keep out of its report, and which option does.

    Only what the request has; names of parts, and of headers that hold addresses, no value.
    """
    headers = parts.headers(source) if options.include_headers else {}
    for part, option, is_there in (
        ("URL", "include_url", True),
        ("query string", "include_query_string", bool(parts.query(source))),
        ("headers", "include_headers", parts.has_headers(source)),
        ("cookies", "include_cookies", parts.has_cookies(source)),
        ("data", "include_data", data is not None),
    ):
        if is_there and not getattr(options, option):
            yield part, f"{option}=False"
    if options.include_headers and not (options.include_ip and options.anonymize_ip is False):
        rule = "anonymize_ip" if options.include_ip else "include_ip=False"
        for name in headers:
            if is_address_header(name, configured=options.forwarded_header):
                yield f"header {_titled(name)}", rule


def _add(request: dict[str, Any], name: str, part: Callable[..., Any], *of: Any) -> None:
    try:
        value = part(*of)
    except Exception as error:  # noqa: BLE001
        # Not with the traceback, whose last line may quote what the request held.
        diagnostics.warn_once(
            f"request data {name}",
            "the %s of a request could not be read (%s); it is left out of the report",
            name,
            type(error).__name__,
        )
        return
    if value or value not in _NOTHING:
        request[name] = value


# -- addresses --


def _addresses_of(source: Source, options: RequestData) -> Iterator[str]:
    """Yield every text of the request that is there to hold addresses."""
    for name, value in parts.headers(source).items():
        if is_address_header(name, value, configured=options.forwarded_header):
            yield value[-8 * _MAX_VALUE :]  # the end is what proxies of ours wrote
    yield from parts.peers(source)
    yield options.observe(source)[0][0] or ""


def hidden_addresses(options: RequestData, source: Source) -> HiddenAddresses:
    """Return what recognises, in any text, the addresses that a request came with.

    Where the client's is the server's own as well, it is not a secret.
    """
    gather = partial(_addresses_of, source, options)
    return HiddenAddresses(gather, spared=parts.server(source)[0])


# -- method and URL --


def _method(source: Source) -> str:
    method = parts.method(source)
    # A websocket's handshake is a GET (RFC 6455, section 4.1), and its scope names no method.
    return method[:32] if method.isascii() and method.isalpha() else ("" if method else "GET")


def _url(source: Source, hidden: HiddenAddresses) -> str:
    path = _cut(_quoted_path(source, hidden), _MAX_PATH)
    host = _host(source, hidden)
    return f"{parts.scheme(source)}://{host}{path}" if host else path


def _host(source: Source, hidden: HiddenAddresses) -> str:
    named = parts.host(source).rpartition("@")[2].strip()
    if _is_host(named) and not hidden.is_in(named):
        return named
    host, port = parts.server(source)
    if not _is_host(host) or hidden.is_in(host):
        return ""
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    usual = {"https": "443", "wss": "443"}.get(parts.scheme(source), "80")
    return host if port == usual or not port.isdecimal() else f"{host}:{port}"


def _is_host(text: str) -> bool:
    return 0 < len(text) <= 255 and _HOST_CHARACTERS.issuperset(text)


def _quoted_path(source: Source, hidden: HiddenAddresses) -> str:
    raw = parts.path(source)
    if not raw.startswith(b"/"):
        raw = b"/" + raw
    raw = raw[: 2 * _MAX_PATH]
    if not raw.translate(None, _PLAIN_PATH):
        path = raw.decode("ascii")
        if not hidden.is_in(path):
            return path  # nearly every one, and quickly
    from urllib.parse import quote

    segments = raw.split(b"/")
    return "/".join(
        FILTERED
        if hidden.is_in(segment.decode("latin-1"))
        else quote(segment, safe="!$&'()*+,;=:@~")
        for segment in segments
    )


# -- query, headers, cookies --


def _query(source: Source, hidden: HiddenAddresses) -> str:
    return _filtered_query(parts.query(source), hidden)


def _filtered_query(query: str, hidden: HiddenAddresses) -> str:
    pairs = query[:_MAX_QUERY].split("&", _MAX_PAIRS)
    shown = [_filtered_pair(pair, hidden) for pair in pairs[:_MAX_PAIRS]]
    if len(query) > _MAX_QUERY or len(pairs) > _MAX_PAIRS:
        # The last pair may have been cut in two, and half an address is one no longer found.
        shown[-1] = _CUT
    return "&".join(shown)


def _filtered_pair(pair: str, hidden: HiddenAddresses) -> str:
    name, equals, value = pair.partition("=")
    plain_name, plain_value = unquoted(name), unquoted(value)
    if hidden.is_in(plain_name):
        return FILTERED
    # A value may itself be a URL, a form or JSON: "next=/x?token=…".
    if value and (is_secret_parameter(plain_name) or _tells(plain_value, hidden)):
        value = FILTERED
    return "".join(c if c.isprintable() and c.isascii() else "?" for c in name + equals + value)


def _tells(value: str, hidden: HiddenAddresses) -> bool:
    """Return whether a value, or a text within it, is an address or a secret to be withheld."""
    value = value[: _MAX_VALUE + 64]  # an address that the cut would halve is looked for as well
    return hidden.is_in(value) or without_secrets(value) != value


def unquoted(text: str) -> str:
    """Return what a text of a query or cookie says, also where it was encoded twice."""
    from urllib.parse import unquote_plus

    once = unquote_plus(text, "utf-8", "replace")
    return unquote_plus(once, "utf-8", "replace") if "%" in once else once


def _reported_headers(
    options: RequestData, headers: dict[str, str], hidden: HiddenAddresses, *, drops: bool
) -> dict[str, str]:
    shown: dict[str, str] = {}
    for name, value in islice(headers.items(), _MAX_HEADERS):
        folded = name.replace("_", "-")
        if folded == "cookie" or hidden.is_in(name):
            continue
        if drops and is_address_header(name, configured=options.forwarded_header):
            continue
        shown[_titled(name)] = _header_value(options, folded, value, hidden)
    return shown


def _titled(name: str) -> str:
    """Spell a name as Sentry shows it, whichever interface it came through."""
    return "-".join(part.capitalize() for part in name.split("-"))


def _header_value(options: RequestData, name: str, value: str, hidden: HiddenAddresses) -> str:
    # An address that the cut would halve is looked for as well.
    if is_secret(name) or name in _SECRET_HEADERS or hidden.is_in(value[: _MAX_VALUE + 64]):
        return FILTERED
    if name == "host":
        value = value.rpartition("@")[2]
    if name.endswith(_QUERY_NAMES):
        return _filtered_query(value, hidden) if options.include_query_string else FILTERED
    if not options.include_url and name.endswith(_OWN_URL_NAMES):
        return FILTERED
    if name.endswith(_URL_NAMES) or _IS_URL.match(value):
        return _cut(_shown_url(options, value, hidden), _MAX_VALUE)
    return _cut(without_secrets(value[: 2 * _MAX_VALUE]), _MAX_VALUE)


def repeats_query(header: str) -> bool:
    """Return whether a header may hold the query of this request, or of the page before it."""
    return header.replace("_", "-").endswith((*_QUERY_NAMES, *_URL_NAMES))


def _shown_url(options: RequestData, url: str, hidden: HiddenAddresses) -> str:
    """Treat a URL in a header as the request's own: no user, and a query only if asked for."""
    url, _, query = url.partition("#")[0].partition("?")
    scheme, slashes, rest = url.partition("://")
    if slashes:
        host, slash, path = rest.partition("/")
        url = scheme + slashes + host.rpartition("@")[2] + slash + path
    if not query or not options.include_query_string:
        return url
    return f"{url}?{_filtered_query(query, hidden)}"


def _cookies(headers: dict[str, str], hidden: HiddenAddresses) -> dict[str, str]:
    shown: dict[str, str] = {}
    for name, value in _cookie_pairs(headers.get("cookie", "")):
        if hidden.is_in(unquoted(name)):
            continue
        secret = is_secret_parameter(name) or _tells(unquoted(value), hidden)
        shown[_cut(name, 256)] = FILTERED if secret else _cut(value, _MAX_VALUE)
    return shown


def _cookie_pairs(header: str) -> Iterable[tuple[str, str]]:
    for pair in header.replace(",", ";").split(";", _MAX_PAIRS)[:_MAX_PAIRS]:
        name, equals, value = pair.strip().partition("=")
        if equals and name:
            yield name.strip(), value.strip().strip('"')


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + _CUT
