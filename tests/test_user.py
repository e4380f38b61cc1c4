"""`User`: what it takes, what it refuses, and that nothing of the app's gets into or out of it."""

from __future__ import annotations

import copy
import ipaddress
import pickle
import re
import traceback
import uuid
from collections import ChainMap, UserDict
from decimal import Decimal
from enum import Enum, IntEnum
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usercontext.exceptions import InvalidUserError
from usercontext.user import User

UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")


class Text(str):
    """A string of the app's own kind, as a template engine's safe text is."""

    __slots__ = ()

    def __str__(self) -> str:
        """Be somebody else."""
        return "mallory"


class Number(int):
    """An integer of the app's own kind."""

    def __str__(self) -> str:
        """Be somebody else."""
        return "mallory"


class Level(IntEnum):
    """An integer with a name."""

    FIRST = 1


IDS = [
    (42, "42"),
    (0, "0"),
    (-1, "-1"),
    (10**20, "100000000000000000000"),
    ("42", "42"),
    ("0", "0"),
    (" ", " "),
    ("é" * 256, "é" * 256),
    ("😀", "😀"),
    (UUID, "12345678-1234-5678-1234-567812345678"),
    (Text("ann"), "ann"),
    (Number(7), "7"),
    (Level.FIRST, "1"),
    (Decimal(7), "7"),
    (Decimal("7.00"), "7"),
    (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
    ("", None),
    (Text(""), None),
    (None, None),
]

NO_IDS = {
    "bool": True,
    "false": False,
    "float": 1.5,
    "whole float": 1.0,
    "complex": 1j,
    "bytes": b"42",
    "bytearray": bytearray(b"42"),
    "list": ["42"],
    "tuple": ("42",),
    "dict": {"id": "42"},
    "set": {"42"},
    "object": object(),
    "class": str,
    "fraction": Decimal("1.5"),
    "no number": Decimal("nan"),
    "no number, signaling": Decimal("snan"),
    "infinity": Decimal("inf"),
    "function": len,
    "257 characters": "a" * 257,
    "257 digits": 10**256,
    "million digits": 1 << 4_000_000,
    "lone surrogate": "\ud800",
}

ADDRESSES = [
    ("203.0.113.7", "203.0.113.7"),
    ("2001:DB8:0::1", "2001:db8::1"),
    ("::ffff:203.0.113.7", "203.0.113.7"),
    ("::1.2.3.4", "::102:304"),
    ("0.0.0.0", "0.0.0.0"),
    ("{{auto}}", "{{auto}}"),
    (Text("203.0.113.7"), "203.0.113.7"),
    (ipaddress.ip_address("203.0.113.7"), "203.0.113.7"),
    (ipaddress.ip_address("2001:db8::1"), "2001:db8::1"),
    ("", None),
    (None, None),
]

NO_ADDRESSES = [
    "unknown",
    "localhost",
    "<script>",
    "203.0.113.7:80",
    "[::1]",
    "fe80::1%eth0",
    " 203.0.113.7",
    "203.0.113.7 ",
    "010.0.0.1",
    "10.0.0.0/8",
    "203.0.113.7, 10.0.0.1",
    "{{AUTO}}",
    " {{auto}}",
    "\ud800",
    "1" * 1_000_000,
    b"203.0.113.7",
    3405803783,
    True,
    ["203.0.113.7"],
    ipaddress.ip_address("fe80::1%eth0"),
    ipaddress.ip_network("10.0.0.0/8"),
]


@pytest.mark.parametrize("field", ["id", "username"])
@pytest.mark.parametrize(("value", "text"), IDS)
def test_identifiers_become_strings(field: str, value: Any, text: str | None) -> None:
    """Strings, ints and UUIDs come out as plain strings; nothing at all is absent."""
    result = getattr(User(**{field: value}), field)
    assert (type(result), result) == (type(text), text)


@pytest.mark.parametrize("field", ["id", "username"])
@pytest.mark.parametrize("value", NO_IDS.values(), ids=NO_IDS)
def test_other_identifiers_are_refused(field: str, value: Any) -> None:
    """What a server would turn into another id raises, naming the field."""
    with pytest.raises(InvalidUserError, match=f"^{field} "):
        User(**{field: value})


@pytest.mark.parametrize("field", ["email", "name"])
@pytest.mark.parametrize("value", [42, UUID, True, 1.5, b"ann", ["ann"], object(), "\ud800"])
def test_texts_must_be_strings(field: str, value: Any) -> None:
    """An e-mail address or a name that is not a string raises, naming the field."""
    with pytest.raises(InvalidUserError, match=f"^{field} "):
        User(**{field: value})


def test_a_long_email_is_refused() -> None:
    """An e-mail address is never cut: it would be somebody else's."""
    with pytest.raises(InvalidUserError, match="longer than 256"):
        User(email="a" * 257)


def test_a_long_name_is_cut_visibly() -> None:
    """A name identifies nobody, so it may be cut, and says so."""
    assert User(name="n" * 256).name == "n" * 256
    assert User(name="n" * 257).name == "n" * 248 + "...[cut]"


@pytest.mark.parametrize(("value", "text"), ADDRESSES)
def test_addresses_have_one_spelling(value: Any, text: str | None) -> None:
    """An address is spelled as `ipaddress` does, IPv4-mapped ones as IPv4."""
    assert User(ip_address=value).ip_address == text


@pytest.mark.parametrize("value", NO_ADDRESSES)
def test_other_addresses_are_refused(value: Any) -> None:
    """Anything that is not exactly an address raises: servers store what they refuse."""
    with pytest.raises(InvalidUserError, match=r"^ip_address "):
        User(ip_address=value)


@pytest.mark.parametrize("value", ["ann@example.org" * 20, ["ann@example.org"], object()])
@pytest.mark.parametrize("field", ["id", "username", "email", "ip_address", "name", "plan"])
def test_messages_hold_no_values(field: str, value: Any) -> None:
    """An error's text goes to logs, so it names kinds of values and never the values."""
    with pytest.raises(InvalidUserError) as caught:
        User(**{field: [value, object()]})
    assert "ann" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "identity"),
    [
        ({"id": 1, "username": "b", "email": "c@d", "ip_address": "::1"}, "id:1"),
        ({"id": 0, "username": "b"}, "id:0"),
        ({"id": "", "username": "b", "email": "c@d", "ip_address": "::1"}, "username:b"),
        ({"email": "c@d", "ip_address": "::1"}, "email:c@d"),
        ({"ip_address": "::1"}, "ip:::1"),
        ({"ip_address": "{{auto}}"}, "ip:{{auto}}"),
        ({"name": "Ann", "plan": "gold"}, None),
        ({}, None),
    ],
)
def test_identity_is_the_first_field_present(fields: dict[str, Any], identity: str | None) -> None:
    """The precedence is id, username, email, address, as on a server of the protocol."""
    assert User(**fields).identity == identity


