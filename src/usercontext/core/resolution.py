"""Asking the resolver: once per request, whatever the number of tasks, threads and reports.

Each way to ask returns whether it has made the user known: then `usercontext.core.context`, which
is asked from outside, hands the user on.
"""

from __future__ import annotations

import os
import threading
from _contextvars import ContextVar  # as in `record`
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from usercontext import event_loop
from usercontext.core.record import (
    UNKNOWN,
    Followed,
    RequestRecord,
    Resolution,
    Unknown,
    current,
    leave,
    locks,
)
from usercontext.diagnostics import failure, warn_once
from usercontext.exceptions import InvalidUserError
from usercontext.source import is_environ
from usercontext.user import User, is_nobody, quick_user, read_user

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.core.settings import Settings

__all__ = ["as_user", "ask", "follow", "is_found", "is_inside", "resolve", "resolve_within"]


_MAX_NAMES = 20

# The call that this context runs inside of: only there the user is nobody, as nothing recurses.
_inside: ContextVar[Resolution | None] = ContextVar("usercontext.resolution", default=None)


def as_user(value: object, cause: str, settings: Settings) -> User | None:
    """Return what `User.of` makes of a value; what is not a user is logged once and is nobody.

    Extra values alone are a user where the client's address may be collected: that is the field
    which must be present.
    """
    kind = type(value)
    if kind is dict:
        user = quick_user(value)  # type: ignore[arg-type]
        if user is not None:
            return user
    elif kind is User and value._values[0] is not None:  # type: ignore[attr-defined]
        return value  # type: ignore[return-value]
    if isinstance(value, CoroutineType):
        _warn_coroutine(value, cause)
        return None
    try:
        user, has_been_said = read_user(value)
    except InvalidUserError as error:
        warn_once(f"{cause}: invalid user", "%s gave no valid user: %s", cause, error)
        return None
    if has_been_said and (user is None or user.identity is None) and not settings.includes_ip:
        return None
    if user is None:
        # An anonymous user of a framework is nobody too, and rightly so.
        if value is not None and not has_been_said and not is_nobody(value):
            _warn_nonsense(value, cause)
        return None
    if user._values[0] is None and user.identity is None and not settings.includes_ip:
        _warn_no_identity(cause)
        return None
    return user


def _warn_no_identity(cause: str) -> None:
    warn_once(
        f"{cause}: no identity",
        "%s gave a user without id, username, email or ip_address: counted as nobody",
        cause,
    )


def _warn_nonsense(value: object, cause: str) -> None:
    kind = type(value).__name__
    hint = "give a User, a mapping, the framework's user object, or None"
    names = _names_of(value)
    found = f" (it has {', '.join(names)})" if names else ""
    warn_once(f"{cause}: {kind}", "%s gave %s, which is not a user%s: %s", cause, kind, found, hint)


def _names_of(value: object) -> list[str]:
    """Return what an object of the app's has, by name: the id may have another name there."""
    if type(value).__module__ == "builtins":
        return []
    try:
        names = {*getattr(value, "__dict__", {}), *vars(type(value))}
    except Exception:  # noqa: BLE001 - an object of the app's own
        return []
    return sorted(name for name in names if name[:1] != "_")[:_MAX_NAMES]


def _warn_coroutine(value: CoroutineType[Any, Any, Any], cause: str) -> None:
    value.close()  # Python would else complain about it, at some later time
    hint = "declare it with `async def`, so that it is awaited"
    warn_once(f"{cause}: coroutine", "%s gave a coroutine, which is not a user: %s", cause, hint)


def _claim(record: RequestRecord) -> Resolution | None:
    """Return the right to call the resolver, or None where another has it or had it."""
    claimed: Resolution = [] if record.settings.held is None else Followed()
    lock = locks.settling
    lock.acquire()  # `with` costs three times as much, and nothing in between can fail
    if record.resolution is None and record.user is UNKNOWN:
        record.resolution = claimed
    lock.release()
    return claimed if record.resolution is claimed else None


