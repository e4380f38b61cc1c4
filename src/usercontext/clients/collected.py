"""What others' clients collect of a request by themselves, and what may stay of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from usercontext.address.headers import is_address_header
from usercontext.address.search import find_addresses
from usercontext.core.context import collected_address
from usercontext.core.passage import of_error
from usercontext.core.record import UNKNOWN, current
from usercontext.privacy.secret_names import FILTERED
from usercontext.source import without_addresses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from usercontext.core.record import RequestRecord

__all__ = [
    "Places",
    "address_of",
    "clean_request",
    "cleaned_environ",
    "cleaned_headers",
    "cleaned_variables",
    "is_unasked",
    "is_withheld",
    "record_of",
    "withholds_addresses",
]

# Deeper than clients send; an environ may refer to itself.
_MAX_DEPTH = 16


def record_of(error: object) -> RequestRecord | None:
    """Return the record of the request that an exception left, else of the current one."""
    carried = of_error(error)[1] if isinstance(error, BaseException) else None
    return carried or current()


def is_unasked(record: RequestRecord) -> bool:
    """Return whether nothing says who the user is: there is no resolver, and nobody set one.

    Then what the app told the other library itself stays, but for addresses.
    """
    state = record.root.state
    if state is not None and state.withheld:
        return False
    return record.user is UNKNOWN and record.settings.resolver is None


def address_of(record: RequestRecord) -> str | None:
    """Return the address that may be reported of a request, or None."""
    state = record.root.state
    if state is not None and state.withheld:
        return None
    return collected_address(record)


def is_withheld(header: str | bytes, record: RequestRecord, value: object = "") -> bool:
    """Return whether a header tells an address which was not asked for, or not all of it.

    Its name may be bytes, as in ASGI, with `_` or `-`.
    """
    return withholds_addresses(record) and _names_address(header, record, value)


def withholds_addresses(record: RequestRecord) -> bool:
    """Return whether addresses of a request were not asked for, or not as they are."""
    settings = record.settings
    whole = settings.includes_ip and not settings.request_data.anonymize_ip
    return not whole or address_of(record) is None


def _names_address(header: str | bytes, record: RequestRecord, value: object = "") -> bool:
    configured = record.settings.request_data.forwarded_header
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return is_address_header(header, value if isinstance(value, str) else "", configured=configured)


class Places(NamedTuple):
    """Where a library puts what it collects of a request.

    Attributes:
        request: the key of the dict that has the rest.
        headers: the key of the headers in it.
        environ: the key of what was copied of the environ or scope.
        address: the key of the client's address.
    """

    request: str = "request"
    headers: str = "headers"
    environ: str | None = None
    address: str | None = None


def clean_request(payload: dict[str, Any], record: RequestRecord, places: Places) -> None:
    """Put a cleaned copy in the place of the request that a library collected."""
    if not isinstance(payload.get(places.request), dict):
        return
    payload[places.request] = request = dict(payload[places.request])
    if isinstance(request.get(places.headers), dict):
        request[places.headers] = cleaned_headers(request[places.headers], record)
    if places.environ and isinstance(request.get(places.environ), dict):
        request[places.environ] = cleaned_environ(request[places.environ], record)
    if places.address in request:
        request[places.address] = address_of(record)


def cleaned_headers(headers: Mapping[Any, Any], record: RequestRecord) -> dict[Any, Any]:
    """Return headers without those that are withheld; their names may be bytes, as in ASGI."""
    return {name: value for name, value in headers.items() if not is_withheld(name, record, value)}


def cleaned_environ(environ: Mapping[str, Any], record: RequestRecord) -> dict[str, Any]:
    """Return what a client copied of an environ or scope, with our address in it or none."""
    address = address_of(record)
    if withholds_addresses(record):
        kept = without_addresses(environ, partial(_names_address, record=record))
        hides = _hiding(record)
        cleaned = {name: _replaced(value, partial(_plain, hides)) for name, value in kept.items()}
    else:
        # Over ASGI Django puts the peer there, too; by name it tells no less.
        cleaned = {name: value for name, value in environ.items() if name != "REMOTE_HOST"}
    if "REMOTE_ADDR" in environ and address is not None:
        cleaned["REMOTE_ADDR"] = address
    return cleaned


def cleaned_variables(variables: Any, record: RequestRecord) -> Any:
    """Return a frame's local variables without the addresses of the request that are withheld.

    Frames of frameworks hold the whole environ or scope. What holds such an address is replaced
    in copies.
    """
    if not withholds_addresses(record):
        return variables
    return _replaced(variables, partial(_filtered, _hiding(record)))


def _hiding(record: RequestRecord) -> Callable[[str], bool]:
    """Return what tells whether a text holds an address of the request.

    Of a request that is over its addresses are not known any more: there every address is taken
    for one.
    """
    source = record.root.source
    if source is None:
        return _holds_address
    from usercontext.request.description import hidden_addresses  # only a report needs it

    return hidden_addresses(record.settings.request_data, source).is_in


def _holds_address(text: str) -> bool:
    return next(find_addresses(text), None) is not None


def _replaced(value: Any, leaf: Callable[[Any], Any], depth: int = 0) -> Any:
    """Copy dicts and lists, with what a function makes of each thing in them."""
    if isinstance(value, dict | list | tuple) and depth >= _MAX_DEPTH:
        return FILTERED
    if isinstance(value, dict):
        return {name: _replaced(one, leaf, depth + 1) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(one, leaf, depth + 1) for one in value]
    return leaf(value)


def _filtered(hides: Callable[[str], bool], value: Any) -> Any:
    return FILTERED if isinstance(value, str) and hides(value) else value


def _plain(hides: Callable[[str], bool], value: Any) -> Any:
    """Return a value of an environ or scope; of an object its class alone is told.

    Clients send an object's text, and the text of a server's socket names the peer.
    """
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if value is None or isinstance(value, str | int | float):
        return _filtered(hides, value)
    return f"<{type(value).__name__}>"