def test_fields_may_be_given_by_position() -> None:
    """The four fields come in their order."""
    assert User(1, "ann", "ann@example.org", "::1").to_dict() == {
        "id": "1",
        "username": "ann",
        "email": "ann@example.org",
        "ip_address": "::1",
    }


@pytest.mark.parametrize(
    "key", ["self", "cls", "value", "data", "user", "changes", "of", "_values"]
)
def test_any_other_key_is_an_extra(key: str) -> None:
    """No key is taken by the parameters of our own functions."""
    assert User(**{"id": 1, key: "x"}).to_dict() == {"id": "1", key: "x"}
    assert User(id=1).with_fields(**{key: "x"}).to_dict() == {"id": "1", key: "x"}
    assert User.of({"id": 1, key: "x"}) == User(**{"id": 1, key: "x"})


def test_to_dict_is_fresh_each_time() -> None:
    """A change to what `to_dict()` returned reaches nobody."""
    user = User(id=1, teams=["a"], address={"city": "Rome"})
    result = user.to_dict()
    result["id"] = "2"
    result["teams"].append("b")
    result["address"]["city"] = "Oslo"
    assert user.to_dict() == {"id": "1", "teams": ["a"], "address": {"city": "Rome"}}


def test_data_is_read_only() -> None:
    """The extra values can be read, and what is changed is a copy or refused."""
    user = User(id=1, teams=["a"])
    user.data["teams"].append("b")
    with pytest.raises(TypeError):
        user.data["plan"] = "gold"  # type: ignore[index]
    assert user.data == {"teams": ["a"]}


@pytest.mark.parametrize("name", ["id", "username", "name", "data", "identity", "_values", "new"])
def test_a_user_cannot_be_changed(name: str) -> None:
    """Fields can be neither assigned nor deleted, and there is no room for others."""
    user = User(id=1)
    with pytest.raises(AttributeError):
        setattr(user, name, "2")
    with pytest.raises(AttributeError):
        delattr(user, name)
    assert not hasattr(user, "__dict__")


def test_a_user_cannot_be_subclassed() -> None:
    """A subclass could make a user change, or print its fields."""
    with pytest.raises(TypeError, match="extra values"):
        type("Admin", (User,), {})


def test_users_are_equal_by_value() -> None:
    """Users of the same fields and extras are equal, and hash alike."""
    one = User(id=1, plan={"name": "gold", "since": [2020, 1]})
    other = User(id="1", plan={"since": (2020, 1), "name": "gold"})
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize(
    "other", [User(id=2), User(username="1"), User(id=1, a=1), {"id": "1"}, None]
)
def test_users_differ_by_any_value(other: object) -> None:
    """Another field, another extra or another type is not the same user."""
    assert User(id=1) != other


def test_repr_names_fields_and_no_values() -> None:
    """A user in a log line shows which fields it has, and none of them."""
    user = User(id=1, email="ann@example.org", ip_address="203.0.113.7", plan="gold")
    assert repr(user) == f"{user}" == "<User id, email, ip_address, data>"
    assert repr(User()) == "<User of nothing>"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_users_can_be_pickled(protocol: int) -> None:
    """A user comes back equal from a pickle."""
    user = User(id=1, teams=["a", {"b": None}])
    assert pickle.loads(pickle.dumps(user, protocol)) == user


def test_copies_of_a_user_are_itself() -> None:
    """What cannot change need not be copied."""
    user = User(id=1, teams=["a"])
    assert copy.copy(user) is user
    assert copy.deepcopy(user) is user


def test_with_fields_changes_adds_and_removes() -> None:
    """The named fields and extras change, None removes, and the rest stays."""
    user = User(id=1, username="ann", email="ann@example.org", plan="gold", seats=3)
    other = user.with_fields(id=2, email=None, name="Ann", plan=None, beta=True)
    assert other == User(id=2, username="ann", name="Ann", seats=3, beta=True)
    assert user.email == "ann@example.org"


def test_with_fields_refuses_what_user_refuses() -> None:
    """Changed values are checked as new ones are."""
    with pytest.raises(InvalidUserError, match=r"^id "):
        User(id=1).with_fields(id=1.5)


def test_with_address_keeps_all_else() -> None:
    """The collected address joins a user without touching it."""
    user = User(id=1, username="ann", email="a@b", name="Ann", plan="gold")
    assert user._with_address("::1") == user.with_fields(ip_address="::1")
    assert user.ip_address is None


def test_of_returns_a_user_as_it_is() -> None:
    """A user is already one."""
    user = User(id=1)
    assert User.of(user) is user


@pytest.mark.parametrize(
    "value",
    [None, {}, {"id": None}, {"id": "", "username": ""}, User(), object(), SimpleNamespace()],
)
def test_of_nothing_usable_is_none(value: object) -> None:
    """Where there is nothing to tell a user by, there is no user."""
    assert User.of(value) is None


