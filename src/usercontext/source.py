"""What stands where in an ASGI scope and in a WSGI environ; pure.

The rest of the package asks here, so that no reader forgets a key that another one knows. What
comes from the network may be of any type: a text is returned as text, anything else as "".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

__all__ = [
    "PROXY_FIX",
    "REMOTE_PORT",
    "REQUEST_METHOD",
    "SERVER_SOFTWARE",
    "Source",
    "environ_key",
    "has_cookies",
    "has_headers",
    "has_proxy_fix",
    "has_remote_address",
    "header_line",
    "headers",
    "host",
    "is_environ",
    "is_websocket",
    "keep_headers",
    "lambda_context",
    "lines",
    "may_be_adapters",
    "method",
    "path",
    "peers",
    "query",
    "scheme",
    "seconds_left",
    "server",
    "server_software",
    "snapshot",
    "without_addresses",
]

#: A scope or an environ.
Source: TypeAlias = Mapping[str, Any]

#: In an environ, and never in a scope.
REQUEST_METHOD = "REQUEST_METHOD"
#: In the environ of nearly every server, and of no adapter: the one or the other.
SERVER_SOFTWARE = "SERVER_SOFTWARE"
REMOTE_PORT = "REMOTE_PORT"
#: Where werkzeug's ProxyFix keeps what it has replaced.
PROXY_FIX = "werkzeug.proxy_fix.orig"
# What of a scope is read here.
_SCOPE_KEYS = (
    "type",
    "method",
    "scheme",
    "path",
    "raw_path",
    "root_path",
    "query_string",
    "headers",
    "client",
    "server",
)
# Values of an environ that nobody can change; whatever else is there is of no use here.
_CONSTANT = frozenset({str, bytes, int})
# The peer's address, or its name.
_PEER_KEYS = frozenset({"REMOTE_ADDR", "REMOTE_HOST", "client", PROXY_FIX})

_PAIRS = frozenset({list, tuple})

_MAX_NAME = 256


def is_environ(source: Source) -> bool:
    """Return whether this is an environ rather than a scope."""
    return REQUEST_METHOD in source


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else ""


def is_websocket(source: Source | None) -> bool:
    """Return whether this is the scope of a websocket."""
    return source is not None and source.get("type") == "websocket"


# -- who is connected --


def peers(source: Source) -> Iterator[str]:
    """Yield every text that names the connection's other end."""
    if not is_environ(source):
        yield _text(_first(source.get("client")))
        return
    original = source.get(PROXY_FIX)
    yield _text(source.get("REMOTE_ADDR"))
    yield _text(original.get("REMOTE_ADDR")) if isinstance(original, dict) else ""


def has_proxy_fix(source: Source) -> bool:
    """Return whether werkzeug's ProxyFix has replaced the peer."""
    return PROXY_FIX in source


def may_be_adapters(environ: Source) -> bool:
    """Return whether the peer of an environ may be another one than the connection's.

    One by one: a set of these keys would be compared with every key of the environ.
    """
    return (
        "apig_wsgi.full_event" in environ
        or "serverless.event" in environ
        or "awsgi.event" in environ
        or "lambda.event" in environ
        or "azure_functions.invocation_id" in environ
        or "wsgi.ext.http.send_trailers" in environ
        or environ.get("SERVER_NAME") == "zappa"
    )


def has_remote_address(environ: Source) -> bool:
    """Return whether a WSGI server has told the peer at all."""
    return "REMOTE_ADDR" in environ


def _first(pair: object) -> object:
    return pair[0] if isinstance(pair, (list, tuple)) and pair else None


# -- what was asked --


def method(source: Source) -> str:
    """Return the method; "" for a websocket, whose scope names none."""
    return _text(source.get(REQUEST_METHOD if is_environ(source) else "method"))


def scheme(source: Source) -> str:
    """Return the URL's scheme."""
    found = _text(source.get("wsgi.url_scheme" if is_environ(source) else "scheme"))
    default = "ws" if source.get("type") == "websocket" else "http"
    return found if found in ("http", "https", "ws", "wss") else default


