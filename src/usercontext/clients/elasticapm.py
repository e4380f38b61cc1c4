"""Names the user in the errors and transactions of elastic-apm."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from usercontext.clients.base import BaseClient
from usercontext.clients.collected import address_of, cleaned_environ, cleaned_headers, record_of
from usercontext.clients.per_request import RequestTransaction
from usercontext.core.context import pull_user
from usercontext.core.record import current
from usercontext.diagnostics import harmless
from usercontext.optional import importing

if TYPE_CHECKING:
    from usercontext.core.record import RequestRecord
    from usercontext.types import GetUser
    from usercontext.user import User

__all__ = ["ElasticapmClient"]

# What Elastic's intake knows of a user.
_FIELDS = ("id", "username", "email")


class ElasticapmClient(BaseClient):
    """Makes ours the user of every error, and of every transaction that is sampled.

    An error asks for the user when it is captured. A transaction takes the user who becomes
    known, and at the latest the one who is known when the response starts. It does not matter
    whether Elastic's own middleware is outside of ours or inside. An error names its user in an
    unsampled transaction too, where `elasticapm.set_user_context()` does nothing.

    Inside a request ours is the whole truth: what `set_user_context()` or Elastic's Django
    middleware say is replaced, and removed where the user is nobody. The address that Elastic
    takes of the peer or the first X-Forwarded-For is replaced by ours, or removed.

    What it cannot do: a user has `id`, `username` and `email` there, and nothing else. An error
    that is captured when its request is over must be captured inside of its `except` block, as
    Elastic does not hand on the exception. Spans name nobody.

    Args:
        client: the `elasticapm.Client` that the app reports with; by default the one that
            `elasticapm.get_client()` returns, which may be made after `init()`.

    Raises:
        MissingDependencyError: elastic-apm is not installed.
    """

    def __init__(self, client: Any = None) -> None:
        with importing("elastic-apm", "elasticapm", purpose="ElasticapmClient"):
            import elasticapm
            from elasticapm.conf.constants import ERROR
            from elasticapm.traces import execution_context
        self._given = client
        self._find_client: Any = elasticapm.get_client
        self._error: str = ERROR
        self._get_user: GetUser = pull_user
        self._hooked: object = None
        self._transaction: RequestTransaction[Any] = RequestTransaction(
            execution_context.get_transaction, lambda one: one.duration is None
        )

    def setup(self, get_user: GetUser, /) -> None:
        """Name the user of every error where it is captured.

        Elastic's processors would be too late: they run in the thread that sends.
        """
        self._get_user = get_user
        self._hook()

    def _hook(self) -> None:
        client = self._find_client() if self._given is None else self._given
        if client is None or client is self._hooked:
            return
        self._hooked = client
        queue = client.queue

        def name_and_queue(event_type: str, data: Any, *args: Any, **kwargs: Any) -> None:
            if event_type == self._error:
                with harmless("elastic-apm error", "an error of Elastic went out without its user"):
                    self._name_error(data)
            queue(event_type, data, *args, **kwargs)

        client.queue = name_and_queue

    def _name_error(self, data: dict[str, Any]) -> None:
        error = sys.exc_info()[1]
        record = record_of(error)
        if record is None:
            return
        user = self._get_user(error)
        _write(data.setdefault("context", {}), user, record)
        transaction = self._transaction.get()
        if transaction is not None and record is current() is record.root:
            # The request may never get to the start of a response.
            _write(transaction.context, user, record)

    def request_scope(self, get_user: GetUser, /) -> None:
        """Find the transaction, where Elastic's middleware is outside of ours."""
        del get_user
        self._hook()  # a client that was made after `init()`
        record, transaction = current(), self._transaction.get()
        if transaction is not None and record is not None:
            _clean_request(transaction.context, record)

    def is_recording(self) -> bool:
        """Return whether the request is in a sampled transaction."""
        transaction = self._transaction.get()
        return transaction is not None and bool(transaction.is_sampled)

    def set_user(self, user: User | None, /) -> None:
        """Replace the user of the transaction."""
        record, transaction = current(), self._transaction.get()
        if transaction is not None and record is not None:
            _write(transaction.context, None if user is None else user.to_dict(), record)


def _write(context: dict[str, Any], user: dict[str, Any] | None, record: RequestRecord) -> None:
    """Replace the user of an error or transaction, and the address.

    Not by `set_user_context()`, which merges two people, clears nothing, and does nothing in an
    unsampled transaction: what is written there is sent with errors alone.
    """
    context.pop("user", None)
    fields = {name: user[name] for name in _FIELDS if user and name in user}
    if fields:
        context["user"] = fields
    _clean_request(context, record)


def _clean_request(context: dict[str, Any], record: RequestRecord) -> None:
    """Replace the address that Elastic has collected, or remove it."""
    if not isinstance(context.get("request"), dict):
        return
    context["request"] = request = dict(context["request"])
    socket, address = request.get("socket"), address_of(record)
    if isinstance(socket, dict) and "remote_address" in socket:
        request["socket"] = {**socket, "remote_address": address}
        if address is None:
            del request["socket"]["remote_address"]
    if isinstance(request.get("headers"), dict):
        request["headers"] = cleaned_headers(request["headers"], record)
    if isinstance(request.get("env"), dict):
        request["env"] = cleaned_environ(request["env"], record)
