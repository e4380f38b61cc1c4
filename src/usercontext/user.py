"""Who makes a request: `User`, a frozen value that can safely be shared, kept and compared."""

from __future__ import annotations

from types import CoroutineType, MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, final

from usercontext.address.spelling import canonical_address
from usercontext.diagnostics import warn_once
from usercontext.exceptions import InvalidUserError
from usercontext.extra_values import (
    CUT,
    bounded_extras,
    copied,
    is_mapping,
    is_of,
    kind_of,
    plain_text,
    usable_extra,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv4Address, IPv6Address
    from uuid import UUID

__all__ = [
    "AUTO_ADDRESS",
    "FIELDS",
    "IDENTITY_FIELDS",
    "User",
    "identity_in",
    "is_identifier",
    "is_nobody",
    "quick_user",
    "read_user",
]

#: In place of an address: let the server take the address that a report arrives from.
AUTO_ADDRESS = "{{auto}}"

#: What tells one user from others: the first of them that is present.
IDENTITY_FIELDS: tuple[str, ...] = ("id", "username", "email", "ip_address")
#: What a user has besides extra values.
FIELDS: tuple[str, ...] = (*IDENTITY_FIELDS, "name")

_MAX_LENGTH = 256
_FIELD_SET = frozenset(FIELDS)
_NO_EXTRAS: dict[str, Any] = {}

# What a value has that is more than one plain thing: containers, functions, models.
_NOT_PLAIN = ("__iter__", "__len__", "__contains__", "__call__", "__float__", "pk", "id", "_meta")
_LIKE_TEXT = ("__str__", "__mod__", "__add__", "__len__", "__hash__")
_TOO_LARGE = 10**_MAX_LENGTH
_NOTHING = (None, None, None, None, None, _NO_EXTRAS)

#: id, username, email, ip_address, name, extra values.
_Values: TypeAlias = (
    "tuple[str | None, str | None, str | None, str | None, str | None, dict[str, Any]]"
)


@final
class User:
    """Describe who makes a request: immutable, hashable, bounded, and equal by value.

    At least one of the first four fields is needed for a user to be reported.

    Args:
        id: the id in the app's own records. An int (`0` included), a UUID, and any hashable plain
            value whose class says how it is written (ObjectId, ULID, an integral Decimal, an
            integer of NumPy) become strings.
        username: the name to log in with; it becomes a string as an id does.
        email: the e-mail address, as it is.
        ip_address: an IPv4 or IPv6 address without port, brackets, zone or spaces, or
            `"{{auto}}"` for the one that `include_ip` collects; without that it is sent as it
            is, to the Sentry protocol alone. An IPv4-mapped address becomes IPv4.
        name: the name to show; cut, and marked as cut, after 256 characters.
        data: extra values, copied as JSON values. Datetimes, Decimals, Enums and UUIDs become
            strings. What lies deeper than 4 levels, past 64 keys, past 1 KiB of a string or past
            8 KiB in all is cut, and `...[cut]` stands in its place.

    Empty strings and None are absent, and so are extra values of None.

    Raises:
        InvalidUserError: a value is of the wrong type, one of the first three is longer than
            256 characters, or the address is none. No message holds the value.

    .. versionadded:: 0.1.0
    """

    # One tuple: a slot for each field would take ten times as long to fill, as `__setattr__`
    # refuses and has to be gone around.
    __slots__ = ("_values",)
    _values: _Values

    def __init__(
        self,
        /,
        id: str | int | UUID | None = None,  # noqa: A002 - the field's name in every client
        username: str | int | UUID | None = None,
        email: str | None = None,
        ip_address: str | IPv4Address | IPv6Address | None = None,
        *,
        name: str | None = None,
        **data: object,
    ) -> None:
        _set_values(
            self,
            (
                None if id is None else _identifier("id", id),
                None if username is None else _identifier("username", username),
                None if email is None else _text("email", email),
                None if ip_address is None else _address(ip_address),
                None if name is None else _name(name),
                _extras(data) if data else _NO_EXTRAS,
            ),
        )

    def __init_subclass__(cls) -> None:
        raise TypeError("User cannot be subclassed: hand extra values over as keywords instead")

    @staticmethod
    def of(value: object, /) -> User | None:
        """Make a user of a `User`, a mapping, or a framework's user object.

        Of an object only id, username, email and name are read, never the whole model: of
        Django (`pk`, `get_username()`, `get_full_name()`), Flask-Login (`id`, or `get_id()`),
        Starlette (`identity`, `display_name`), or attributes of our own fields' names. An address
        is taken from a mapping or a `User` alone: a column of that name may be an old one.

        Reading an account of an ORM (SQLAlchemy, Django, Peewee, MongoEngine, Pony) sends no query:
        what is loaded is read, and the primary key that survives expiry and rollback.

        A field or extra value that cannot be read or used costs that field alone, and is said
        once on the `usercontext` logger. Sets among the extra values become sorted lists.

        Returns:
            None for None, for a user who is anonymous or not authenticated, and where nothing
            usable was found.

        Raises:
            InvalidUserError: the value as a whole cannot be read: a coroutine that was not
                awaited, a proxy of nothing.
        """
        return read_user(value)[0]

    @property
    def id(self) -> str | None:
        """The id in the app's own records, as a string."""
        return self._values[0]

    @property
    def username(self) -> str | None:
        """The name to log in with."""
        return self._values[1]

    @property
    def email(self) -> str | None:
        """The e-mail address."""
        return self._values[2]

    @property
    def ip_address(self) -> str | None:
        """The address in its canonical spelling, or `"{{auto}}"`."""
        return self._values[3]

    @property
    def name(self) -> str | None:
        """The name to show."""
        return self._values[4]

    @property
    def data(self) -> Mapping[str, Any]:
        """The extra values, read-only: a copy, of which no change reaches anybody."""
        return MappingProxyType(copied(self._values[5]))

    @property
    def identity(self) -> str | None:
        """What tells this user from others: `id:42`, `username:ann`, `email:...` or `ip:...`.

        The first of the four that is present, with the prefixes of the Sentry protocol.
        """
        return identity_in(dict(zip(IDENTITY_FIELDS, self._values, strict=False)))

    def to_dict(self) -> dict[str, Any]:
        """Return the present fields, with the extra values beside them, as a fresh dict."""
        id, username, email, ip_address, name, extras = self._values  # noqa: A001
        fields: dict[str, Any] = {}
        if id is not None:
            fields["id"] = id
        if username is not None:
            fields["username"] = username
        if email is not None:
            fields["email"] = email
        if ip_address is not None:
            fields["ip_address"] = ip_address
        if name is not None:
            fields["name"] = name
        if extras:
            fields.update(copied(extras))
        return fields

    def with_fields(self, /, **changes: Any) -> User:
        """Return a user with some fields or extra values changed; None removes one.

        Raises:
            InvalidUserError: as for `User`.
        """
        return User(**{**self.to_dict(), **changes})

    def _with_address(self, address: str) -> User:
        """Return this user at an address that is known to be valid and canonical."""
        id, username, email, _, name, extras = self._values  # noqa: A001
        user = _new_user(User)
        _set_values(user, (id, username, email, address, name, extras))
        return user

    def __eq__(self, other: object) -> bool:
        return self._values == other._values if type(other) is User else NotImplemented

    def __hash__(self) -> int:
        return hash((self._values[:5], _hashable(self._values[5])))

    def __repr__(self) -> str:
        # Only which fields there are: a repr ends up in logs, where no user's data may be.
        values = zip((*FIELDS, "data"), self._values, strict=True)
        return f"<User {', '.join(name for name, value in values if value) or 'of nothing'}>"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a User cannot be changed: use with_fields() for another one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a User cannot be changed: use with_fields() for another one")

    def __copy__(self) -> User:
        return self

    def __deepcopy__(self, memo: object) -> User:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _assemble, (self._values,)


def identity_in(fields: Mapping[str, Any]) -> str | None:
    """Return the identity of the user whose fields these are, `id:42`; None if nobody is named."""
    for field in IDENTITY_FIELDS:
        if fields.get(field):
            return f"{field.removesuffix('_address')}:{fields[field]}"
    return None


_new_user = object.__new__
_set_values = User.__dict__["_values"].__set__


def _assemble(values: _Values) -> User:
    """Make a user of values that are known to be valid."""
    user = _new_user(User)
    _set_values(user, values)
    return user


def _hashable(value: Any) -> Any:
    if type(value) is dict:
        return frozenset((key, _hashable(item)) for key, item in value.items())
    if type(value) is list:
        return tuple(_hashable(item) for item in value)
    return value


# Fields


def _identifier(field: str, value: Any) -> str | None:
    if type(value) is str and len(value) <= _MAX_LENGTH and value.isascii():
        return value or None  # nearly every one, and quickly
    return _text(field, value if issubclass(type(value), str) else _number_text(field, value))


def is_identifier(value: object) -> bool:
    """Tell whether a value can be an id by itself."""
    try:
        return _identifier("id", value) is not None
    except InvalidUserError:
        return False


def _number_text(field: str, value: Any) -> str:
    kind = type(value)
    if kind is bool:
        raise InvalidUserError(f"{field} is of type bool: give a string, an int or a UUID instead")
    if issubclass(kind, int):
        number = int.__pos__(value)
        # Python refuses to print an integer of thousands of digits.
        return str(number) if number.bit_length() < 4 * _MAX_LENGTH else "9" * (_MAX_LENGTH + 1)
    if is_of(value, "uuid", "UUID"):
        return _guarded_text(field, value)
    if is_of(value, "numbers", "Number"):
        return _integral_text(field, value)
    if _is_plain(value):
        return _guarded_text(field, value)
    raise InvalidUserError(
        f"{field} is of type {kind_of(value)}: give a string, an int or a UUID instead"
    )


def _integral_text(field: str, value: Any) -> str:
    """Return a Decimal, or a number of NumPy, in the spelling of the int that it equals."""
    is_exact = is_of(value, "numbers", "Integral") or is_of(value, "decimal", "Decimal")
    number = None
    try:
        if is_exact and abs(value) < _TOO_LARGE and int(value) == value:
            number = int(value)
    except Exception:  # noqa: BLE001, S110 - a signaling NaN, and a class of the app's own
        pass
    if number is None:
        raise InvalidUserError(
            f"{field} is of type {kind_of(value)} and no whole number: give a string instead"
        )
    return str(number)


def _is_plain(value: Any) -> bool:
    """Tell whether a value is one thing, of a class that says how it is written."""
    kind: Any = type(value)
    return (
        kind.__str__ is not object.__str__
        and kind.__hash__ is not None
        and not any(_defines(kind, name) for name in _NOT_PLAIN)
        and not issubclass(kind, type | BaseException)
    )


def _defines(kind: type, name: str) -> bool:
    """Tell whether a class, and not the class of the class, has an attribute."""
    return any(name in base.__dict__ for base in type.__dict__["__mro__"].__get__(kind))


def _guarded_text(field: str, value: object) -> str:
    """Return `str(value)` of a class that may be a subclass, with code of the app's own."""
    try:
        text = plain_text(str(value))
    except Exception as error:  # noqa: BLE001
        raise InvalidUserError(
            f"{field} is of type {kind_of(value)}, and printing it raised {kind_of(error)}"
        ) from None
    if text.startswith("<") and text.endswith(">"):  # `<... object at 0x...>`
        raise InvalidUserError(f"{field} is of type {kind_of(value)}: give a string instead")
    return text


def _text(field: str, value: Any) -> str | None:
    """Return a text that identifies somebody: whole, or not at all."""
    if type(value) is not str:
        value = _text_of_subclass(field, value)
    if len(value) > _MAX_LENGTH:
        raise InvalidUserError(
            f"{field} is longer than {_MAX_LENGTH} characters, and would not be the same one if cut"
        )
    if not value.isascii():
        _refuse_surrogates(field, value)
    return value or None


def _text_of_subclass(field: str, value: Any) -> str:
    if issubclass(type(value), str):
        return plain_text(value)
    if _is_translated(type(value)):
        return _guarded_text(field, value)
    raise InvalidUserError(f"{field} is of type {kind_of(value)}: give a string instead")


def _is_translated(kind: type) -> bool:
    """Tell the lazy texts of Django and Babel, which are written when they are read."""
    is_text = _defines(kind, "casefold") or all(_defines(kind, name) for name in _LIKE_TEXT)
    return is_text and not issubclass(kind, bytes | bytearray)


def _refuse_surrogates(field: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidUserError(
            f"{field} holds a lone surrogate, which UTF-8 cannot carry: decode it before"
        ) from None


def _name(value: Any) -> str | None:
    if type(value) is not str:
        value = _text_of_subclass("name", value)
    if len(value) > _MAX_LENGTH:
        value = value[: _MAX_LENGTH - len(CUT)] + CUT
    return _text("name", value)


def _address(value: Any) -> str | None:
    if is_of(value, "ipaddress", "_BaseAddress"):
        value = _guarded_text("ip_address", value)
    if type(value) is not str:
        value = _text_of_subclass("ip_address", value)
    if value == AUTO_ADDRESS or not value:
        return value or None
    address = canonical_address(value)
    if address is None:
        raise InvalidUserError(
            "ip_address is not an address: give IPv4 or IPv6 without port, brackets, zone, spaces, "
            f"or {AUTO_ADDRESS!r}"
        )
    return address


def _extras(mapping: Any) -> dict[str, Any]:
    try:
        return bounded_extras(mapping, fields=_FIELD_SET)
    except InvalidUserError:
        raise
    except Exception as error:  # noqa: BLE001 - the app's own mappings and sequences
        raise InvalidUserError(f"reading the extra values raised {kind_of(error)}") from None


# Sources

# Plain values that hold no user; a namedtuple, a class of its own, may be one.
_NO_USERS = frozenset({str, bytes, bytearray, bool, int, float, list, tuple, set, frozenset})

# Where frameworks keep what we call by one name. The key of a model comes first; Flask-Login's
# `get_id()` after `id`, since apps let it return the token of a session.
_IDS = ("pk", "id", "get_id()", "identity")
_USERNAMES = ("get_username()", "username", "display_name")
_EMAILS = ("email",)
_NAMES = ("get_full_name()", "name")


def quick_user(fields: dict[Any, Any]) -> User | None:
    """Return the user of a dict with an id, in few steps: None where there is more to it."""
    try:
        id = fields.get("id")  # noqa: A001
        # The first line of `_identifier`, as it would be felt: nearly every id is such a string.
        if id is not None and not (type(id) is str and 0 < len(id) <= _MAX_LENGTH and id.isascii()):
            id = _identifier("id", id)  # noqa: A001
        if id is None:
            return None
        values: _Values = (id, None, None, None, None, _NO_EXTRAS)
        if len(fields) > 1:
            values = _all_values(fields, id)
    except Exception:  # noqa: BLE001 - what is wrong with it is found on the longer way
        return None
    user = _new_user(User)
    _set_values(user, values)
    return user


def _all_values(fields: dict[Any, Any], id: str) -> _Values:  # noqa: A002
    get = fields.get
    username, email, ip_address, name = (
        get("username"),
        get("email"),
        get("ip_address"),
        get("name"),
    )
    return (
        id,
        None if username is None else _identifier("username", username),
        None if email is None else _text("email", email),
        None if ip_address is None else _address(ip_address),
        None if name is None else _name(name),
        _NO_EXTRAS if fields.keys() <= _FIELD_SET else _extras(fields),
    )


def read_user(value: object) -> tuple[User | None, bool]:
    """Do what `User.of` does; return also whether something was left out, and has been said."""
    if value is None:
        return None, False
    left_out: list[str] = []
    try:
        user = _made_of(value, left_out)
    except InvalidUserError:
        raise
    except Exception as error:  # noqa: BLE001 - the app's own code: proxies, mappings
        # Its message is left out of the traceback: it may well hold the user's data.
        raise InvalidUserError(
            f"reading the user from a value of type {kind_of(value)} raised {kind_of(error)}"
        ) from None
    return None if user is None or user._values == _NOTHING else user, bool(left_out)


def _made_of(value: Any, left_out: list[str]) -> User | None:
    kind = type(value)
    if kind is dict:
        return _of_mapping(value, value.get, left_out, all_fields=value.keys() <= _FIELD_SET)
    if kind is User:
        return value  # type: ignore[no-any-return]
    if is_mapping(value):
        return _of_mapping(value, _getter(value), left_out, all_fields=False)
    if kind in _NO_USERS:
        return None
    if kind is CoroutineType:
        # An `async def` that was not awaited must not pass for nobody.
        raise InvalidUserError(
            "a user cannot be made of a coroutine: await it, and give its result"
        )
    return _of_object(value, left_out)


def _getter(mapping: Any) -> Callable[[str], Any]:
    if hasattr(type(mapping), "get"):
        return mapping.get  # type: ignore[no-any-return]
    keys = frozenset(mapping.keys())  # a row of sqlite3, for one
    return lambda key: mapping[key] if key in keys else None


def _of_mapping(
    mapping: Any, get: Callable[[str], Any], left_out: list[str], *, all_fields: bool
) -> User:
    try:
        id, username, email = get("id"), get("username"), get("email")  # noqa: A001
        ip_address, name = get("ip_address"), get("name")
        return _assemble(
            (
                None if id is None else _identifier("id", id),
                None if username is None else _identifier("username", username),
                None if email is None else _text("email", email),
                None if ip_address is None else _address(ip_address),
                None if name is None else _name(name),
                _NO_EXTRAS if all_fields else _extras(mapping),
            )
        )
    except Exception:  # noqa: BLE001 - the app's own mapping; what follows finds the field
        return _of_usable_fields(mapping, get, left_out)


def _of_usable_fields(mapping: Any, get: Callable[[str], Any], left_out: list[str]) -> User:
    """Make a user of a mapping with a field that cannot be used: the others stay."""
    fields: list[Any] = []
    for field in FIELDS:
        try:
            found = get(field)
            fields.append(None if found is None else _MADE_BY[field](found))
        except Exception as error:  # noqa: BLE001
            fields.append(None)
            _leave_out(mapping, field, error, left_out)
    return _assemble((*fields, _usable_extras(mapping, left_out)))


def _usable_extras(mapping: Any, left_out: list[str]) -> dict[str, Any]:
    usable: dict[Any, Any] = {}
    try:
        for key in mapping.keys() - _FIELD_SET:
            try:
                usable[key] = _usable_extra(mapping, key, left_out)
            except Exception as error:  # noqa: BLE001 - each of them may be the bad one
                _leave_out(mapping, "an extra value", error, left_out)
        return _extras(usable) if usable else _NO_EXTRAS
    except Exception as error:  # noqa: BLE001
        _leave_out(mapping, "the extra values", error, left_out)
        return _NO_EXTRAS


def _usable_extra(mapping: Any, key: Any, left_out: list[str]) -> Any:
    """Return one extra value, or what is left of it without the values that cannot be used."""
    usable, problems = usable_extra(key, mapping[key])
    for problem in problems:
        _leave_out(mapping, "an extra value", problem, left_out)
    return usable


def _leave_out(source: object, field: str, error: Exception, left_out: list[str]) -> None:
    """Say once which field of what class cannot be used, and why; never what it holds."""
    is_ours = type(error) is InvalidUserError
    reason = str(error) if is_ours else f"reading it raised {kind_of(error)}"
    kind = kind_of(source)
    message = "%s of a user is left out, which a value of type %s gave: %s"
    warn_once(f"{kind}: {field}: {reason}", message, field, kind, reason)
    left_out.append(field)


def _of_object(value: Any, left_out: list[str]) -> User | None:
    from usercontext.accounts import Reading, unwrapped  # only an app with objects loads it

    value = unwrapped(value)
    reading = Reading(value)
    with reading as account:
        if _is_nobody(account):
            return None
        find = _Finder(value, left_out, is_loaded=account is value)
        id = find(account, "id", _IDS)  # noqa: A001
        username = find(account, "username", _USERNAMES)
        email = find(account, "email", _EMAILS)
        name = find(account, "name", _NAMES)
    if id is None and reading.key is not None:
        id = find(reading, "id", ("key",))  # noqa: A001
    return _assemble((id, username, email, None, name, _NO_EXTRAS))


class _Finder:
    """Finds the fields of one object, and says which of them cannot be used."""

    __slots__ = ("_is_loaded", "_left_out", "_value")

    def __init__(self, value: Any, left_out: list[str], *, is_loaded: bool) -> None:
        self._value = value
        self._left_out = left_out
        self._is_loaded = is_loaded

    def __call__(self, account: Any, field: str, sources: tuple[str, ...]) -> str | None:
        """Return the first of these attributes that is there and can be used.

        Args:
            account: where to look: the object, or what stands in its place.
            field: what it is for.
            sources: attributes, and methods by their brackets.
        """
        problem: Exception | None = None
        for source in sources:
            try:
                found = _read(account, source)
                made = None if found is None else _MADE_BY[field](found)
            except Exception as error:  # noqa: BLE001 - the app's own properties
                problem = error
                continue
            if made is not None:
                return made
        # What an ORM has not loaded is missing by no fault of the app's.
        if problem is not None and (self._is_loaded or type(problem) is InvalidUserError):
            _leave_out(self._value, field, problem, self._left_out)
        return None


def is_nobody(value: Any) -> bool:
    """Tell whether a value is a framework's object for an anonymous user."""
    from usercontext.accounts import unwrapped

    try:
        return _is_nobody(unwrapped(value))
    except Exception:  # noqa: BLE001
        return False


def _is_nobody(value: Any) -> bool:
    authenticated = _flag(value, "is_authenticated")
    if authenticated is not None and not authenticated:
        return True
    return bool(_flag(value, "is_anonymous"))


def _flag(value: Any, name: str) -> Any:
    try:
        flag = _read(value, name)
        return flag() if callable(flag) else flag  # a method in the oldest versions
    except Exception:  # noqa: BLE001 - such as one that goes by a column which has expired
        return None


def _read(value: Any, source: str) -> Any:
    """Read an attribute, or what a method returns; None without it."""
    name = source.removesuffix("()")
    try:
        found = getattr(value, name, None)
        if found is not None and name != source:
            found = found()
    except NotImplementedError:  # what Starlette and Flask-Login leave to subclasses
        return None
    if type(found) is CoroutineType:
        found.close()  # Python would else complain about it, at some later time
        raise InvalidUserError(f"{source} is a coroutine, which a report cannot await")
    return found


_MADE_BY: dict[str, Callable[[Any], str | None]] = {
    "id": lambda value: _identifier("id", value),
    "username": lambda value: _identifier("username", value),
    "email": lambda value: _text("email", value),
    "ip_address": _address,
    "name": _name,
}
