"""Names the user in Scout's transactions and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from usercontext.clients.base import BaseClient
from usercontext.clients.collected import is_unasked, record_of
from usercontext.clients.fields import checked_fields
from usercontext.clients.per_request import PerRequest
from usercontext.core.context import pull_user
from usercontext.core.record import current, enter, leave
from usercontext.diagnostics import harmless
from usercontext.optional import importing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usercontext.core.record import RequestRecord
    from usercontext.types import GetUser
    from usercontext.user import User

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


class ScoutClient(BaseClient):
    """Puts the user into the context of every transaction, and of the errors inside of one.

    A transaction takes the user who becomes known while it is open, and asks for the user when it
    ends; an error asks when it is captured. It does not matter whether Scout's own middleware is
    outside of ours or inside.

    Inside a request ours is the whole truth about these keys: what `Context.add()` was given for
    them, and the `username` that Scout's integrations take, are replaced, and removed where the
    user is nobody. So is the `user_ip` that Scout takes of the first X-Forwarded-For.

    What it cannot do: Scout has no hook, so that the end of a transaction and the sending of an
    error are wrapped. An error outside of a transaction names nobody: what is said there would
    stay for whatever comes next. A transaction that an `isolation_scope` stands in is not its own.

    Args:
        fields: the user's fields to add, each with its key in the context; by default `FIELDS`.

    Raises:
        ConfigurationError: `fields` is no mapping of names.
        MissingDependencyError: scout-apm is not installed.
    """

    def __init__(self, *, fields: Mapping[str, str] | None = None) -> None:
        self._fields = checked_fields(fields, FIELDS)
        with importing("scout-apm", "scout", purpose="ScoutClient"):
            from scout_apm.core.context import scout_context_var
            from scout_apm.core.error import ErrorMonitor
            from scout_apm.core.tracked_request import TrackedRequest
        self._here: Any = scout_context_var
        self._errors: Any = ErrorMonitor
        self._transactions: Any = TrackedRequest
        self._get_user: GetUser = pull_user
        self._around: PerRequest[str] = PerRequest()

    def setup(self, get_user: GetUser, /) -> None:
        """Have Scout hand us the transactions that end, and the errors that it sends."""
        self._get_user = get_user
        stop, send = self._transactions.stop_span, self._errors.send

        def name_and_stop(transaction: Any) -> None:
            with harmless("Scout transaction", "a transaction of Scout went out without its user"):
                # While its last span is open: a resolver's query, in a span of its own, would
                # else end the transaction once more.
                if len(transaction.active_spans) == 1:
                    self._name_ending(transaction)
            stop(transaction)

        def name_and_send(exc_info: Any, *args: Any, **kwargs: Any) -> None:
            with harmless("Scout error", "an error of Scout went out without its user"):
                self._name_error(exc_info[1])
            send(exc_info, *args, **kwargs)

        self._transactions.stop_span = name_and_stop
        self._errors.send = staticmethod(name_and_send)

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

    def _transaction(self) -> Any:
        """Return the open transaction of the current request, or None."""
        record, transaction = current(), self._open_here()
        if record is None or transaction is None or self._owner(transaction) is not record.root:
            return None
        return transaction

    def is_recording(self) -> bool:
        """Return whether the request is in a transaction that will be sent."""
        transaction = self._transaction()
        return transaction is not None and _is_sent(transaction)

    def set_user(self, user: User | None, /) -> None:
        """Replace the user of the open transaction."""
        record, transaction = current(), self._transaction()
        if record is not None and transaction is not None:
            self._name(transaction, record.root, None if user is None else user.to_dict())

    def _name_ending(self, transaction: Any) -> None:
        owner = self._owner(transaction)
        if owner is None:
            return
        # It may end in a middleware outside of ours.
        token = enter(owner)
        try:
            if _is_sent(transaction):
                self._name(transaction, owner, self._get_user())
        finally:
            leave(token)

    def _name_error(self, error: BaseException) -> None:
        record, transaction = record_of(error), self._open_here()
        if record is None or transaction is None or self._owner(transaction) is not record.root:
            return
        self._name(transaction, record, self._get_user(error))

    def _name(self, transaction: Any, record: RequestRecord, user: dict[str, Any] | None) -> None:
        # No public call removes a key.
        tags, fields = transaction.tags, user or {}
        tags.pop(_ADDRESS, None)
        owned = self._fields.items()
        if is_unasked(record):
            owned = {field: name for field, name in owned if field == "ip_address"}.items()
        for field, name in owned:
            tags.pop(name, None)
            if field in fields:
                transaction.tag(name, fields[field])


class _Tags(dict[str, Any]):
    """The context of a transaction, and the record of the request that the transaction is of.

    So that goes with the transaction, also with one that never ends: Scout's takes no attribute
    of ours, and no weak reference.
    """

    def __init__(self, tags: dict[str, Any], owner: RequestRecord) -> None:
        super().__init__(tags)
        self.owner = owner


def _is_sent(transaction: Any) -> bool:
    return bool(transaction.is_real_request) and not transaction.is_ignored()
