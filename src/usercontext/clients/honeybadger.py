"""Names the user in what honeybadger sends, by its before_notify hook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usercontext.clients.base import BaseClient
from usercontext.clients.collected import address_of, cleaned_environ, cleaned_headers, record_of
from usercontext.clients.log_fields import FIELDS, checked_fields
from usercontext.clients.rehook import put_back_after
from usercontext.core.context import pull_user
from usercontext.diagnostics import harmless
from usercontext.optional import importing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from usercontext.types import GetUser

__all__ = ["HoneybadgerClient"]


class HoneybadgerClient(BaseClient):
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
        ConfigurationError: `fields` is no mapping of names.
        MissingDependencyError: honeybadger is not installed.
    """

    def __init__(self, *, fields: Mapping[str, str] | None = None) -> None:
        self._fields = checked_fields(FIELDS if fields is None else fields)
        with importing("honeybadger", "honeybadger", purpose="HoneybadgerClient"):
            from honeybadger import honeybadger
        self._honeybadger: Any = honeybadger
        self._get_user: GetUser = pull_user

    def setup(self, get_user: GetUser, /) -> None:
        """Put the hook before the one that is configured."""
        self._get_user = get_user
        self._hook()
        # Django's settings configure it later, and with them another hook.
        put_back_after(self._honeybadger, "configure", self._hook)

    def _hook(self) -> None:
        configured = self._honeybadger.config.before_notify
        if not isinstance(configured, _BeforeNotify):
            hook = _BeforeNotify(self._name_user, configured)
            self._honeybadger.configure(before_notify=hook)

    def _name_user(self, notice: Any) -> None:
        error = notice.exception if isinstance(notice.exception, BaseException) else None
        record = record_of(error)
        if record is None:
            return
        user = self._get_user(error) or {}
        notice.context.pop("username", None)
        for field, name in self._fields.items():
            notice.context.pop(name, None)
            if field in user:
                notice.context[name] = user[field]


class _BeforeNotify:
    """Our hook, around the one that was configured before."""

    def __init__(self, name_user: Callable[[Any], None], configured: Any) -> None:
        self._name_user = name_user
        self._configured = configured

    def __call__(self, notice: Any) -> Any:
        with harmless("honeybadger notice", "a notice of honeybadger went out without its user"):
            self._name_user(notice)
        if callable(self._configured):
            notice = self._configured(notice)
        with harmless("honeybadger request", "a notice of honeybadger may tell an address"):
            _clean_request(notice)
        return notice


def _clean_request(notice: Any) -> None:
    """Replace the addresses that honeybadger's own middlewares collect, in context or CGI data.

    Last, as it makes the payload, after which the app's hook could change no fingerprint.
    """
    record = record_of(getattr(notice, "exception", None))
    if record is None or not hasattr(notice, "payload"):
        return
    context = notice.context  # the payload refers to this very dict
    if isinstance(context.get("headers"), dict):
        context["headers"] = cleaned_headers(context["headers"], record)
    if isinstance(context.get("client"), tuple | list):
        context["client"] = address_of(record)
    request = notice.payload["request"]
    if request.get("cgi_data"):
        request["cgi_data"] = cleaned_environ(request["cgi_data"], record)
