"""Names the user in Scout's transactions and errors."""

from __future__ import annotations

from threading import local
from typing import TYPE_CHECKING, Any, Final

from usercontext.clients.collected import is_unasked, record_of
from usercontext.clients.error_texts import replacer_of_error
from usercontext.clients.fields import checked_fields, renamed
from usercontext.clients.hooks import call_before
from usercontext.clients.per_request import PerRequest
from usercontext.clients.transaction import TransactionClient
from usercontext.core.lifecycle import inside
from usercontext.core.record import current
from usercontext.optional import importing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usercontext.core.record import RequestRecord
    from usercontext.types import GetUser

__all__ = ["FIELDS", "ScoutClient"]

#: The user's fields, and their names in a transaction's context; two of them are Scout's own.
FIELDS: Final[Mapping[str, str]] = {
    "id": "user_id",
    "username": "username",
    "email": "user_email",
    "name": "user_full_name",
    "ip_address": "user_ip",
}

# Scout takes it of the first X-Forwarded-For, which anyone can write, or the peer.
_ADDRESS: Final = "user_ip"

_LOST: Final = ("Scout transaction", "a transaction of Scout went out without its user")
_UNTOLD: Final = ("Scout error's text", "the text of an error of Scout may quote its input")
_LOST_ERROR: Final = ("Scout error", "an error of Scout went out without its user")


class ScoutClient(TransactionClient):
    """Puts the user into the context of every transaction, and of the errors inside of one.

    A transaction takes the user who becomes known while it is open, and asks for the user when it
    ends; an error asks when it is captured. It does not matter whether Scout's own middleware is
    outside of ours or inside.

    Inside a request ours is the whole truth about these keys: what `Context.add()` was given for
    them, and the `username` that Scout's integrations take, are replaced, and removed where the
    user is nobody. So is the `user_ip` that Scout takes of the first X-Forwarded-For.

    Texts of errors follow the option `exception_text`.

    What it cannot do: Scout has no hook, so that the end of a transaction and the sending of an
    error are wrapped. An error outside of a transaction names nobody: what is said there would
    stay for whatever comes next. A transaction that an `isolation_scope` stands in is not its own.

    Args:
        fields: the user's fields to add, each with its key in the context; by default `FIELDS`.

    Raises:
        ConfigurationError: `fields` is not a mapping of names.
        MissingDependencyError: scout-apm is not installed.
    """

    def __init__(self, *, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(self)
        self._fields = checked_fields(fields, FIELDS)
        with importing("scout-apm", "scout", purpose="ScoutClient"):
            from scout_apm.core.context import scout_context_var
            from scout_apm.core.error import ErrorMonitor
            from scout_apm.core.error_service import ErrorServiceThread
            from scout_apm.core.tracked_request import TrackedRequest
        self._here: Any = scout_context_var
        self._errors: Any = ErrorMonitor
        self._service: Any = ErrorServiceThread
        self._reported: Any = local()
        self._transactions: Any = TrackedRequest
        self._around: PerRequest[str] = PerRequest()

    def hook(self) -> None:
        """Have Scout hand us the transactions that end, and the errors that it sends."""
        call_before(self._transactions, "stop_span", self._name_ending, *_LOST)
        call_before(self._errors, "send", self._name_error, *_LOST_ERROR)
        call_before(self._service, "send", self._hide_error, *_UNTOLD)

    def request_scope(self, get_user: GetUser, /) -> None:
        """Find the transaction that was begun outside of our middleware."""
        del get_user
        record, transaction = current(), self._open_here()
        if record is None or transaction is None:
            return
        if record.source is None:
            # The transaction that a job starts in is not the job's: other jobs may follow in it.
            self._around.keep(transaction.request_id)
        else:
            self._owner(transaction)

    def _open_here(self) -> Any:
        """Return the open transaction here; the public call would make one where none is."""
        transaction = self._here.get(None)
        return transaction if transaction is not None and transaction.active_spans else None

    def _owner(self, transaction: Any) -> RequestRecord | None:
        """Return the record of the request that a transaction belongs to: the first that asks.

        Tasks whose parent has made one share it, which is a mistake of Scout's: it is named once.
        """
        owner: RequestRecord | None = getattr(transaction.tags, "owner", None)
        record = current()
        if owner is None and record is not None and transaction.request_id != self._around.get():
            owner = record.root
            transaction.tags = _Tags(transaction.tags, owner)
        return owner

    def opened(self) -> tuple[Any, ...]:
        """Return the open transaction of the current request, if there is one."""
        return self._open_of(current())

    def _open_of(self, record: RequestRecord | None) -> tuple[Any, ...]:
        transaction = None if record is None else self._open_here()
        if record is None or transaction is None or self._owner(transaction) is not record.root:
            return ()
        return (transaction,)

    def is_sampled(self, transaction: Any) -> bool:
        """Return whether it will be sent."""
        return bool(transaction.is_real_request) and not transaction.is_ignored()

    def name(self, transaction: Any, user: dict[str, Any] | None) -> None:
        """Replace the user of the open transaction."""
        self._name(transaction, transaction.tags.owner, user)

    def _name_ending(self, transaction: Any) -> None:
        # While its last span is open: a resolver's query, in a span of its own, would else end
        # the transaction once more.
        owner = self._owner(transaction) if len(transaction.active_spans) == 1 else None
        if owner is not None and self.is_sampled(transaction):
            with inside(owner):  # it may end in a middleware outside of ours
                self._name(transaction, owner, self._get_user())

    def _hide_error(self, error: dict[str, Any]) -> None:
        # It is put together where it was reported, just before.
        reported, self._reported.error = getattr(self._reported, "error", None), None
        replace = replacer_of_error(reported)
        if replace is not None:
            error["message"] = replace(error["message"])

    def _name_error(self, exc_info: Any, *_: Any, **__: Any) -> None:
        self._reported.error = exc_info[1]
        record = record_of(exc_info[1])
        for transaction in self._open_of(record):
            self._name(transaction, record or transaction.tags.owner, self._get_user(exc_info[1]))

    def _name(self, transaction: Any, record: RequestRecord, user: dict[str, Any] | None) -> None:
        owned = self._fields
        if is_unasked(record):
            owned = {field: name for field, name in owned.items() if field == "ip_address"}
        for name in (_ADDRESS, *owned.values()):
            transaction.tags.pop(name, None)  # no public call removes a key
        for name, value in renamed(user, owned).items():
            transaction.tag(name, value)


class _Tags(dict[str, Any]):
    """The context of a transaction, and the record of the request that the transaction is of.

    So that goes with the transaction, also with one that never ends: Scout's takes no attribute
    of ours, and no weak reference.
    """

    def __init__(self, tags: dict[str, Any], owner: RequestRecord) -> None:
        super().__init__(tags)
        self.owner = owner