def test_of_keeps_a_user_of_extras_alone() -> None:
    """What has extras but no identity is handed on, for the scope to say so."""
    user = User.of({"plan": "gold"})
    assert user is not None
    assert user.identity is None


def test_of_drops_what_json_has_no_word_for(caplog: pytest.LogCaptureFixture) -> None:
    """In an extra value a set becomes a sorted list, and bytes are dropped and said once."""
    user = User.of({"id": 1, "groups": {"b", "a", "c"}, "key": b"k", "in": {"raw": b"r", "n": 1}})
    assert user == User(id=1, groups=["a", "b", "c"], **{"in": {"n": 1}})
    assert len({record.getMessage() for record in caplog.records}) == len(caplog.records) == 2


def test_of_orders_a_set_of_several_classes() -> None:
    """What cannot be compared is ordered by class and text."""
    user = User.of({"id": 1, "tags": {"b", 2, "a", 1}})
    assert user == User(id=1, tags=[1, 2, "a", "b"])


FIELDS = {"id": 1, "username": "ann", "email": "ann@example.org", "plan": "gold"}


@pytest.mark.parametrize(
    "mapping",
    [
        FIELDS,
        UserDict(FIELDS),
        MappingProxyType(FIELDS),
        ChainMap({"id": 1}, FIELDS, {"id": 2}),
        type(
            "Row", (), {"keys": lambda _: list(FIELDS), "__getitem__": lambda _, key: FIELDS[key]}
        )(),
    ],
    ids=["dict", "UserDict", "MappingProxyType", "ChainMap", "row"],
)
def test_of_takes_mappings(mapping: Any) -> None:
    """Anything with keys is read as a dict is, extras included."""
    assert User.of(mapping) == User(**FIELDS)


def test_of_reads_a_row_of_sqlite() -> None:
    """A row of the standard library's database is a mapping, in all but its class."""
    import sqlite3

    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    row = connection.execute("SELECT 1 AS id, 'ann' AS username, 'gold' AS plan").fetchone()
    connection.close()
    assert User.of(row) == User(id=1, username="ann", plan="gold")


@pytest.mark.parametrize("value", ["ann", b"ann", 42, True, 1.5, [1], (1,), {1}, frozenset()])
def test_of_finds_nobody_in_plain_values(value: object) -> None:
    """A string or a list holds nothing usable: no user."""
    assert User.of(value) is None


def test_of_refuses_a_coroutine() -> None:
    """The result of an async function that was not awaited is not a user."""

    async def load() -> None: ...

    coroutine = load()
    with pytest.raises(InvalidUserError, match="coroutine"):
        User.of(coroutine)
    coroutine.close()


def test_of_takes_only_the_identity_of_an_object() -> None:
    """Of a model nothing but the four fields and the name is read."""
    model = SimpleNamespace(
        id=UUID, username="ann", email="a@b", name="Ann", password="hash", data={}
    )
    expected = User(id=UUID, username="ann", email="a@b", name="Ann")
    assert User.of(model) == expected


def test_of_takes_no_address_of_an_object() -> None:
    """A model's own column of addresses may be of last year: a mapping says one on purpose."""
    assert User.of(SimpleNamespace(id=1, ip_address="203.0.113.7")) == User(id=1)
    assert User.of({"id": 1, "ip_address": "203.0.113.7"}) == User(1, ip_address="203.0.113.7")


def test_of_takes_a_namedtuple() -> None:
    """A tuple whose values have names is an object like others."""

    class Row(NamedTuple):
        id: int
        email: str

    assert User.of(Row(0, "a@b")) == User(id=0, email="a@b")


@pytest.mark.parametrize(
    "attributes",
    [
        {"is_authenticated": False},
        {"is_anonymous": True},
        {"is_authenticated": lambda: False},
        {"is_anonymous": lambda: True, "is_authenticated": lambda: True},
    ],
)
def test_of_an_anonymous_object_is_none(attributes: dict[str, Any]) -> None:
    """An object that says it is nobody is nobody, whatever else it holds."""
    assert User.of(SimpleNamespace(id=1, username="ann", **attributes)) is None


