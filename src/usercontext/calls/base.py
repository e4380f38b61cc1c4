"""What the integration of every kind of call needs: a record for each, and its errors reported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

from usercontext.core import capture
from usercontext.core.context import configure
from usercontext.core.lifecycle import (
    begin_plain,
    complete,
    complete_now,
    end_plain,
    is_open,
)
from usercontext.core.messages import take_over
from usercontext.core.record import RequestRecord, found_in
from usercontext.core.running import Running
from usercontext.core.settings import Settings, default
from usercontext.source import REQUEST_METHOD, environ_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextvars import Token
    from types import TracebackType

    from usercontext.core.options import ContextOptions

__all__ = ["CallContext", "RunningCall", "describe", "environ_of", "original_error"]

_MAX_CAUSES: Final = 16


class CallContext:
    """What applies to the calls of one server: the options of its `UserContext`.

    They stand over the options of the HTTP request that carries the call, or over `init()`'s.

    Args:
        options: see `ContextOptions`.
        is_http: whether calls are carried by HTTP requests, for which the resolver of `init()`
            was written.
        make_request: makes of a call's source what the resolver is called with, where that is
            not known before somebody asks.
    """

    def __init__(
        self,
        options: ContextOptions,
        *,
        is_http: bool = True,
        make_request: Callable[[Any], object] | None = None,
    ) -> None:
        self._own = configure(make_request=make_request, **options)
        self._is_http = is_http
        self._alone: tuple[Settings, Settings] | None = None

    @property
    def has_resolver(self) -> bool:
        """Whether these options name a resolver themselves."""
        return self._own.has_resolver

    def settings_over(self, outer: RequestRecord | None) -> Settings:
        """Return the options that apply to a call inside of a request, or of none."""
        if outer is not None:
            return self._own.merged_under_once(outer.settings)
        base, joined = default(), self._alone
        if joined is None or joined[0] is not base:
            join = self._own.merged_under if self._is_http else self._own.without_resolver_of
            joined = self._alone = (base, join(base))
        return joined[1]

    def record(
        self,
        source: Mapping[str, Any] | None = None,
        request: object = None,
        call: Mapping[str, Any] | None = None,
    ) -> RequestRecord:
        """Return a fresh record for one call.

        It knows the user that an HTTP request of its own has found or was told, whether that goes
        on or has ended, and writes nothing into it.

        Args:
            source: the scope or environ of what carries this very call, or one in that shape.
            request: what a resolver of these options is called with.
            call: which call it is, for its reports.
        """
        outer = None if source is None else found_in(source)
        record = RequestRecord.of(source, self.settings_over(outer))
        if outer is not None:
            take_over(outer, record, found=not self._own.has_resolver)
        if request is not None and (outer is None or self._own.has_resolver):
            record.make_state().request = request
        if call is not None:
            describe(record, call)
        return record

    def running(
        self,
        source: Mapping[str, Any] | None = None,
        request: object = None,
        call: Mapping[str, Any] | None = None,
        *,
        packages: tuple[str, ...] = (),
        is_error: Callable[[BaseException], bool] | None = None,
    ) -> RunningCall:
        """Return one call, to be entered; for the arguments see `record`.

        Args:
            source: as above.
            request: as above.
            call: as above.
            packages: the library's, see `original_error`.
            is_error: tells the exceptions that are reported from those that are an answer.
        """
        return RunningCall(self.record(source, request, call), packages, is_error)


class RunningCall(Running):
    """One call, from its start to its end; see `Running`.

    An error that leaves it is reported as the app raised it, and not again by the HTTP request
    that carries the call.

    Args:
        record: the call's, fresh.
        packages: the library's, see `original_error`.
        is_error: tells the exceptions that are reported from those that are an answer.
        is_own: see `Running`.
    """

    __slots__ = ("_packages", "_token")

    def __init__(
        self,
        record: RequestRecord,
        packages: tuple[str, ...] = (),
        is_error: Callable[[BaseException], bool] | None = None,
        *,
        is_own: bool = True,
    ) -> None:
        super().__init__(record, is_error=is_error, is_own=is_own)
        self._packages = packages
        self._token: Token[RequestRecord | None] | None = None

    # Nearly every call has no reporting client that wants more than its record, and is over in
    # fewer steps; they come to the same.

    def __enter__(self) -> Self:
        if self._is_own and self.record.settings.is_bare:
            self._token = begin_plain(self.record)
        else:
            self.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        token = self._token
        if token is None:
            super().__exit__(kind, error, traceback)
            return
        try:
            if error is not None:
                self.fail(error)
            complete_now(self.record)
        finally:
            end_plain(self.record, token)

    async def __aenter__(self) -> Self:
        if self._is_own and self.record.settings.is_bare:
            self._token = begin_plain(self.record)
            return self
        return await super().__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        token = self._token
        if token is None:
            await super().__aexit__(kind, error, traceback)
            return
        try:
            if error is not None:
                await self.fail_async(error)
            if error is None or isinstance(error, Exception):
                # A task that is destroyed awaits nothing more.
                await complete(self.record)
        finally:
            end_plain(self.record, token)

    def fail(self, error: BaseException) -> None:
        """Report the error that ends this call, once."""
        original = self._original(error)
        if original is not None:
            super().fail(original)
            self._note(error)

    async def fail_async(self, error: BaseException) -> None:
        """Do what `fail` does, and await an async resolver first."""
        original = self._original(error)
        if original is not None:
            await super().fail_async(original)
            self._note(error)

    def _original(self, error: BaseException) -> BaseException | None:
        return original_error(error, self._packages) if self._packages else error

    def _note(self, error: BaseException) -> None:
        """Leave out what the library has made of the error, here and in the request around."""
        source = self.record.source
        outer = None if source is None else found_in(source)
        one: BaseException | None = error
        for _ in range(_MAX_CAUSES):
            if not isinstance(one, Exception):
                return
            capture.mark_reported(one, self.record)
            if is_open(outer):
                capture.mark_reported(one, outer)
            one = one.__cause__ or one.__context__


def describe(record: RequestRecord, call: Mapping[str, Any]) -> None:
    """Say in the reports of a record which call it is: by names alone, never by its arguments."""
    record.root.make_state().call = call


def original_error(error: BaseException, packages: Iterable[str]) -> BaseException | None:
    """Return the app's own error behind what a library made of it; None for an answer.

    A library wraps the app's error in one of its own, of which it tells the client. What it
    raises by itself (an unknown name, arguments of a wrong form), and a class of its own that the
    app raises (an answer on purpose), are not failures of the app.

    Args:
        error: as it was caught.
        packages: the names of the library's packages.
    """
    own = tuple(packages)
    for _ in range(_MAX_CAUSES):
        modules = _modules_of(error)
        cause = error.__cause__ or error.__context__
        if not modules or modules[-1] not in own:
            break
        if cause is None:
            return None
        error = cause
    if type(error).__module__.partition(".")[0] in own:
        return None
    passed = _modules_of(error)
    is_refusal = bool(passed) and all(name in own or name in _BETWEEN for name in passed)
    return None if is_refusal else error


# Whose frames stand between a library's and the app's.
_BETWEEN: Final = frozenset(
    {"anyio", "asyncio", "concurrent", "contextlib", "pydantic", "threading", "usercontext"}
)


def _modules_of(error: BaseException) -> list[str]:
    """Name the package of every frame that an error has passed, the innermost last."""
    names: list[str] = []
    traceback = error.__traceback__
    while traceback is not None:
        name = traceback.tb_frame.f_globals.get("__name__") or ""
        names.append(name.partition(".")[0])
        traceback = traceback.tb_next
    return names


def environ_of(
    path: str, peer: str | None, headers: Iterable[tuple[str, str | bytes]]
) -> dict[str, Any]:
    """Return what a call without HTTP has, in the shape of a WSGI environ.

    Args:
        path: which call it is, as in a URL.
        peer: the other end's address, where it has one.
        headers: names and values that came with the call.
    """
    environ: dict[str, Any] = {
        REQUEST_METHOD: "POST",
        "wsgi.url_scheme": "http",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
    }
    if peer is not None:
        environ["REMOTE_ADDR"] = peer
    for name, value in headers:
        if isinstance(value, str):
            key = environ_key(name)
            environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ
