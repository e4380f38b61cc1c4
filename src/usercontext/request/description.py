"""The `request` part of a report, built from an ASGI scope or a WSGI environ alike; pure.

Whatever stands there came from the network: it is copied, bounded and filtered, never trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from usercontext import diagnostics
from usercontext.address.headers import is_address_header
from usercontext.address.search import HiddenAddresses
from usercontext.privacy.secret_names import FILTERED, is_secret
from usercontext.request.body import copied

if TYPE_CHECKING:
    from usercontext.request import RequestData

__all__ = ["build", "hidden_addresses", "kept_back"]

Source: TypeAlias = Mapping[str, Any]
_Headers: TypeAlias = "list[tuple[str, str]]"

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
_SECRET_HEADERS = frozenset({"sec-websocket-protocol"})


def build(
    options: RequestData,
    source: Source,
    *,
    data: object,
    address: str | None,
    hides_raw_address: bool,
) -> dict[str, Any]:
    """Build the payload that the options allow; `address` goes out as REMOTE_ADDR, if any.

    With `hides_raw_address` nothing in it holds an address that the request came with.
    """
    hidden = hidden_addresses(options, source) if hides_raw_address else HiddenAddresses()
    headers: _Headers = []
    if options.include_headers or options.include_cookies:
        headers = list(_headers(source))
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


def kept_back(options: RequestData, source: Source, data: object) -> Iterator[tuple[str, str]]:
    """Yield which parts of a request the options keep out of its report, and which option does.

    Only what the request has; names of parts, and of headers that hold addresses, no value.
    """
    headers = dict(_headers(source))
    query = source.get("QUERY_STRING" if _is_environ(source) else "query_string")
    for part, option, is_there in (
        ("URL", "include_url", True),
        ("query string", "include_query_string", bool(query)),
        ("headers", "include_headers", bool(headers)),
        ("cookies", "include_cookies", "cookie" in headers),
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


# -- scope and environ --


def _is_environ(source: Source) -> bool:
    return "REQUEST_METHOD" in source


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else ""


def _headers(source: Source) -> Iterator[tuple[str, str]]:
    """Yield names in lower case with their values, in order, lines of one name joined."""
    joined: dict[str, str] = {}
    for name, value in _environ_headers(source) if _is_environ(source) else _scope_headers(source):
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    yield from joined.items()


def _scope_headers(scope: Source) -> Iterator[tuple[str, str]]:
    headers = scope.get("headers")
    if not isinstance(headers, (list, tuple)):
        return  # an iterator is the app's to read: taking from it would empty it
    for pair in headers:
        if isinstance(pair, (list, tuple)) and len(pair) == 2:
            name = _text(pair[0]).lower()[:256]
            if name:
                yield name, _text(pair[1])


def _environ_headers(environ: Source) -> Iterator[tuple[str, str]]:
    pairs: list[tuple[Any, Any]] = list(environ.items())
    for key, value in pairs:
        if not isinstance(key, str) or not isinstance(value, str):
            continue
        if key.startswith("HTTP_"):
            yield key[5:].replace("_", "-").lower()[:256], value
        elif key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
            yield key.replace("_", "-").lower(), value


def _folded(name: str) -> str:
    return name.replace("_", "-")


def _addresses_of(source: Source, configured: str) -> Iterator[str]:
    """Yield every text of the request that is there to hold addresses."""
    for name, value in _headers(source):
        if is_address_header(name, configured=configured):
            yield value[-8 * _MAX_VALUE :]  # the end is what proxies of ours wrote
    if _is_environ(source):
        original = source.get("werkzeug.proxy_fix.orig")
        yield _text(source.get("REMOTE_ADDR"))
        yield _text(original.get("REMOTE_ADDR")) if isinstance(original, dict) else ""
    else:
        yield _text(_first(source.get("client")))


def _host_address(source: Source) -> str:
    """Return the host's own address: where it is the client's as well, it is no secret."""
    if _is_environ(source):
        return _text(source.get("SERVER_NAME"))
    return _text(_first(source.get("server")))


def _first(pair: object) -> object:
    return pair[0] if isinstance(pair, (list, tuple)) and pair else None


def hidden_addresses(options: RequestData, source: Source) -> HiddenAddresses:
    """Return what recognises, in any text, the addresses that a request came with."""
    gather = partial(_addresses_of, source, options.forwarded_header)
    return HiddenAddresses(gather, spared=_host_address(source))


# -- method and URL --


def _method(source: Source) -> str:
    method = _text(source.get("REQUEST_METHOD" if _is_environ(source) else "method"))
    # A websocket's handshake is a GET (RFC 6455, section 4.1), and its scope names no method.
    return method[:32] if method.isascii() and method.isalpha() else ("" if method else "GET")


def _url(source: Source, hidden: HiddenAddresses) -> str:
    path = _cut(_quoted_path(source, hidden), _MAX_PATH)
    host = _host(source, hidden)
    return f"{_scheme(source)}://{host}{path}" if host else path


def _scheme(source: Source) -> str:
    scheme = _text(source.get("wsgi.url_scheme" if _is_environ(source) else "scheme"))
    default = "ws" if source.get("type") == "websocket" else "http"
    return scheme if scheme in ("http", "https", "ws", "wss") else default


def _named_host(source: Source) -> str:
    if _is_environ(source):
        return _text(source.get("HTTP_HOST"))
    return next((value for name, value in _scope_headers(source) if name == "host"), "")


def _host(source: Source, hidden: HiddenAddresses) -> str:
    named = _named_host(source).rpartition("@")[2].strip()
    if _is_host(named) and not hidden.is_in(named):
        return named
    if _is_environ(source):
        name, port = source.get("SERVER_NAME"), source.get("SERVER_PORT")
    else:
        server = source.get("server")
        pair = server if isinstance(server, (list, tuple)) and len(server) == 2 else ("", None)
        name, port = pair
    host = _text(name)
    if not _is_host(host) or hidden.is_in(host):
        return ""
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    usual = {"https": "443", "wss": "443"}.get(_scheme(source), "80")
    return host if str(port) == usual or not str(port).isdecimal() else f"{host}:{port}"


def _is_host(text: str) -> bool:
    return 0 < len(text) <= 255 and _HOST_CHARACTERS.issuperset(text)


def _quoted_path(source: Source, hidden: HiddenAddresses) -> str:
    if _is_environ(source):
        # PEP 3333: bytes, each shown as a character.
        path = _text(source.get("SCRIPT_NAME")) + _text(source.get("PATH_INFO"))
        raw = path.encode("latin-1", "replace")
    else:
        raw = _scope_path(source).encode("utf-8", "replace")
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


def _scope_path(scope: Source) -> str:
    """Return the whole path: servers disagree on whether `path` begins with `root_path`."""
    path = scope.get("path")
    if not isinstance(path, str):
        from urllib.parse import unquote

        return unquote(_text(scope.get("raw_path")).partition("?")[0])
    root = _text(scope.get("root_path")).rstrip("/")
    if not root or path == root or path.startswith(root + "/"):
        return path
    return root + path


# -- query, headers, cookies --


def _query(source: Source, hidden: HiddenAddresses) -> str:
    query = _text(source.get("QUERY_STRING" if _is_environ(source) else "query_string"))
    return _filtered_query(query, hidden)


def _filtered_query(query: str, hidden: HiddenAddresses) -> str:
    pairs = query[:_MAX_QUERY].split("&", _MAX_PAIRS)
    shown = [_filtered_pair(pair, hidden) for pair in pairs[:_MAX_PAIRS]]
    if len(query) > _MAX_QUERY or len(pairs) > _MAX_PAIRS:
        # The last pair may have been cut in two, and half an address is one no longer found.
        shown[-1] = _CUT
    return "&".join(shown)


def _filtered_pair(pair: str, hidden: HiddenAddresses) -> str:
    name, equals, value = pair.partition("=")
    plain_name, plain_value = _unquoted(name), _unquoted(value)
    if hidden.is_in(plain_name):
        return FILTERED
    # A value may itself be a URL or a form: "next=/x?token=…".
    nested = "=" in plain_value and is_secret(plain_value)
    if value and (is_secret(plain_name) or nested or hidden.is_in(plain_value)):
        value = FILTERED
    return "".join(c if c.isprintable() and c.isascii() else "?" for c in name + equals + value)


def _unquoted(text: str) -> str:
    from urllib.parse import unquote_plus

    once = unquote_plus(text, "utf-8", "replace")
    return unquote_plus(once, "utf-8", "replace") if "%" in once else once


def _reported_headers(
    options: RequestData, headers: _Headers, hidden: HiddenAddresses, *, drops: bool
) -> dict[str, str]:
    shown: dict[str, str] = {}
    for name, value in headers[:_MAX_HEADERS]:
        folded = _folded(name)
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
    if name == "referer" or name.endswith(("-url", "-uri")):
        value = _shown_url(options, value, hidden)
    return _cut(value, _MAX_VALUE)


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


def _cookies(headers: _Headers, hidden: HiddenAddresses) -> dict[str, str]:
    shown: dict[str, str] = {}
    for name, value in _cookie_pairs(dict(headers).get("cookie", "")):
        if hidden.is_in(_unquoted(name)):
            continue
        secret = is_secret(name) or hidden.is_in(_unquoted(value[: _MAX_VALUE + 64]))
        shown[_cut(name, 256)] = FILTERED if secret else _cut(value, _MAX_VALUE)
    return shown


def _cookie_pairs(header: str) -> Iterable[tuple[str, str]]:
    for pair in header.replace(",", ";").split(";", _MAX_PAIRS)[:_MAX_PAIRS]:
        name, equals, value = pair.strip().partition("=")
        if equals and name:
            yield name.strip(), value.strip().strip('"')


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + _CUT
