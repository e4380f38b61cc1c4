"""The record of one request: who its user is, as far as that is known.

One ContextVar points at it, and it stands in the ASGI scope or WSGI environ under `KEY`. It is
mutable, so that child tasks and threads write where the request reads.
"""

from __future__ import annotations

import os
import sys
import threading
from _contextvars import ContextVar, Token  # one module fewer to load than by `contextvars`
from enum import Enum
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextvars import Context as Variables

    from usercontext.address.client import Observed
    from usercontext.core.settings import Settings
    from usercontext.types import Event
    from usercontext.user import User

__all__ = [
    "KEY",
    "NOT_YET",
    "OWN_KEY",
    "UNKNOWN",
    "BlockRecord",
    "Followed",
    "JobRecord",
    "LeftRecord",
    "RequestRecord",
    "ScopeRecord",
    "Unknown",
    "current",
    "enter",
    "found_in",
    "key_in",
    "leave",
    "locks",
    "pass_over",
    "record_in",
    "reset",
]

#: Where the record stands in an ASGI scope or a WSGI environ. What stands there is opaque.
KEY: Final = "usercontext.scope"


class Unknown(Enum):
    """The user of a request whose resolver has not answered yet; an Enum, so that `is` narrows."""

    UNKNOWN = "UNKNOWN"

    def __repr__(self) -> str:
        return "usercontext.NOT_YET"


UNKNOWN: Final = Unknown.UNKNOWN

#: What a resolver returns when it cannot know the user yet: it is asked again at the next question.
NOT_YET: Final = UNKNOWN

_current: ContextVar[RequestRecord | None] = ContextVar("usercontext", default=None)

#: Where the record stands if another copy of this package has put its own at `KEY`.
OWN_KEY: Final = f"{KEY}.{id(_current):x}"


#: A call of the resolver under way, told apart by its identity: who waits for it to end.
Resolution: TypeAlias = "list[Callable[[], object]]"


# What is found there equals nothing that was seen, and nothing has to be raised for it.
_NOWHERE: Final[dict[Any, Any]] = {None: None}


class Followed(list["Callable[[], object]"]):
    """A call of a resolver that follows its framework.

    Attributes:
        held: what the framework held as its user when the resolver answered.
        where: the dict that says who it holds, if there is one. As long as the same object stands
            there the answer does, without a call.
        key: the key there.
        seen: what stood there.
        places: the dicts, where it takes several to say it, each with its key and what stood there.
    """

    __slots__ = ("held", "key", "places", "seen", "where")

    def __init__(self) -> None:
        self.held: object = UNKNOWN
        self.where: dict[Any, Any] = _NOWHERE
        self.key: Any = None
        self.seen: object = _NOWHERE
        self.places: Sequence[tuple[dict[Any, Any], Any, object]] = ()


class _Locks:
    """The one lock of all records, held for the few instructions that settle who a user is.

    Never while foreign code runs; made again in the child of a fork, as another thread of the
    parent may have held it.
    """

    def __init__(self) -> None:
        self.settling: threading.Lock = threading.Lock()


locks: Final = _Locks()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=locks.__init__)  # type: ignore[misc]


class _State:
    """What few requests need: made on first use, so that the others do not pay for it.

    The defaults stand on the class: filling slots would cost four times as much.
    """

    data: object = None
    request: object = None
    withheld: bool = False
    #: Whether what was reported must be sent before the response ends.
    must_flush: bool = False
    #: Which call it is, where it is not an HTTP request: names alone.
    call: Mapping[str, Any] | None = None
    #: Whether the resolver gave no answer in time: it is not waited for once more.
    timed_out: bool = False
    #: Reports that wait for the user.
    pending: list[Event] | None = None
    #: What reporting clients keep of the request: here, so that it goes with the record.
    kept: dict[object, Any] | None = None


