"""Ready resolvers that follow the framework's own current user.

Their answer stands as long as the framework holds the same object. So a login, a logout, a switch
of users and an impersonation in the middle of a request are followed, whoever asked before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from usercontext.core.record import NOT_YET

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.source import Source

    Held: TypeAlias = Callable[[Source | None, Any], object]
    #: The dicts, with the key in each, that say which user the framework holds.
    Places: TypeAlias = list[tuple[dict[Any, Any], Any]]

__all__ = ["NOT_YET", "Held", "Places", "follows"]

R = TypeVar("R")


def follows(
    held: Held, places: Callable[[Source | None, Any], Places] | None = None
) -> Callable[[R], R]:
    """Mark a resolver as one that follows what `held` shows.

    Args:
        held: called at each question with the ASGI scope or WSGI environ (None where there is
            neither) and the framework's own request where the record has one, else None.
            It returns what the framework holds as its user now, which is compared by identity,
            or NOT_YET where the framework has found nobody yet or cannot be seen from here: then
            the answer so far stands. It never queries, awaits or raises; and once it shows an
            object, the resolver answers without asking anybody.
        places: called likewise when the resolver has answered. It returns the dicts, each with a
            key, that say which user is held: as long as the same objects stand there `held`
            shows the same. Then it is not called at each question, which costs 2,000
            instructions and more. None, or an empty list: it is.
    """

    def mark(resolver: R) -> R:
        resolver.held = held  # type: ignore[attr-defined]
        resolver.places = places  # type: ignore[attr-defined]
        return resolver

    return mark