def host(source: Source) -> str:
    """Return what the client calls the host it asked, with the port if it is an unusual one."""
    if is_environ(source):
        return _text(source.get("HTTP_HOST"))
    return next((value for name, value in _scope_lines(source) if name == "host"), "")


def server(source: Source) -> tuple[str, str]:
    """Return the server's own name and port."""
    if is_environ(source):
        return _text(source.get("SERVER_NAME")), str(source.get("SERVER_PORT"))
    pair = source.get("server")
    known = isinstance(pair, (list, tuple)) and len(pair) == 2
    return _text(_first(pair)), str(pair[1]) if known and pair is not None else ""


def server_software(source: Source) -> str:
    """Return the name of a WSGI server."""
    return _text(source.get(SERVER_SOFTWARE))


def path(source: Source) -> bytes:
    """Return the whole path, unquoted."""
    if is_environ(source):
        # PEP 3333: bytes, each shown as a character.
        found = _text(source.get("SCRIPT_NAME")) + _text(source.get("PATH_INFO"))
        return found.encode("latin-1", "replace")
    return _scope_path(source).encode("utf-8", "replace")


def _scope_path(scope: Source) -> str:
    """Return the whole path: servers disagree on whether `path` begins with `root_path`."""
    found = scope.get("path")
    if not isinstance(found, str):
        from urllib.parse import unquote

        return unquote(_text(scope.get("raw_path")).partition("?")[0])
    root = _text(scope.get("root_path")).rstrip("/")
    if not root or found == root or found.startswith(root + "/"):
        return found
    return root + found


def query(source: Source) -> str:
    """Return the query string as it was sent."""
    return _text(source.get("QUERY_STRING" if is_environ(source) else "query_string"))


# -- headers --


def headers(source: Source) -> dict[str, str]:
    """Return the headers by their names in lower case, in order, lines of one name joined."""
    joined: dict[str, str] = {}
    for name, value in lines(source):
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def lines(
    source: Source, *, without: frozenset[bytes | str] = frozenset()
) -> Iterator[tuple[str, str]]:
    """Yield names, in lower case, and values of the headers, one by one.

    Args:
        source: a scope or an environ.
        without: the keys of headers to pass over, as scopes and environs have them.
    """
    if is_environ(source):
        return _environ_lines(source, without)
    return _scope_lines(source, without)


def _scope_lines(
    scope: Source, without: frozenset[bytes | str] = frozenset()
) -> Iterator[tuple[str, str]]:
    for key, value in _pairs(scope.get("headers")):
        if isinstance(key, bytes) and key in without:
            continue
        name = _text(key).lower()[:_MAX_NAME]
        if name:
            yield name, _text(value)


def _environ_lines(
    environ: Source, without: frozenset[bytes | str] = frozenset()
) -> Iterator[tuple[str, str]]:
    pairs: list[tuple[Any, Any]] = list(environ.items())
    for key, value in pairs:
        if not isinstance(key, str) or not isinstance(value, str) or key in without:
            continue
        if key.startswith("HTTP_"):
            yield key[5:].replace("_", "-").lower()[:_MAX_NAME], value
        elif key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
            yield key.replace("_", "-").lower(), value


def _pairs(headers_of_scope: object) -> list[Any]:
    # An iterator is the app's to read: taking from it would empty it.
    if not isinstance(headers_of_scope, (list, tuple)):
        return []
    return [pair for pair in headers_of_scope if isinstance(pair, (list, tuple)) and len(pair) == 2]


def has_headers(source: Source) -> bool:
    """Return whether there is any header."""
    lines = _environ_lines(source) if is_environ(source) else _scope_lines(source)
    return next(lines, None) is not None


def has_cookies(source: Source) -> bool:
    """Return whether there is a header of cookies."""
    if is_environ(source):
        return isinstance(source.get("HTTP_COOKIE"), str)
    return any(name == "cookie" for name, _ in _scope_lines(source))