class RequestRecord:
    """The state of one request, `isolation_scope` or `use_user` block.

    Attributes:
        source: the ASGI scope or WSGI environ; None outside a request and after its end.
        settings: the options that apply to this request.
        user: the user without the collected address; None for nobody; UNKNOWN until resolved.
        resolution: the resolver call under way, or the one that gave the user; None where nobody
            asked, or where the app has said itself who the user is.
        ended: None while open; after that, when it ended, on the monotonic clock.
        address: the client's, once it has been asked for; after the request's end what it can be
            read of, where that belongs to a known user; UNKNOWN before.
        state: what few requests need.
    """

    # Every slot costs 60 instructions a request, to fill and to free. A class with an `__init__`
    # costs 700 more: the two middlewares make a bare record, and fill it where they stand.

    __slots__ = (
        "__weakref__",
        "address",
        "ended",
        "resolution",
        "settings",
        "source",
        "state",
        "user",
    )

    source: Mapping[str, Any] | None
    settings: Settings
    user: User | Unknown | None
    resolution: Resolution | None
    ended: float | None
    address: str | Observed | Unknown | None
    state: _State | None

    @classmethod
    def of(cls, source: Mapping[str, Any] | None, settings: Settings) -> Self:
        """Make the record of a request that begins.

        Args:
            source: as above.
            settings: as above.
        """
        record = cls()
        record.source = source
        record.settings = settings
        record.user = record.address = UNKNOWN
        record.resolution = record.ended = record.state = None
        return record

    def __copy__(self) -> RequestRecord:
        # An app that copies its environ still serves the same request.
        return self

    def __deepcopy__(self, memo: object) -> RequestRecord:
        return self

    @property
    def root(self) -> RequestRecord:
        """The record of the request itself, also from inside `use_user` blocks."""
        return self

    @property
    def is_explicit(self) -> bool:
        """Whether the app itself has said who the user is."""
        return self.user is not UNKNOWN and self.resolution is None

    def ask_again(self) -> None:
        """Forget the answer of a resolver, so that one is asked when a report needs the user."""
        with locks.settling:
            if not self.is_explicit:
                self.forget_answer()

    def forget_answer(self) -> None:
        """Make the user unknown again, under the lock; `set_user` relies on the order."""
        self.user = UNKNOWN
        self.resolution = None

    def make_state(self) -> _State:
        """Return the state, made on first use."""
        state = self.state
        if state is None:
            # Two threads at once would each fill a state of their own. `with` costs three times
            # as much, and nothing in between can fail.
            locks.settling.acquire()
            state = self.state
            if state is None:
                state = self.state = _State()
            locks.settling.release()
        return state

    def known(self) -> User | Unknown | None:
        """Return the user without address, or UNKNOWN; None once detached work came too late."""
        if self.ended is None:
            return self.user
        ttl = self.settings.detached_ttl
        if self.user is UNKNOWN or (ttl is not None and monotonic() - self.ended > ttl):
            return None
        return self.user

    def seconds_after_response(self) -> float | None:
        """Return how long ago the request ended; None while it goes on, and where nobody knows."""
        ended = self.root.ended
        return monotonic() - ended if ended else None

    def claim(self, user: User | None) -> None:
        """Take what the app says: it wins whole, whatever a resolver answers."""
        with locks.settling:
            self.user = user
            self.resolution = None
        if self.ended == 0.0:  # when it ended was of no use as long as nobody was known
            self.ended = monotonic()


class JobRecord(RequestRecord):
    """The record of one run of a background job.

    Attributes:
        job: the job's name and id.
        text: the mark that its message has; None without any.
    """

    __slots__ = ("job", "text")

    job: tuple[str, str]
    text: str | None

    @classmethod
    def of_job(cls, settings: Settings, job: tuple[str, str], text: str | None) -> Self:
        """Make the record of a run that begins."""
        record = cls.of(None, settings)
        record.job = job
        record.text = text
        return record


class BlockRecord(RequestRecord):
    """The record of a `use_user` block, which stands in a request or in another block.

    Attributes:
        outer: the record that the block stands in.
    """

    __slots__ = ("outer",)

    outer: RequestRecord

    @classmethod
    def within(cls, outer: RequestRecord) -> Self:
        """Make the record of a block that begins."""
        record = cls.of(None, outer.settings)
        record.outer = outer
        return record

    @property
    def root(self) -> RequestRecord:
        """The record of the request itself."""
        return self.outer.root


class ScopeRecord(RequestRecord):
    """The record of an `isolation_scope`, or of a `use_user` block outside a request.

    Attributes:
        outer: the record that it stands in; None outside a request.
    """

    __slots__ = ("outer",)

    outer: RequestRecord | None

    @classmethod
    def within(cls, outer: RequestRecord | None, settings: Settings) -> Self:
        """Make the record of a scope that begins."""
        record = cls.of(None, settings)
        record.outer = outer
        return record


class LeftRecord(RequestRecord):
    """What the record of a block becomes whose end left it the current one somewhere.

    Everything about it is what the outer record says. So nobody who asks for the current record
    has to look whether it is still meant.
    """

    __slots__ = ("outer",)

    outer: RequestRecord

    @property
    def root(self) -> RequestRecord:
        """The record of the request itself."""
        return self.outer.root

    def known(self) -> User | Unknown | None:
        """Return the outer record's user."""
        return self.outer.known()


