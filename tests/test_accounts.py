"""An account of an ORM is read without asking its database, whatever has become of its session."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, Any, cast

import beanie
import mongoengine
import mongomock
import numpy
import peewee
import pytest
import sqlmodel
import ulid
from bson import ObjectId
from pony import orm as pony
from sqlalchemy import ForeignKey, create_engine, event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.pool import StaticPool
from tortoise import Tortoise, fields
from tortoise.models import Model

from usercontext.user import User

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ADA = User(id=7, username="ada", email="ada@shop.example")


class Base(DeclarativeBase):
    """What the tables of SQLAlchemy stand in."""


class Profile(Base):
    """What an account calls its owner by."""

    __tablename__ = "profile"
    account_id: Mapped[int] = mapped_column(ForeignKey("account.account_id"), primary_key=True)
    full_name: Mapped[str]


class Account(Base):
    """An account whose key has a name of its own, as its column has, and whose name is afar."""

    __tablename__ = "account"
    uid: Mapped[int] = mapped_column("account_id", primary_key=True)
    username: Mapped[str] = mapped_column(unique=True)
    email: Mapped[str]
    active: Mapped[bool] = mapped_column(default=True)
    profile: Mapped[Profile | None] = relationship()

    @property
    def is_authenticated(self) -> bool:
        """Return a column, as Flask-Login's `is_active` does in many apps."""
        return self.active

    def get_id(self) -> str:
        """Return the key as Flask-Login wants it."""
        return str(self.uid)

    @property
    def name(self) -> str:
        """Return what only another table knows."""
        assert self.profile is not None
        return self.profile.full_name


class Asked:
    """Counts what is sent to an engine."""

    def __init__(self, engine: Any) -> None:
        self.statements: list[str] = []
        event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, *arguments: Any) -> None:
        self.statements.append(arguments[2])


@pytest.fixture
def session() -> Iterator[Session]:
    """Give a session with the account 7 of ada loaded into it."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Account(uid=7, username="ada", email="ada@shop.example"))
        session.commit()
        yield session
    engine.dispose()


def fail(session: Session) -> None:
    """Break a flush, and leave the transaction as it is then."""
    session.add(Account(username="ada", email="x"))
    with pytest.raises(IntegrityError):
        session.flush()


def roll_back(session: Session) -> None:
    """Break a flush, and clean up."""
    fail(session)
    session.rollback()


def delete(session: Session) -> None:
    """Delete the account itself."""
    session.delete(session.get(Account, 7))
    session.commit()


ENDS: dict[str, Callable[[Session], object]] = {
    "failed flush": fail,
    "rollback": roll_back,
    "rollback and close": lambda session: (roll_back(session), session.close()),
    "close": lambda session: session.close(),
    "commit": lambda session: session.commit(),
    "expire": lambda session: session.expire_all(),
    "detached and expired": lambda session: (session.commit(), session.expunge_all()),
    "deleted": delete,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_sqlalchemy_keeps_the_id(session: Session, end: Callable[[Session], object]) -> None:
    """Whatever becomes of its session, an account of SQLAlchemy has its id, and sends no query."""
    account = session.get(Account, 7)
    end(session)
    asked = Asked(session.get_bind())
    user = User.of(account)
    assert user is not None
    assert user.id == "7"
    assert asked.statements == []


def test_sqlalchemy_keeps_what_was_loaded(session: Session) -> None:
    """A session that is closed leaves the values of its accounts loaded: they are reported."""
    account = session.get(Account, 7)
    session.close()
    assert User.of(account) == ADA


def test_sqlalchemy_follows_loaded_relations(session: Session) -> None:
    """A name that stands in a related row is reported where that row was loaded."""
    session.add(Profile(account_id=7, full_name="Ada Lovelace"))
    session.commit()
    account = cast("Account", session.get(Account, 7))
    assert account.name == "Ada Lovelace"
    session.close()
    assert User.of(account) == ADA.with_fields(name="Ada Lovelace")


def test_sqlalchemy_loads_no_relation(session: Session) -> None:
    """A name that stands in a row which was not loaded costs the name alone."""
    account = session.get(Account, 7)
    asked = Asked(session.get_bind())
    assert User.of(account) == ADA
    assert asked.statements == []


def test_sqlalchemy_begins_no_transaction(session: Session) -> None:
    """Reading an account whose session has none begins none."""
    account = session.get(Account, 7)
    session.commit()
    User.of(account)
    assert not session.in_transaction()


def test_sqlalchemy_account_that_was_never_stored() -> None:
    """An account that has no row yet is what its app has filled in."""
    assert User.of(Account(username="ada", email="a@b")) == User(username="ada", email="a@b")


def test_sqlalchemy_asyncio() -> None:
    """An account of an async session that has expired has its id, and awaits nothing."""

    async def run() -> None:
        engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session:
            session.add(Account(uid=7, username="ada", email="ada@shop.example"))
            await session.commit()
            account = await session.get(Account, 7)
            assert User.of(account) == ADA
            await session.rollback()
            asked = Asked(engine.sync_engine)
            assert User.of(account) == User(id=7)
            assert asked.statements == []
        await engine.dispose()

    asyncio.run(run())


class Member(sqlmodel.SQLModel, table=True):
    """An account of SQLModel."""

    id: int | None = sqlmodel.Field(default=None, primary_key=True)
    username: str
    email: str


def test_sqlmodel() -> None:
    """An account of SQLModel is read as one of SQLAlchemy, whole while loaded, its id after."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    sqlmodel.SQLModel.metadata.create_all(engine)
    with sqlmodel.Session(engine) as session:
        session.add(Member(id=7, username="ada", email="ada@shop.example"))
        session.commit()
        member = session.get(Member, 7)
        assert User.of(member) == ADA
        session.rollback()
        asked = Asked(engine)
        assert User.of(member) == User(id=7)
        assert asked.statements == []
    engine.dispose()


