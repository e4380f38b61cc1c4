"""Names the user in what honeybadger sends, by its before_notify hook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from usercontext.clients.collected import (
    Places,
    address_of,
    clean_request,
    cleaned_headers,
    record_of,
)
from usercontext.clients.error_texts import hide_spoken
from usercontext.clients.fields import checked_fields, renamed
from usercontext.clients.hooks import Chained, put_back_after
from usercontext.clients.log_fields import FIELDS
from usercontext.clients.payload import PayloadClient
from usercontext.diagnostics import harmless
from usercontext.optional import importing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usercontext.core.record import RequestRecord

__all__ = ["HoneybadgerClient"]


class HoneybadgerClient(PayloadClient):
    """Puts `user_id`, `user_email` and the like into the context of every notice.

    Inside a request ours is the whole truth about these keys, and about the `username` that
    honeybadger takes from Django: what `set_context` was given for them is replaced, and removed
    where the user is nobody.

    honeybadger has one `before_notify`: the one that is configured, before or later, still runs,
    and runs after ours. What it cannot do: Insights events do not name the user.

    Args:
        fields: the user's fields, each with its key in the context; by default `user_id`,
            `user_name`, `user_email` and `client_address`.

    Raises:
        ConfigurationError: `fields` is not a mapping of names.
        MissingDependencyError: honeybadger is not installed.
    """

    lost: ClassVar[tuple[str, str]] = (
        "honeybadger notice",
        "a notice of honeybadger went out without its user",
    )
    places: ClassVar[Places] = Places(environ="cgi_data")

    def __init__(self, *, fields: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._fields = checked_fields(fields, FIELDS)
        with importing("honeybadger", "honeybadger", purpose="HoneybadgerClient"):
            from honeybadger import honeybadger
        self._honeybadger: Any = honeybadger

    def hook(self) -> None:
        """Put the hook before the one that is configured."""
        self._configure()
        # Django's settings configure it later, and with them another hook.
        put_back_after(self._honeybadger, "configure", self._configure)

    def _configure(self) -> None:
        configured = self._honeybadger.config.before_notify
        if not isinstance(configured, _BeforeNotify):
            hook = _BeforeNotify(self, configured if callable(configured) else None)
            self._honeybadger.configure(before_notify=hook)

    def error_of(self, notice: Any) -> object:
        """Return what was reported, if it is an exception."""
        error = getattr(notice, "exception", None)
        return error if isinstance(error, BaseException) else None

    def write(self, notice: Any, user: dict[str, Any] | None) -> None:
        """Replace our keys in the context."""
        for name in ("username", *self._fields.values()):
            notice.context.pop(name, None)
        notice.context.update(renamed(user, self._fields))

    def clean(self, notice: Any, record: RequestRecord) -> None:
        """Leave it to the end of the hook: once the payload is made no fingerprint changes."""

    def clean_payload(self, notice: Any) -> None:
        """Replace the addresses that honeybadger's middlewares collect, in context or CGI data."""
        error = self.error_of(notice)
        record = record_of(error)
        if not hasattr(notice, "payload"):
            return
        hide_spoken(notice.payload, record, error, ("error",))
        if record is None:
            return
        context = notice.context  # the payload refers to this very dict
        if isinstance(context.get("headers"), dict):
            context["headers"] = cleaned_headers(context["headers"], record)
        if isinstance(context.get("client"), tuple | list):
            context["client"] = address_of(record)
        clean_request(notice.payload, record, self.places)


class _BeforeNotify(Chained):
    """Our hook, around the one that was configured before."""

    def __init__(self, client: HoneybadgerClient, configured: Any) -> None:
        super().__init__(client.fill, configured)
        self._clean = client.clean_payload

    def __call__(self, notice: Any, *more: Any) -> Any:
        notice = super().__call__(notice, *more)
        with harmless("honeybadger request", "a notice of honeybadger may tell an address"):
            self._clean(notice)
        return notice
