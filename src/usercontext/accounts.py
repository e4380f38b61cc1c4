"""Reading an account of an ORM without asking its database.

An account is read for a report, and reports are made when its database has just failed: the session
is rolled back or closed, or the row is deleted. Any read that loads would raise there, or send a
query in the middle of somebody's broken transaction. So an account is read through a stand-in of
its own class that holds what was loaded already, and has no way to load more. Its properties
and methods work as ever, up to the first of them that needs what is missing.

No ORM is imported: each is told by what its instances hold.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Reading", "unwrapped"]

# How far loaded relations are followed: an account, its profile, and what the profile stands in.
_DEPTH: Final = 3

_SQLALCHEMY: Final = "_sa_instance_state"


class Reading:
    """Reads one account while nothing of it can be loaded: `with Reading(value) as account:`.

    What belongs to no ORM is read as it is.

    Attributes:
        key: the primary key by which the ORM itself knows the account, also once it has expired;
            None where there is none, or one of several columns.
    """

    __slots__ = ("_blocks", "_value", "key")

    def __init__(self, value: Any) -> None:
        self._value = value
        self.key: object = None
        self._blocks: list[_NoCursor] = []

    def __enter__(self) -> Any:
        account = _stand_in(self._value, _DEPTH)
        if account is self._value:
            return account
        self.key = _key_of(self._value)
        self._blocks = list(_blocks_of_queries(self._value))
        for block in self._blocks:
            block.__enter__()
        return account

    def __exit__(self, *_: object) -> None:
        for block in reversed(self._blocks):
            block.__exit__()


def unwrapped(value: Any) -> Any:
    """Return what a proxy of Werkzeug (`current_user`) or Django (`request.user`) stands for.

    Django's loads its user here, if nobody has asked for it before: a resolver handed it over to
    be read.
    """
    kind = type(value)
    if kind.__name__ == "LocalProxy" and kind.__module__.startswith("werkzeug."):
        return value._get_current_object()
    if kind.__module__ == "django.utils.functional" and hasattr(kind, "_setup"):
        own = object.__getattribute__(value, "__dict__")
        if type(own.get("_wrapped")) is object:  # Django's mark of what has not been loaded
            value._setup()
        return own["_wrapped"]
    return value


def _own(value: Any) -> Mapping[str, Any]:
    """Return an instance's own attributes, past every `__getattr__`."""
    try:
        own: Mapping[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return own


def _stand_in(value: Any, depth: int) -> Any:
    """Return what to read in an account's place: the value itself, where it is of no ORM."""
    make = _maker(value)
    return value if make is None else make(value, depth)


def _maker(value: Any) -> Callable[[Any, int], Any] | None:
    own = _own(value)
    if _SQLALCHEMY in own:
        return _of_sqlalchemy
    kind = type(value)
    if not hasattr(kind, "_meta"):
        return _of_pony if hasattr(kind, "_pk_attrs_") else None
    if "_state" in own:
        return _of_django
    if "__data__" in own:
        return _of_peewee
    return _of_mongoengine if hasattr(kind, "_fields") and hasattr(value, "_data") else None


def _bare(value: Any, own: Mapping[str, Any]) -> Any:
    """Return an instance of the value's class with these attributes, none of its code run."""
    bare = object.__new__(type(value))
    _own(bare).update(own)  # type: ignore[attr-defined]
    return bare


def _key_of(value: Any) -> object:
    state = _own(value).get(_SQLALCHEMY)
    if state is None or state.key is None or len(state.key[1]) != 1:
        return None
    return state.key[1][0]


def _of_sqlalchemy(account: Any, depth: int) -> Any:
    # Without its state an instance has no session; attributes that are missing raise.
    state = _own(account)[_SQLALCHEMY]
    own = {
        name: _stand_in(value, depth - 1)
        for name, value in _own(account).items()
        if name != _SQLALCHEMY and (depth or _maker(value) is None)
    }
    return _bare(account, {**_identity(state), **own})


def _identity(state: Any) -> dict[str, Any]:
    """Return the primary key by attribute, which outlives expiry, rollback and detachment."""
    if state.key is None:
        return {}
    mapper = state.mapper
    names = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    return dict(zip(names, state.key[1], strict=True))


def _of_django(account: Any, _depth: int) -> Any:
    # Relations and deferred fields are found by way of the state: this one has nothing to go by.
    return _bare(account, {**_own(account), "_state": object(), "refresh_from_db": _refuse})


def _refuse(*_: object, **__: object) -> NoReturn:
    raise LookupError("a report reads what is loaded, and sends no query")


def _of_peewee(account: Any, depth: int) -> Any:
    own = _own(account)
    related = {
        name: _stand_in(value, depth - 1)
        for name, value in own["__rel__"].items()
        if depth or _maker(value) is None
    }
    unloaded = {field.name for field in type(account)._meta.refs} - related.keys()
    data = {name: value for name, value in own["__data__"].items() if name not in unloaded}
    return _bare(account, {**own, "__data__": data, "__rel__": related})


class _Loaded:
    """What Pony has loaded of an entity, whose own class reads nothing without a session."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


def _of_pony(account: Any, _depth: int) -> Any:
    keys = type(account)._pk_attrs_
    values = {attribute.name: value for attribute, value in (account._vals_ or {}).items()}
    if len(keys) == 1:
        values[keys[0].name] = account._pkval_
    return _Loaded(values)


def _of_mongoengine(account: Any, _depth: int) -> Any:
    data = {
        name: value
        for name, value in account._data.items()
        if type(value).__name__ not in ("DBRef", "LazyReference") and _maker(value) is None
    }
    bare = _bare(account, _own(account))
    object.__setattr__(bare, "_data", data)  # a slot
    return bare


def _blocks_of_queries(value: Any) -> Iterator[_NoCursor]:
    """Yield what keeps Django's connections of this thread from being asked meanwhile.

    A method such as `get_full_name()` may send a query that goes by no attribute of the account.
    """
    database: Any = sys.modules.get("django.db")
    if database is not None and _maker(value) is _of_django:
        for connection in database.connections.all():
            yield _NoCursor(connection)


class _NoCursor:
    """Refuses every query of one of Django's connections, which belongs to this thread.

    Django's own `execute_wrapper` comes too late: it connects before, and counts the query.
    """

    __slots__ = ("_before", "_own")

    def __init__(self, connection: Any) -> None:
        self._own: dict[str, Any] = vars(connection)
        self._before: dict[str, Any] = {}

    def __enter__(self) -> None:
        for name in ("cursor", "chunked_cursor"):
            if name in self._own:  # put there by a tool for tests
                self._before[name] = self._own[name]
            self._own[name] = _refuse

    def __exit__(self, *_: object) -> None:
        for name in ("cursor", "chunked_cursor"):
            del self._own[name]
        self._own.update(self._before)
