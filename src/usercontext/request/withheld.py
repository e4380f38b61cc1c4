"""What a request holds and nobody asked for, kept out of the other parts of its report; pure.

An error's text may quote a token, a cookie or a value of the query. What `RequestData` leaves out
of the request's own part is left out there as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usercontext import source as parts
from usercontext.address.search import HiddenAddresses
from usercontext.privacy.known_values import MIN_LENGTH, KnownValues, replaced_texts
from usercontext.privacy.secret_names import FILTERED, is_secret, is_secret_parameter
from usercontext.privacy.secret_texts import secret_values, secrets_within
from usercontext.request.body import parsed
from usercontext.request.description import hidden_addresses, repeats_query, unquoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usercontext.request import RequestData
    from usercontext.source import Source

__all__ = ["hide_in_event", "hider", "secrets_of_data"]

_MAX_PAIRS = 64
_MAX_TEXT = 8192

# What every request has, and what is nobody's secret; the others are looked at by their name.
_HARMLESS: frozenset[bytes | str] = frozenset({
    spelling
    for name in (
        "accept", "accept-encoding", "accept-language", "cache-control", "connection",
        "content-length", "content-type", "host", "origin", "sec-fetch-dest",
        "sec-fetch-mode", "sec-fetch-site", "user-agent", "x-forwarded-for", "x-forwarded-proto",
    )
    for spelling in (name.encode(), parts.environ_key(name))
})  # fmt: skip
# The parts of an event that errors and log lines speak in. The user is explicit, the request has
# rules of its own, and source lines are the app's.
_SPOKEN = ("logentry", "message", "breadcrumbs", "extra", "threads")


def hide_in_event(
    event: dict[str, Any],
    options: RequestData,
    source: Source,
    *,
    secrets: tuple[str, ...] = (),
    hides_addresses: bool,
) -> None:
    """Replace in an event's texts what the request holds and what was withheld.

    Args:
        event: is changed; parts that others may hold are copied.
        options: what may be reported.
        source: an ASGI scope or a WSGI environ.
        secrets: what `secrets_of_data` found in data that the app handed over.
        hides_addresses: whether the client's address is withheld, too.
    """
    replace = hider(options, source, secrets=secrets, hides_addresses=hides_addresses)
    for name in _SPOKEN:
        if name in event:
            event[name] = replaced_texts(event[name], replace)
    exception = event.get("exception")
    values = exception.get("values") if isinstance(exception, dict) else None
    for value in values or ():
        _hide_in_exception(value, replace)


def _hide_in_exception(value: dict[str, Any], replace: Callable[[str], str]) -> None:
    if isinstance(value.get("value"), str):
        value["value"] = replace(value["value"])
    stacktrace = value.get("stacktrace")
    frames = stacktrace.get("frames") if isinstance(stacktrace, dict) else None
    for frame in frames or ():
        if "vars" in frame:
            frame["vars"] = replaced_texts(frame["vars"], replace)


def hider(
    options: RequestData,
    source: Source,
    *,
    secrets: tuple[str, ...] = (),
    hides_addresses: bool,
) -> Callable[[str], str]:
    """Return what replaces in a text whatever a request holds and its options withhold."""
    known = KnownValues((*secrets, *_withheld(options, source)))
    addresses = hidden_addresses(options, source) if hides_addresses else HiddenAddresses()

    def hide(text: str) -> str:
        if len(text) < MIN_LENGTH:
            return text
        return addresses.without(known.without(text) if known else text, FILTERED)

    return hide


def _withheld(options: RequestData, source: Source) -> Iterator[str]:
    yield from _of_query(parts.query(source), only_secret=options.include_query_string)
    for name, value in parts.lines(source, without=_HARMLESS):
        if name == "cookie":
            yield from _of_cookies(value, only_secret=options.include_cookies)
        elif is_secret(name) or _is_credential(value):
            yield from _of_credential(value)
        elif repeats_query(name):
            query = value.partition("#")[0].rpartition("?")[2]
            yield from _of_query(query, only_secret=options.include_query_string)


def _of_query(query: str, *, only_secret: bool) -> Iterator[str]:
    if not query:
        return
    for pair in query[:_MAX_TEXT].split("&", _MAX_PAIRS):
        name, _, value = pair.partition("=")
        yield from _of_value(value, whole=not only_secret or is_secret_parameter(unquoted(name)))


def _of_cookies(header: str, *, only_secret: bool) -> Iterator[str]:
    for pair in header[: 2 * _MAX_TEXT].split(";", _MAX_PAIRS):
        name, _, value = pair.strip().partition("=")
        yield from _of_value(value.strip('"'), whole=not only_secret or is_secret_parameter(name))


def _of_value(value: str, *, whole: bool) -> Iterator[str]:
    """Yield a value as it was sent and as the app reads it, and secrets that it holds itself."""
    if len(value) < MIN_LENGTH:
        return
    readings = {value}
    if "%" in value or "+" in value:
        from urllib.parse import unquote_plus

        # The app may undo one encoding or both.
        readings = {value, unquote_plus(value, "utf-8", "replace"), unquoted(value)}
    for plain in readings:
        if whole:
            yield plain
        yield from secret_values(plain)


def _is_credential(value: str) -> bool:
    return value[:1] in "Bb" and value[:7].lower().startswith(("bearer ", "basic "))


def _of_credential(value: str) -> Iterator[str]:
    """Yield a header's value, its token alone, and what stands in it for basic auth."""
    yield value
    scheme, _, token = value.strip().partition(" ")
    if not token:
        return
    yield token.strip()
    if scheme.lower() == "basic":
        yield from _of_basic(token.strip())


def _of_basic(token: str) -> Iterator[str]:
    from base64 import b64decode

    try:
        plain = b64decode(token, validate=True).decode("utf-8", "replace")
    except ValueError:
        return
    yield plain
    yield plain.partition(":")[2]


def secrets_of_data(data: object) -> tuple[str, ...]:
    """Return the values of secret names in data that the app handed over, as texts."""
    found = parsed(data)
    if found == FILTERED and isinstance(data, str):
        return tuple(secret_values(data))
    return tuple(secrets_within(found))