def _settle(record: RequestRecord, resolution: Resolution, user: User | Unknown | None) -> bool:
    """End a call; UNKNOWN gives the claim back. Return whether this made the user known."""
    if type(resolution) is Followed:
        # In this order: what changes in between is seen at the next question.
        places = _places_of(record)
        resolution.held = _held_by_framework(record)
        if len(places) == 1:
            ((resolution.where, resolution.key, resolution.seen),) = places
        else:
            resolution.places = places
    lock = locks.settling
    lock.acquire()
    settled = record.resolution is resolution and record.user is UNKNOWN
    if settled:
        if user is UNKNOWN:
            record.resolution = None
        else:
            record.user = user
    lock.release()
    if resolution:
        _wake(resolution)
    return settled and user is not UNKNOWN


def _wake(resolution: Resolution) -> None:
    """Wake the threads and tasks that wait for a call that has ended."""
    for waker in resolution:
        try:
            waker()
        except RuntimeError:
            # The loop of that task has been closed meanwhile: nobody is left to wake.
            continue


def _held_by_framework(record: RequestRecord) -> object:
    """Return what the framework holds as its user now; UNKNOWN where it cannot be seen."""
    held, state = record.settings.held, record.state
    if held is None or record.ended is not None:
        return UNKNOWN
    try:
        # Past the property, as this is asked at every read.
        source = record.source if type(record) is RequestRecord else record.root.source
        return held(source, None if state is None else state.request)
    except Exception:  # noqa: BLE001 - `with harmless(...)` would be felt here, at every read
        failure(f"{record.settings.resolver_name}: held", "the framework's user could not be seen")
        return UNKNOWN


def _places_of(record: RequestRecord) -> list[tuple[dict[Any, Any], Any, object]]:
    """Return where the framework keeps its user, and what stands there now."""
    find, state = record.settings.places, record.state
    if find is None or record.ended is not None:
        return []
    source = record.source if type(record) is RequestRecord else record.root.source
    try:
        places = find(source, None if state is None else state.request)
    except Exception:  # noqa: BLE001 - what the framework holds is asked at each question instead
        return []
    # The `get()` of another mapping may do anything.
    if not all(type(where) is dict for where, _ in places):
        return []
    return [(where, key, where.get(key, UNKNOWN)) for where, key in places]


def is_found(record: RequestRecord) -> bool:
    """Return whether the framework has found its user, so that asking costs nothing."""
    return _held_by_framework(record) is not UNKNOWN and not is_inside(record)


def follow(record: RequestRecord) -> None:
    """Forget an answer of the resolver where the framework holds another user by now."""
    answered = record.resolution
    if type(answered) is not Followed or record.user is UNKNOWN:
        return
    if answered.places:
        for where, key, seen in answered.places:
            if where.get(key, UNKNOWN) is not seen:
                break
        else:
            return
    show, source = record.settings.held, record.source
    if source is not None and record.state is None and show is not None:
        try:
            held = show(source, None)  # as `_held_by_framework`, in a call less at each read
        except Exception:  # noqa: BLE001 - what goes wrong is said there
            held = _held_by_framework(record)
    else:
        held = _held_by_framework(record)
    if held is answered.held or held is UNKNOWN:
        return
    with locks.settling:
        if record.resolution is answered:
            record.forget_answer()


def _note_failure(settings: Settings) -> None:
    name = settings.resolver_name
    failure(name, "%s failed: this request has no user", name)


def is_inside(record: RequestRecord) -> bool:
    """Return whether the resolver of this very record is what is running here."""
    resolution = record.resolution
    return resolution is not None and _inside.get() is resolution


def _give_up_claims() -> None:
    """In the child of a fork, take back what other threads of the parent were asked for."""
    record = current()
    while record is not None:
        if record.user is UNKNOWN and not is_inside(record):
            record.resolution = None
        record = getattr(record, "outer", None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_give_up_claims)


def ask(record: RequestRecord) -> bool:
    """Call the resolver of an open record, if it can be called from here.

    An async one can not, on a loop: there the user is nobody until it has been awaited.
    """
    settings = record.settings
    if record.user is not UNKNOWN or settings.resolver is None or record.ended is not None:
        return False
    if record.resolution is not None and is_inside(record):
        return False
    if settings.awaits and (event_loop.is_running() or not _may_call_from_thread(record)):
        return False
    claimed = _claim(record)
    if claimed is None:
        _await_other(record)
        return False
    return _run(record, claimed)


