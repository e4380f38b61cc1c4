"""Texts of errors in what other libraries send: they say no more than ours do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usercontext.clients.collected import record_of, withholds_addresses
from usercontext.core.settings import default
from usercontext.diagnostics import failure
from usercontext.privacy.error_texts import retelling, text_of
from usercontext.privacy.known_values import replaced_texts
from usercontext.privacy.secret_names import FILTERED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from usercontext.core.record import RequestRecord

__all__ = ["hide_spoken", "replacer_of", "replacer_of_error", "told_attributes"]

# The names of OpenTelemetry's conventions, which others have taken over.
_MESSAGE = "exception.message"
_STACKTRACE = "exception.stacktrace"
# A tracer cuts longer ones, at the end, which tells most.
_MAX_STACKTRACE = 24_000


def hide_spoken(
    payload: dict[str, Any], record: RequestRecord | None, error: object, places: Iterable[str]
) -> None:
    """Have texts of errors say no more than ours do, by the option `exception_text`.

    Args:
        payload: what a library made; what is changed in these places of it is copied.
        record: the request's; None outside of any.
        error: the exception that the payload reports.
        places: the keys under which errors, messages and variables stand.
    """
    replace = replacer_of(record, error)
    if replace is None:
        return
    names = str if replace is _withhold else None  # of what is left out, a payload keeps its form
    for name in places:
        if name in payload:
            payload[name] = replaced_texts(payload[name], replace, names=names)


def replacer_of_error(error: object) -> Callable[[str], str] | None:
    """Return what replaces in a text what must not be told of an error; None for nothing."""
    return replacer_of(record_of(error), error)


def told_attributes(error: BaseException, given: Any = None) -> dict[str, Any]:
    """Return the attributes with which a span is to record an exception.

    Args:
        error: the exception.
        given: those that the caller has, which go before what a tracer makes itself.
    """
    attributes = dict(given or {})
    replace = replacer_of_error(error)
    if replace is None:
        return attributes
    if _STACKTRACE not in attributes:
        from traceback import format_exception

        attributes[_STACKTRACE] = "".join(format_exception(error))
    attributes.setdefault(_MESSAGE, text_of(error))
    told = {name: replace(str(attributes[name])) for name in (_MESSAGE, _STACKTRACE)}
    told[_STACKTRACE] = told[_STACKTRACE][-_MAX_STACKTRACE:]
    return attributes | told


def replacer_of(record: RequestRecord | None, error: object) -> Callable[[str], str] | None:
    """Return what replaces in a text what must not be told of an error and its request.

    It never raises: of a text that it cannot look through nothing is told.
    """
    option = (default() if record is None else record.settings).exception_text
    if option == "full":
        return None
    try:
        replace = _replacer(record, error, tells=option != "none")
    except Exception:  # noqa: BLE001
        return _withhold

    def replaced(text: str) -> str:
        try:
            return replace(text)
        except Exception:  # noqa: BLE001
            return _withhold(text)

    return replaced


def _withhold(_: str) -> str:
    failure("text of an error", "a text is left out, as what it quotes could not be found")
    return FILTERED


def _replacer(record: RequestRecord | None, error: object, *, tells: bool) -> Callable[[str], str]:
    from usercontext.request.withheld import hider, secrets_of_data  # only a report needs them

    retell = retelling(error, tells=tells)
    root = None if record is None else record.root
    if record is None or root is None or root.source is None:
        return retell
    data = None if root.state is None else root.state.data
    hide = hider(
        record.settings.request_data,
        root.source,
        secrets=() if data is None else secrets_of_data(data),
        hides_addresses=withholds_addresses(record),
    )
    return lambda text: hide(retell(text))