class _NobodysRecord(RequestRecord):
    """The outer record of a block that stood in none: over, and nobody's whatever is set."""

    __slots__ = ()

    def known(self) -> None:
        """Return None."""
        return


def _delegated(name: str) -> property:
    def get(record: LeftRecord) -> Any:
        return getattr(record.outer, name)

    def put(record: LeftRecord, value: object) -> None:
        setattr(record.outer, name, value)

    return property(get, put)


for _name in ("address", "ended", "resolution", "settings", "source", "state", "user"):
    setattr(LeftRecord, _name, _delegated(_name))


def pass_over(record: BlockRecord | ScopeRecord) -> None:
    """Let the outer record speak from now on, wherever this one is still the current one.

    A generator that is left early ends its blocks in another context than they were begun in,
    and there they cannot be taken back.
    """
    outer = record.outer
    if outer is None:
        outer = _NobodysRecord.of(None, record.settings)
        outer.ended = 0.0
    record.__class__ = LeftRecord  # type: ignore[assignment]
    record.outer = outer


def key_in(source: Mapping[str, Any]) -> str:
    """Return the key at which our record stands, or is to stand, in a scope or an environ.

    Two copies of this package can be loaded: by a plugin that brings its own, or by a test that
    empties `sys.modules`. The one that a request meets first keeps `KEY`.
    """
    kind = type(source.get(KEY))
    is_of_another_copy = kind.__name__ == "RequestRecord" and kind is not RequestRecord
    return OWN_KEY if is_of_another_copy else KEY


def found_in(source: Mapping[str, Any]) -> RequestRecord | None:
    """Return the record that stands in a scope or an environ."""
    found = source.get(key_in(source))
    return found if isinstance(found, RequestRecord) else None


def record_in(context: Variables) -> RequestRecord | None:
    """Return the record that is current in a context which runs elsewhere."""
    return context.get(_current)


# With this flag (the default of free-threaded builds from Python 3.14) a pool's worker thread
# starts in a copy of the context of whichever request happened to start it.
if not getattr(sys.flags, "thread_inherit_context", 0):
    current = _current.get
    enter = _current.set
    #: `leave` without its guard, for the two places where a call more would be felt.
    reset: Callable[[Token[RequestRecord | None]], None] = _current.reset
else:
    _probe: ContextVar[object] = ContextVar("usercontext.probe", default=None)

    class _Entered(threading.local):
        """The records that a thread has entered itself and not left, and how many times each."""

        def __init__(self) -> None:
            self.times: WeakKeyDictionary[RequestRecord, int] = WeakKeyDictionary()

    _entered = _Entered()

    def enter(record: RequestRecord | None) -> Token[RequestRecord | None]:
        """Point the current context at a record, and note that this thread did so itself."""
        if record is not None:
            _entered.times[record] = _entered.times.get(record, 0) + 1
        return _current.set(record)

    def reset(token: Token[RequestRecord | None]) -> None:
        """Undo an `enter`, and what was noted of it."""
        left = _current.get()
        _current.reset(token)
        times = 0 if left is None else _entered.times.pop(left, 0)
        if left is not None and times > 1:
            _entered.times[left] = times - 1

    def current() -> RequestRecord | None:  # type: ignore[misc]
        """Return the current record, unless the thread merely inherited it when it started."""
        record = _current.get()
        if record is None or record in _entered.times:
            return record
        # Only a private attribute tells a thread's base context from one entered on purpose.
        base = getattr(threading.current_thread(), "_context", None)
        if base is None or not _is_inherited(record, base):
            return record
        return None

    def _is_inherited(record: RequestRecord, base: Variables) -> bool:
        """Whether a record that is current came from the thread's start, directly or by a copy.

        A job that runs in a copy of the base context, as under `asyncio.run`, cannot be told from
        one that the same request has handed over, but by the end of that request.
        """
        if record.ended is not None and base.get(_current) is record:
            return True
        mark = object()
        token = _probe.set(mark)
        try:
            return base.get(_probe) is mark
        finally:
            _probe.reset(token)


def leave(token: Token[Any], reset: Callable[[Token[Any]], object] = reset) -> bool:
    """Undo an `enter`; harmless in another context than the one it was made in.

    With `reset`, undo a change of another variable, whose method that is. Return whether it was
    undone.
    """
    try:
        reset(token)
    except ValueError:
        # A task destroyed when its loop closes, or a generator closed by the collector, ends
        # in a foreign context. That one was never ours to reset.
        return False
    return True
