"""Names the user in New Relic's transactions and their errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from usercontext.clients.error_texts import replacer_of_error
from usercontext.clients.fields import checked_fields, identifier, plain
from usercontext.clients.hooks import wrap
from usercontext.clients.per_request import RequestTransaction
from usercontext.clients.transaction import TransactionClient
from usercontext.diagnostics import harmless
from usercontext.optional import importing

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FIELDS", "NewrelicClient"]

#: The user's fields beside the id, and the custom attributes that hold them.
FIELDS: Final[Mapping[str, str]] = {
    "username": "user.name",
    "email": "user.email",
    "name": "user.full_name",
    "ip_address": "client.address",
}

# The agent's own attribute, by which New Relic counts the users that an error meets.
_ID: Final = "enduser.id"

_MAX_LENGTH: Final = 255

# Where the agent makes texts of errors: in transactions, outside of them, and for log lines.
_PARSER: Final = "parse_exc_info"
# The text that its hooks of LLM libraries have made of an error's.
_OWN_MESSAGE: Final = "_nr_message"


class NewrelicClient(TransactionClient):
    """Names the user of the transaction: `enduser.id`, and custom attributes for the rest.

    A transaction takes the user who becomes known, and at the latest the one who is known when
    the response starts. It does not matter whether New Relic's own wrapper is outside of ours or
    inside. A user without an id is counted by username or email.

    Inside a request ours is the whole truth: what `newrelic.agent.set_user_id()` was given is
    replaced, and removed where the user is nobody. New Relic has no call that clears it, and
    ignores None: we take it out of the transaction's own dictionaries. Should an agent to come
    keep them elsewhere, this is logged once, and its transactions name nobody.

    Texts of errors follow the option `exception_text`.

    What it cannot do: a transaction and all of its errors name one user, the last one; who logs
    out is not named by an error before. Where New Relic's wrapper is inside of ours, an error
    that nothing turns into a response names a user who was set, and asks no resolver.

    Args:
        fields: the user's fields to add, each with its custom attribute, of which New Relic takes
            128; `{}` for the id alone. By default `FIELDS`.

    Raises:
        ConfigurationError: `fields` is not a mapping of names.
        MissingDependencyError: newrelic is not installed.
    """

    def __init__(self, *, fields: Mapping[str, str] | None = None) -> None:
        self._fields = checked_fields(fields, FIELDS)
        with importing("newrelic", "newrelic", purpose="NewrelicClient"):
            from newrelic.agent import current_transaction
            from newrelic.api import log, time_trace
            from newrelic.core import stats_engine
        self._parsers: Any = [one for one in (log, time_trace, stats_engine) if _parses(one)]
        super().__init__(RequestTransaction(current_transaction, lambda one: not one.end_time))

    def hook(self) -> None:
        """Have texts of errors told safely, where the agent makes them."""
        for module in self._parsers:
            wrap(module, _PARSER, _parsed)

    def is_sampled(self, transaction: Any) -> bool:
        """Return whether nothing has said that it is to be ignored."""
        return not transaction.ignore_transaction

    def name(self, transaction: Any, user: dict[str, Any] | None) -> None:
        """Replace its user."""
        # Before anything is added: a full transaction refuses new values of old names, too.
        transaction._agent_attributes.pop(_ID, None)
        for name in self._fields.values():
            transaction._custom_params.pop(name, None)
        known_by = identifier(user)
        if known_by is not None:
            # Not by `set_user_id()`, which looks for the transaction of this thread or task.
            transaction._add_agent_attribute(_ID, known_by[:_MAX_LENGTH])
        for name, value in plain(user, self._fields).items():
            transaction.add_custom_attribute(name, value)


def _parses(module: object) -> bool:
    return hasattr(module, _PARSER)


def _parsed(function: Any, exc_info: Any) -> Any:
    parsed = function(exc_info)
    with harmless("New Relic error", "the text of an error of New Relic may quote its input"):
        *names, text = parsed
        error = exc_info[1]
        replace = replacer_of_error(error)
        if replace is None:
            return parsed
        if isinstance(getattr(error, _OWN_MESSAGE, None), str):
            setattr(error, _OWN_MESSAGE, replace(getattr(error, _OWN_MESSAGE)))
        return (*names, replace(text))
    return parsed