def keep_headers(scope: Any) -> None:
    """Let the headers of a scope be read by a resolver, and by the app after it.

    ASGI allows any iterable for a header, and for all of them; an iterator is empty when it has
    been read once.
    """
    found = scope.get("headers")
    if not isinstance(found, (list, tuple)) or not _PAIRS.issuperset(map(type, found)):
        scope["headers"] = [tuple(pair) for pair in found or ()]


# -- one header --


def environ_key(name: str) -> str:
    """Return where an environ keeps a header."""
    return "HTTP_" + name.upper().replace("-", "_")


def header_line(lines: object, name: bytes, limit: int) -> bytes | None:
    """Return one of a scope's headers, its lines joined as one list (RFC 9110, section 5.3).

    Args:
        lines: what a scope has for its headers, or should have.
        name: the header's name in lower case.
        limit: as many characters from the end are looked at.
    """
    found = [
        value
        for key, value in _pairs(lines)
        if isinstance(key, bytes) and isinstance(value, bytes) and key.lower() == name
    ]
    return _joined(found, limit) if found else None


def _joined(lines: list[bytes], room: int) -> bytes:
    kept: list[bytes] = []
    for line in reversed(lines):
        kept.append(line[-room:])
        room -= len(line) + 1
        if room <= 0:
            break
    return b",".join(reversed(kept))


# -- copies --


def snapshot(source: Source) -> dict[str, Any] | None:
    """Copy what is read here, so that a report can be made of it when the request goes on.

    Nothing of the app's is in the copy. None of a source that is of a kind of its own: reading it
    may run the app's code, so it is to be read at once.
    """
    if type(source) is not dict:
        return None
    if not is_environ(source):
        return {key: _frozen(source[key]) for key in _SCOPE_KEYS if key in source}
    # In one step first: another thread may add keys meanwhile.
    copied = dict(source)
    kept = {key: value for key, value in copied.items() if value.__class__ in _CONSTANT}
    if PROXY_FIX in copied:
        kept[PROXY_FIX] = snapshot({REQUEST_METHOD: "", **copied[PROXY_FIX]})
    return kept


def _frozen(value: Any) -> Any:
    return tuple(value) if value.__class__ is list else value


def without_addresses(source: Source, names_address: Callable[[str], bool]) -> dict[str, Any]:
    """Copy a scope or environ, or a part of one, without the keys that hold an address.

    Args:
        source: what is copied.
        names_address: whether a header of this name is there to hold an address.
    """
    return {
        key: _without_address_lines(value, names_address) if key == "headers" else value
        for key, value in source.items()
        if key not in _PEER_KEYS and not names_address(key.removeprefix("HTTP_"))
    }


def _without_address_lines(found: Any, names_address: Callable[[str], bool]) -> Any:
    return [pair for pair in _pairs(found) if not names_address(_text(pair[0]))]


# -- where it runs --


# Where adapters keep what Lambda says: Mangum, apig-wsgi, serverless-wsgi, aws-wsgi, Zappa.
_LAMBDA_CONTEXTS = (
    "aws.context",
    "apig_wsgi.context",
    "serverless.context",
    "awsgi.context",
    "lambda.context",
)


def lambda_context(source: Source) -> object:
    """Return what AWS Lambda says of an invocation, where an adapter of it serves the request."""
    if source.keys().isdisjoint(_LAMBDA_CONTEXTS):  # nearly always, and in one step of C
        return None
    found = (source.get(key) for key in _LAMBDA_CONTEXTS)
    return next((one for one in found if one is not None), None)


def seconds_left(context: Any, most: float = 2.0, kept: float = 0.1) -> float:
    """Return how long an invocation of AWS Lambda may still send what waits.

    Args:
        context: what Lambda gives a handler beside the event.
        most: the longest time.
        kept: seconds that are left to the handler's return.
    """
    try:
        left = float(context.get_remaining_time_in_millis()) / 1000
    except (AttributeError, TypeError, ValueError):
        return most
    return min(most, max(left - kept, 0.0))
