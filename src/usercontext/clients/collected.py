"""What others' clients collect of a request by themselves, and what may stay of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usercontext.address.client import ADDRESS_HEADERS
from usercontext.address.search import find_addresses
from usercontext.core.passage import of_error
from usercontext.core.record import UNKNOWN, current
from usercontext.privacy.secret_names import FILTERED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from usercontext.core.record import RequestRecord

__all__ = [
    "address_of",
    "cleaned_environ",
    "cleaned_headers",
    "cleaned_variables",
    "is_unasked",
    "record_of",
    "withheld_headers",
]


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
    return record.user is UNKNOWN and record.context.resolver is None


def address_of(record: RequestRecord) -> str | None:
    """Return the address that may be reported of a request, or None."""
    state = record.root.state
    if state is not None and state.withheld:
        return None
    return record.context.collected_address(record)


def withheld_headers(record: RequestRecord) -> set[str]:
    """Return the headers that tell an address which was not asked for, or not all of it."""
    context = record.context
    whole = context.includes_ip and not context.request_data.anonymize_ip
    if whole and address_of(record) is not None:
        return set()
    return {*ADDRESS_HEADERS, context.request_data.forwarded_header.lower()}


def cleaned_headers(headers: Mapping[Any, Any], record: RequestRecord) -> dict[Any, Any]:
    """Return headers without those that are withheld; their names may be bytes, as in ASGI."""
    withheld = withheld_headers(record)
    return {name: value for name, value in headers.items() if _folded(name) not in withheld}


def _folded(name: str | bytes) -> str:
    return (name.decode("latin-1") if isinstance(name, bytes) else name).lower()


def cleaned_environ(environ: Mapping[str, Any], record: RequestRecord) -> dict[str, Any]:
    """Return an environ with our address in REMOTE_ADDR, or none, and cleaned headers."""
    address = address_of(record)
    withheld = {f"HTTP_{name.upper().replace('-', '_')}" for name in withheld_headers(record)}
    # Over ASGI Django puts the peer there, too; by name it tells no less.
    withheld.add("REMOTE_HOST")
    cleaned = {name: value for name, value in environ.items() if name not in withheld}
    if "REMOTE_ADDR" in cleaned and address is None:
        del cleaned["REMOTE_ADDR"]
    elif "REMOTE_ADDR" in cleaned:
        cleaned["REMOTE_ADDR"] = address
    return cleaned


def cleaned_variables(variables: Any, record: RequestRecord) -> Any:
    """Return a frame's local variables without the addresses of the request that are withheld.

    Frames of frameworks hold the whole environ or scope. What holds such an address is replaced
    in copies. Of a request that is over its addresses are not known any more: there every
    address is taken for one.
    """
    if not withheld_headers(record):
        return variables
    source = record.root.source
    if source is None:
        return _without(variables, _holds_address)
    from usercontext.request.description import hidden_addresses  # only a report needs it

    return _without(variables, hidden_addresses(record.context.request_data, source).is_in)


def _holds_address(text: str) -> bool:
    return next(find_addresses(text), None) is not None


def _without(value: Any, hides: Callable[[str], bool]) -> Any:
    if isinstance(value, dict):
        return {name: _without(one, hides) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without(one, hides) for one in value]
    return FILTERED if isinstance(value, str) and hides(value) else value