def _may_call_from_thread(record: RequestRecord) -> bool:
    """An async resolver of an ASGI app belongs to the app's own loop."""
    source = record.source
    return not record.settings.is_async or source is None or is_environ(source)


def _await_other(record: RequestRecord) -> None:
    if event_loop.is_running():
        return
    answered = threading.Event()
    if _wait_for(record, answered.set):
        answered.wait(record.settings.resolver_timeout)


def _wait_for(record: RequestRecord, waker: Callable[[], object]) -> bool:
    """Have a waker called when the call under way ends; return whether there is one."""
    with locks.settling:
        resolution = record.resolution
        if resolution is None or record.user is not UNKNOWN:
            return False
        resolution.append(waker)
        return True


def _request_of(record: RequestRecord) -> object:
    """Return the framework's own request for the resolver; None outside a request."""
    if record.state is not None and record.state.request is not None:
        return record.state.request
    make_request = record.settings.make_request
    if record.source is None or make_request is None:
        return None
    return make_request(record.source)


def _run(record: RequestRecord, claimed: Resolution) -> bool:
    settings = record.settings
    token = _inside.set(claimed)
    resolver: Any = settings.resolver
    user: User | Unknown | None = UNKNOWN
    try:
        make_request = settings.make_request
        if record.state is None and record.source is not None and make_request is not None:
            request = make_request(record.source)  # as `_request_of`, in a call less at each read
        else:
            request = _request_of(record)
        if settings.is_async:
            found = event_loop.run_blocking(resolver, request, timeout=settings.resolver_timeout)
        else:
            found = resolver(request)
        user = found if found is UNKNOWN else as_user(found, settings.resolver_name, settings)
    except Exception:  # noqa: BLE001 - `with harmless(...)` would be felt here, at every read
        _note_failure(settings)
        user = None
    finally:
        _inside.reset(token)
        is_known = _settle(record, claimed, user)
    return is_known


async def resolve(record: RequestRecord) -> bool:
    """Make the user of an open record known, awaiting the resolver or the task that does.

    When the task that runs the resolver is cancelled, the next of those waiting runs it.
    """
    settings = record.settings
    while record.user is UNKNOWN and record.ended is None and settings.resolver is not None:
        if is_inside(record):
            return False
        claimed = _claim(record)
        if claimed is None:
            await _join(record)
        elif settings.awaits or settings.async_resolver is not None:
            return await _run_async(record, claimed)
        else:
            return _run(record, claimed)
    return False


async def _join(record: RequestRecord) -> None:
    wake, wait = event_loop.waiter()
    if _wait_for(record, wake):
        await wait()


async def _run_async(record: RequestRecord, claimed: Resolution) -> bool:
    settings = record.settings
    token = _inside.set(claimed)
    resolver: Any = settings.resolver
    user: User | Unknown | None = UNKNOWN
    try:
        request = _request_of(record)
        if settings.is_async:
            found = await resolver(request)
        elif settings.async_resolver is not None:
            found = await settings.async_resolver(request)
        else:
            from usercontext.core.worker_threads import run_in_thread  # few apps need it

            found = await run_in_thread(resolver, request)
        user = found if found is UNKNOWN else as_user(found, settings.resolver_name, settings)
    except Exception:  # noqa: BLE001
        _note_failure(settings)
        user = None
    finally:
        leave(token, _inside.reset)
        is_known = _settle(record, claimed, user)
    return is_known


async def resolve_within(record: RequestRecord) -> bool:
    """Do what `resolve` does within `resolver_timeout`; a resolver that hangs means nobody."""
    settings = record.settings
    if not settings.awaits and record.resolution is None:
        is_known = ask(record)
        if settings.async_resolver is None or record.user is not UNKNOWN:
            return is_known
    outcome: list[bool] = []

    async def note_outcome() -> None:
        outcome.append(await resolve(record))

    if await event_loop.run_within(settings.resolver_timeout, note_outcome):
        return any(outcome)
    record.make_state().timed_out = True
    with locks.settling:
        if record.user is UNKNOWN:
            record.user = None
    _note_failure_to_answer(settings)
    return False


def _note_failure_to_answer(settings: Settings) -> None:
    name, seconds = settings.resolver_name, settings.resolver_timeout
    message = "%s gave no answer within resolver_timeout=%s s: this request has no user"
    warn_once(f"{name}: slow", message, name, seconds)