def test_of_prefers_an_id_to_a_session_token() -> None:
    """What apps let `get_id()` return may be a secret, and stands behind the record's own id."""
    assert User.of(SimpleNamespace(id=1, get_id=lambda: "secret")) == User(id=1)


class Raising:  # noqa: PLW1641
    """Raises from whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        """Raise, for any attribute."""
        raise RuntimeError("ann@example.org")

    def __eq__(self, other: object = None) -> bool:
        """Raise."""
        raise RuntimeError("ann@example.org")

    __hash__ = __str__ = __repr__ = __iter__ = __len__ = __bool__ = __eq__  # type: ignore[assignment]


class RaisingMapping(dict[Any, Any]):
    """A mapping that cannot be read."""

    def __getitem__(self, key: Any = None) -> Any:
        """Raise."""
        raise RuntimeError("ann@example.org")

    get = keys = items = __iter__ = __len__ = __contains__ = __getitem__  # type: ignore[assignment]


class RaisingList(list[Any]):
    """A list that cannot be read."""

    def __iter__(self) -> Any:
        """Raise."""
        raise RuntimeError("ann@example.org")


class RaisingUUID(uuid.UUID):
    """A UUID that cannot be printed."""

    def __str__(self) -> str:
        """Raise."""
        raise RuntimeError("ann@example.org")


class RaisingName(type):
    """The class of classes whose name cannot be read."""

    @property
    def __name__(cls) -> str:  # type: ignore[override]
        """Raise."""
        raise RuntimeError("ann@example.org")

    def __getattr__(cls, name: str) -> Any:
        """Raise for what is missing."""
        raise RuntimeError("ann@example.org")


class Nameless(metaclass=RaisingName):
    """An object whose class cannot be asked for anything."""


def cycle() -> dict[str, Any]:
    """Return a dict and a list that hold each other and themselves."""
    result: dict[str, Any] = {"id": "1"}
    items: list[Any] = [result]
    items.extend([items, items])
    result.update(a=result, b=items)
    return result


HOSTILE = {
    "object": Raising(),
    "mapping": RaisingMapping(id=1),
    "list": RaisingList([1]),
    "UUID": RaisingUUID(int=1),
    "class": Nameless,
    "nameless": Nameless(),
}


@pytest.mark.parametrize("key", ["id", "username", "email", "ip_address", "name", "plan"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_values_are_invalid(name: str, key: str) -> None:
    """Whatever a value raises when it is read becomes our own error, without its words."""
    with pytest.raises(InvalidUserError) as caught:
        User(**{key: HOSTILE[name]})
    assert "ann@" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("key", ["id", "username", "email", "ip_address", "name", "plan"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_field_costs_that_field(
    name: str, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a mapping with one value that cannot be used the rest stays, and the log says which."""
    others = {"id": "7", "username": "ada", "plan": "gold"}
    others.pop(key, None)
    assert User.of({**others, key: HOSTILE[name]}) == User(**others)
    (record,) = caplog.records
    assert "ann@" not in record.getMessage()