def test_peewee() -> None:
    """A relation of Peewee's that was not loaded costs the field that goes by it, and no query."""
    database = peewee.SqliteDatabase(":memory:")

    class Company(peewee.Model):
        class Meta:
            database = None

        title = peewee.CharField()

    class Customer(peewee.Model):
        username = peewee.CharField()
        email = peewee.CharField()
        company = peewee.ForeignKeyField(Company)

        @property
        def name(self) -> str:
            return f"ada of {self.company.title}"

    with database.bind_ctx([Company, Customer]):
        database.create_tables([Company, Customer])
        company = Company.create(title="Shop")
        Customer.create(id=7, username="ada", email="ada@shop.example", company=company)
        bare = Customer.get()
        joined = Customer.select(Customer, Company).join(Company).get()
        database.close()
        assert User.of(bare) == ADA
        assert database.is_closed()
        assert User.of(joined) == ADA.with_fields(name="ada of Shop")


def test_mongoengine() -> None:
    """A reference of MongoEngine's is not followed; the id and what was loaded stay."""
    connection = mongoengine.connect(
        mongo_client_class=mongomock.MongoClient, uuidRepresentation="standard"
    )

    class Company(mongoengine.Document):
        title = mongoengine.StringField()

    class Customer(mongoengine.Document):
        username = mongoengine.StringField()
        company = mongoengine.ReferenceField(Company)

        @property
        def name(self) -> str:
            return str(self.company.title)

    Customer(username="ada", company=Company(title="Shop").save()).save()
    customer = Customer.objects.only("username", "company").first()
    connection.close()
    assert User.of(customer) == User(id=customer.pk, username="ada")
    mongoengine.disconnect()


def test_pony() -> None:
    """An entity of Pony's outside its session has its key and what was loaded."""
    database = pony.Database("sqlite", ":memory:")

    class Customer(database.Entity):  # type: ignore[name-defined]
        id = pony.PrimaryKey(int)
        username = pony.Required(str)
        email = pony.Optional(str, lazy=True)

    database.generate_mapping(create_tables=True)
    with pony.db_session:
        Customer(id=7, username="ada", email="ada@shop.example")
    with pony.db_session:
        customer = Customer[7]
    assert User.of(customer) == User(id=7, username="ada")


class Customer(Model):
    """An account of Tortoise's, whose name must be awaited."""

    id = fields.IntField(primary_key=True)
    username = fields.CharField(40)
    email = fields.CharField(40)

    async def get_full_name(self) -> str:
        """Return what another table knows."""
        raise AssertionError


def test_tortoise(recwarn: pytest.WarningsRecorder) -> None:
    """An account of Tortoise's has what was loaded, and no coroutine of it is left unawaited."""

    async def run() -> None:
        await Tortoise.init(db_url="sqlite://:memory:", modules={"models": [__name__]})
        await Tortoise.generate_schemas()
        await Customer.create(id=7, username="ada", email="ada@shop.example")
        customer = await Customer.get(id=7)
        await Tortoise.close_connections()
        assert User.of(customer) == ADA

    asyncio.run(run())
    assert list(recwarn) == []


def test_beanie() -> None:
    """A document of Beanie's, whose links are awaited, is read as any object."""

    class Visitor(beanie.Document):
        username: str

    visitor = Visitor.model_construct(id=ObjectId("6b0a870e67fa99ae60d84b37"), username="ada")
    assert User.of(visitor) == User("6b0a870e67fa99ae60d84b37", "ada")


IDS: dict[str, tuple[object, str]] = {
    "ObjectId": (ObjectId("6b0a870e67fa99ae60d84b37"), "6b0a870e67fa99ae60d84b37"),
    "ULID": (
        ulid.ULID.from_str("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    ),
    "integer of NumPy": (numpy.int64(7), "7"),
}


@pytest.mark.parametrize(("value", "text"), IDS.values(), ids=IDS)
def test_ids_of_other_packages(value: Any, text: str) -> None:
    """An id of another package's own type is written as that type writes it."""
    assert User(id=value).id == text


@pytest.mark.parametrize("value", [numpy.float64(7), numpy.bool_(True), numpy.array([7])], ids=repr)
def test_what_is_no_id_of_numpy(value: Any) -> None:
    """A float, a truth value and an array of NumPy identify nobody."""
    assert User.of({"id": value, "username": "ada"}) == User(username="ada")


def test_rows_of_sqlite() -> None:
    """A row is a mapping of what was selected."""
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    row = connection.execute("SELECT 7 AS id, 'ada' AS username").fetchone()
    connection.close()
    assert User.of(row) == User(7, "ada")


def test_reading_works_in_a_running_loop(session: Session) -> None:
    """An account of a sync session may be read on an event loop: nothing waits."""
    account = session.get(Account, 7)
    session.rollback()

    async def read() -> User | None:
        return User.of(account)

    assert asyncio.run(read()) == User(id=7)
