"""Names the user in sentry-sdk's logs, metrics and streamed spans, which no processor sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from usercontext.clients.collected import is_unasked, is_withheld
from usercontext.clients.hooks import Chained
from usercontext.core.record import current
from usercontext.diagnostics import harmless

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from usercontext.core.record import RequestRecord
    from usercontext.types import GetUser

__all__ = ["TelemetryNaming", "clean_attributes", "is_cookie", "name_telemetry", "theirs"]

_NAMES: Final[Mapping[str, str]] = {
    "id": "user.id",
    "username": "user.name",
    "email": "user.email",
    "ip_address": "user.ip_address",
}
_HOOKS: Final = ("before_send_log", "before_send_metric", "before_send_span")
_HEADER: Final = "http.request.header."
_BODY: Final = "http.request.body.data"


def name_telemetry(client: Any, get_user: GetUser, may_send_user: Callable[[Any], bool]) -> None:
    """Put our hooks before those that the SDK's client was initialised with, once."""
    options = client.options
    for name in _HOOKS:
        experiments = options.get("_experiments") or {}
        configured = options.get(name) or experiments.get(name)
        if isinstance(configured, TelemetryNaming):
            continue
        hook = TelemetryNaming(configured, get_user, lambda: may_send_user(client))
        if name in options:
            options[name] = hook
        else:
            # 2.66 and 2.67 look for the hook of spans there alone, in what all clients share.
            options["_experiments"] = {**experiments, name: hook}


class TelemetryNaming(Chained):
    """The hook through which each log, metric or streamed span of a request passes.

    The SDK takes their user from its scopes, where integrations write theirs, and a `use_user`
    block or a bound thread has none of its own: the request's record knows better.
    """

    def __init__(
        self, configured: Any, get_user: GetUser, may_send_user: Callable[[], bool]
    ) -> None:
        super().__init__(self._fill, configured)
        self._get_user = get_user
        self._may_send_user = may_send_user

    def _fill(self, item: Any) -> None:
        """Name the known user; the user of a request's own span is asked for."""
        with harmless("sentry-sdk telemetry", "telemetry of sentry-sdk went out without its user"):
            record = current()
            if record is not None:
                self._name(item, record)

    def _name(self, item: Any, record: RequestRecord) -> None:
        attributes: dict[str, Any] = item["attributes"]
        user = self._get_user(resolve=bool(item.get("is_segment"))) or {}
        clean_attributes(attributes, record, user.get("ip_address"))
        if not self._may_send_user():
            # What there is of a user, the app has given this very line.
            return
        found = {field: attributes.pop(name, None) for field, name in _NAMES.items()}
        if is_unasked(record):
            user = {**(record.settings.scrubber.user(theirs(found)) or {}), **user}
        named = _NAMES.keys() & user.keys()
        attributes.update({_NAMES[field]: user[field] for field in named})


def theirs(user: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the app told the SDK of its user, without the address that the SDK found."""
    return {n: value for n, value in user.items() if value is not None and n != "ip_address"}


def clean_attributes(
    attributes: dict[str, Any], record: RequestRecord, address: str | None
) -> None:
    """Remove what our options do not ask for, and replace the address that the SDK found.

    It took that one from the first X-Forwarded-For.
    """
    for name in list(attributes):
        if name == "client.address" and address is not None:
            attributes[name] = address
        elif name == "client.address" or _is_unasked_attribute(name, attributes[name], record):
            del attributes[name]


def _is_unasked_attribute(name: str, value: Any, record: RequestRecord) -> bool:
    asked = record.settings.request_data
    if name == _BODY:
        return not asked.include_data
    header = name.removeprefix(_HEADER)
    if header == name:
        return False
    if isinstance(value, list | tuple):  # one text for each line of the header
        value = ", ".join(map(str, value))
    return is_withheld(header, record, value) or (is_cookie(header) and not asked.include_cookies)


def is_cookie(header: str) -> bool:
    """Return whether a header holds cookies."""
    return header.lower() in {"cookie", "set-cookie"}