@pytest.mark.parametrize("name", ["object", "mapping"])
def test_hostile_users_are_nobody(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """An object of the app's that raises whatever is read of it is nobody, which the log says."""
    assert User.of(HOSTILE[name]) is None
    assert caplog.records
    assert "ann@" not in caplog.text


def test_the_log_names_the_field_and_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever reads the log finds the class, the field and the exception's class, once."""

    class Account:
        id = 7

        @property
        def email(self) -> str:
            raise KeyError("ann@example.org")

    assert [User.of(Account()) for _ in range(2)] == [User(7), User(7)]
    (record,) = caplog.records
    assert re.search(r"^email of .*Account gave: reading it raised KeyError$", record.getMessage())


def test_exit_passes_through() -> None:
    """Only `Exception` is caught: the app may be stopping."""

    class Account:
        @property
        def email(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        User.of(Account())


def test_a_key_that_compares_badly_is_invalid() -> None:
    """A mapping may hold keys whose comparison raises."""

    class Key(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("ann@example.org")

    with pytest.raises(InvalidUserError):
        User.of({Key("id"): 1})


def test_cycles_end() -> None:
    """A value that holds itself is cut where the depth ends."""
    user = User.of(cycle())
    assert user is not None
    assert "...[cut]" in str(user.to_dict())


@pytest.mark.parametrize(
    "value",
    [
        dict.fromkeys(map(str, range(300_000)), "x"),
        {"a": ["x"] * 3_000_000},
        {"a": "x" * 30_000_000},
    ],
    ids=["keys", "items", "text"],
)
def test_huge_values_are_cut(value: dict[str, Any]) -> None:
    """However much there is, little of it is read."""
    user = User.of({"id": 1, **value})
    assert user is not None
    assert len(str(user.to_dict())) < 9_000


Trap = Enum("Trap", list(HOSTILE))


def armed(value: Any) -> Any:
    """Put the hostile values in their places: hypothesis itself would touch them."""
    if isinstance(value, Trap):
        return HOSTILE[value.name]
    if isinstance(value, (list, tuple)):
        return type(value)(map(armed, value))
    if isinstance(value, (dict, UserDict)):
        return type(value)({key: armed(item) for key, item in value.items()})
    if isinstance(value, SimpleNamespace):
        return SimpleNamespace(**armed(vars(value)))
    return value


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.binary()
    | st.uuids()
    | st.decimals()
    | st.datetimes()
    | st.timedeltas()
    | st.complex_numbers()
    | st.sampled_from([Level.FIRST, Text("ann"), Number(7), User(id=1), object])
    | st.sampled_from(Trap)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.dictionaries(st.text() | st.integers() | st.booleans(), inner)
        | st.sets(st.integers())
        | inner.map(lambda value: SimpleNamespace(id=value, email=value, username=value))
        | inner.map(lambda value: UserDict(id=value, plan=value))
    ),
    max_leaves=6,
)
keys = st.sampled_from(["id", "username", "email", "ip_address", "name", "self"]) | st.text()


@given(values)
def test_of_raises_nothing_else(value: object) -> None:
    """Any value at all is a user, nobody, or our own error."""
    try:
        user = User.of(armed(value))
    except InvalidUserError:
        return
    assert user is None or type(user) is User


@given(st.dictionaries(keys, values))
def test_user_raises_nothing_else(fields: dict[str, Any]) -> None:
    """Any keywords at all are a user or our own error."""
    try:
        user = User(**armed(fields))
    except InvalidUserError:
        return
    assert User(**user.to_dict()) == user
    assert hash(User(**user.to_dict())) == hash(user)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
identities = st.fixed_dictionaries(
    {"id": st.integers() | st.text(max_size=9)},
    optional={"username": st.text(max_size=9), "email": st.text(max_size=9)},
)


def scramble(value: Any) -> None:
    """Change everything in a value that can be changed."""
    if isinstance(value, dict):
        for item in value.values():
            scramble(item)
        value.clear()
        value["mallory"] = "mallory"
    elif isinstance(value, list):
        for item in value:
            scramble(item)
        value[:] = ["mallory"]


extra_keys = st.text().filter(lambda key: key not in {"username", "email", "ip_address", "name"})


@given(identities, st.dictionaries(extra_keys, json_values))
def test_arguments_are_neither_changed_nor_kept(
    fields: dict[str, Any], extras: dict[str, Any]
) -> None:
    """A user leaves what it is made of as it was, and does not follow its changes."""
    argument = {**extras, **fields}
    before = copy.deepcopy(argument)
    user = User.of(argument)
    assert argument == before
    if user is not None:
        result, number = user.to_dict(), hash(user)
        scramble(argument)
        scramble(user.to_dict())
        assert (user.to_dict(), hash(user)) == (result, number)
