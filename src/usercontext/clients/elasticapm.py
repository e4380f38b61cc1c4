"""Names the user in the errors and transactions of elastic-apm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from usercontext.clients.collected import Places, address_of, clean_request, record_of
from usercontext.clients.hooks import call_before
from usercontext.clients.payload import PayloadClient
from usercontext.clients.per_request import RequestTransaction
from usercontext.clients.transaction import TransactionClient
from usercontext.core.record import current
from usercontext.optional import importing

if TYPE_CHECKING:
    from usercontext.core.record import RequestRecord
    from usercontext.types import GetUser

__all__ = ["ElasticapmClient"]

# What Elastic's intake knows of a user.
_FIELDS = ("id", "username", "email")

_PLACES = Places(environ="env")


class ElasticapmClient(PayloadClient, TransactionClient):
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

    lost: ClassVar[tuple[str, str]] = (
        "elastic-apm error",
        "an error of Elastic went out without its user",
    )

    spoken: ClassVar[tuple[str, ...]] = ("exception", "log")

    def __init__(self, client: Any = None) -> None:
        with importing("elastic-apm", "elasticapm", purpose="ElasticapmClient"):
            import elasticapm
            from elasticapm.conf.constants import ERROR
            from elasticapm.traces import execution_context
        self._given = client
        self._find_client: Any = elasticapm.get_client
        self._error: str = ERROR
        self._hooked: object = None
        self._transaction: RequestTransaction[Any] = RequestTransaction(
            execution_context.get_transaction, lambda one: one.duration is None
        )
        super().__init__(self._transaction)

    def hook(self) -> None:
        """Name the user of every error where it is captured.

        Elastic's processors would be too late: they run in the thread that sends.
        """
        client = self._find_client() if self._given is None else self._given
        if client is not None and client is not self._hooked:
            self._hooked = client
            call_before(client, "queue", self._name_error, *self.lost)

    def _name_error(self, event_type: str, data: Any, *_: Any, **__: Any) -> None:
        if event_type != self._error:
            return
        self.fill(data)
        record = record_of(self.error_of(data))
        if record is not None and record is current() is record.root:
            for transaction in self._transaction.opened():
                # The request may never get to the start of a response.
                self.name(transaction, data["context"].get("user"))

    def write(self, error: dict[str, Any], user: dict[str, Any] | None) -> None:
        """Replace the user of an error."""
        _replace_user(error.setdefault("context", {}), user)

    def clean(self, error: dict[str, Any], record: RequestRecord) -> None:
        """Replace the address that Elastic has collected, or remove it."""
        _clean_context(error["context"], record)

    def request_scope(self, get_user: GetUser, /) -> None:
        """Find the transaction, where Elastic's middleware is outside of ours."""
        del get_user
        self.hook()  # into a client that was made after `init()`
        for one in self._transaction.opened():
            self.start(one)

    def start(self, transaction: Any) -> None:
        """Replace the address that Elastic has collected, or remove it."""
        record = current()
        if record is not None:
            _clean_context(transaction.context, record)

    def is_sampled(self, transaction: Any) -> bool:
        """Return whether it will be sent with what is in it."""
        return bool(transaction.is_sampled)

    def name(self, transaction: Any, user: dict[str, Any] | None) -> None:
        """Replace the user of the transaction."""
        _replace_user(transaction.context, user)
        self.start(transaction)


def _replace_user(context: dict[str, Any], user: dict[str, Any] | None) -> None:
    """Replace the user of an error or transaction.

    Not by `set_user_context()`, which merges two people, clears nothing, and does nothing in an
    unsampled transaction: what is written there is sent with errors alone.
    """
    context.pop("user", None)
    fields = {name: user[name] for name in _FIELDS if user and name in user}
    if fields:
        context["user"] = fields


def _clean_context(context: dict[str, Any], record: RequestRecord) -> None:
    if not isinstance(context.get("request"), dict):
        return
    clean_request(context, record, _PLACES)
    socket = context["request"].get("socket")
    if isinstance(socket, dict) and "remote_address" in socket:
        others = {name: one for name, one in socket.items() if name != "remote_address"}
        address = address_of(record)
        context["request"]["socket"] = others | ({"remote_address": address} if address else {})
