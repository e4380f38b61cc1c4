"""The options that apply to a request, joined from a middleware's and `init()`'s.

Data alone: what is done by them stands in `usercontext.core.context`.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from usercontext.checks import is_async, methods
from usercontext.core.options import REPORTER_METHODS, ContextOptions, checked
from usercontext.privacy import Scrubber
from usercontext.request import RequestData

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from usercontext.address.client import Began
    from usercontext.carried import CarriedIdentity
    from usercontext.core.ignored import IgnoredErrors
    from usercontext.source import Source
    from usercontext.types import Event, Reporter, ReportingClient, Resolver

__all__ = ["JoinedSettings", "Settings", "act", "default", "join_again", "replace_default"]

_NO_ADDRESS = RequestData()
_FINDING_A_USER = ("make_request", "resolve", "resolver", "resolver_thread")


class Settings:
    """What applies to a request: what resolves its user, what is reported, and to which clients.

    Middlewares, `isolation_scope` and `init()` each make one of the options they are given;
    what one leaves out comes from the process-wide default.

    Args:
        client: what takes the reports, on the default alone: the built-in client or another.
        make_request: makes the framework's request of a scope or environ, for the resolver.
        options: see `ContextOptions`.

    Raises:
        ConfigurationError: an option is wrong; the message names it and the fix.
    """

    # Slots are read in fewer instructions than what a dict of thirty names holds.
    __slots__ = (
        "_joined",
        "_options",
        "acting",
        "async_resolver",
        "awaits",
        "begin_environ",
        "begin_scope",
        "carried",
        "client",
        "clients",
        "detached_ttl",
        "eager",
        "exception_text",
        "flushes",
        "held",
        "ignored",
        "includes_ip",
        "is_async",
        "is_bare",
        "is_plain",
        "isolating",
        "keeps",
        "make_request",
        "places",
        "recording",
        "request_data",
        "resolver",
        "resolver_name",
        "resolver_timeout",
        "scrubber",
        "unhooked",
    )

    def __init__(
        self,
        *,
        client: Reporter | None = None,
        make_request: Callable[[Any], object] | None = None,
        **options: Unpack[ContextOptions],
    ) -> None:
        given = checked(options)
        scrubber = Scrubber(
            given.pop("scrub", ()),
            hash_key=given.pop("hash_key", None),
            never_store_ip=given.pop("never_store_ip", False),
        )
        if "secret_names" in given:
            from usercontext.privacy.secret_names import add_secret_names  # few ask

            add_secret_names(given.pop("secret_names"))
        if client is not None:
            methods("client", client, REPORTER_METHODS, "a SentryClient")
            given["client"] = client
        if make_request is not None:
            given["make_request"] = make_request
        self._apply(given, scrubber)

    def _apply(self, options: Mapping[str, Any], scrubber: Scrubber) -> None:
        self._options: dict[str, Any] = dict(options)
        self._joined: tuple[Settings, Settings] | None = None
        self.resolver: Resolver | None = options.get("resolver")
        self.request_data: RequestData = options.get("request_data", _NO_ADDRESS)
        self.clients: tuple[ReportingClient, ...] = options.get("clients", ())
        self.eager: bool = options.get("resolve") == "eager"
        self.resolver_timeout: float = options.get("resolver_timeout", 1.0)
        self.detached_ttl: float | None = options.get("detached_ttl", 60.0)
        self.carried: CarriedIdentity | None = options.get("carried")
        self.ignored: IgnoredErrors | None = options.get("ignore_errors")
        self.exception_text: str = options.get("exception_text", "safe")
        self.client: Reporter | None = options.get("client")
        self.make_request: Callable[[Any], object] | None = options.get("make_request")
        self.scrubber: Scrubber = scrubber
        self.includes_ip: bool = self.request_data.include_ip and not scrubber.never_store_ip
        trust = self.request_data._trust
        #: Take from a scope or an environ what its client's address can be read of later.
        self.begin_scope: Callable[[Source], Began] = trust.begin_scope
        self.begin_environ: Callable[[Source], Began] = trust.begin_environ
        self.resolver_name: str = f"resolver {_name_of(self.resolver)}"
        self.is_async: bool = self.resolver is not None and is_async(self.resolver)
        self.awaits: bool = self.is_async or bool(options.get("resolver_thread"))
        self.async_resolver: Callable[[Any], Awaitable[object]] | None = _async_resolver(
            self.resolver
        )
        #: Shows what the framework holds as its user now: see `usercontext.core.following`.
        self.held: Callable[[Source | None, object], object] | None = getattr(
            self.resolver, "held", None
        )
        self.places: Callable[[Source | None, object], list[tuple[Any, Any]]] | None = getattr(
            self.resolver, "places", None
        )
        #: Whether something of a known user's request is kept as it ends.
        self.keeps: bool = self.held is not None or self.includes_ip
        self.isolating: tuple[ReportingClient, ...] = _overriding(self.clients, "request_scope")
        self.recording: tuple[ReportingClient, ...] = _overriding(self.clients, "is_recording")
        self.flushes: bool = options.get("flush") == "response"
        #: Clients that look once more for what they hook into, as the first request begins.
        self.unhooked: tuple[ReportingClient, ...] = tuple(
            client for client in self.clients if hasattr(client, "look_again")
        )
        #: Names the user of each request as it begins: see `usercontext.testing.acting_as`.
        self.acting: Callable[[Any], object] | None = None
        self._set_plain()

    def _set_plain(self) -> None:
        is_quiet = not (self.isolating or self.recording or self.eager or self.flushes)
        #: Whether a request needs a record and nothing else, but for its address.
        self.is_bare: bool = is_quiet and not self.unhooked and self.acting is None
        self.is_plain: bool = self.is_bare and not self.includes_ip

    def take_unhooked(self) -> tuple[ReportingClient, ...]:
        """Return the clients that look once more, to each of these settings' requests but one."""
        unhooked, self.unhooked = self.unhooked, ()
        self._set_plain()
        return unhooked

    def act(self, acting: Callable[[Any], object]) -> None:
        """Have the user of each request named as it begins."""
        self.acting = acting
        self._set_plain()

    def reported_to(self, client: Reporter, clients: tuple[ReportingClient, ...]) -> Settings:
        """Return the same options with reports and users handed to these clients instead."""
        own_text = getattr(client, "exception_text", None)
        default_text = {} if own_text is None else {"exception_text": own_text}
        handed_to = {"client": client, "clients": clients}
        changed = object.__new__(Settings)
        changed._apply({**default_text, **self._options, **handed_to}, self.scrubber)
        return changed

    @property
    def is_blank(self) -> bool:
        """Whether no option was given."""
        return not self._options and not self.scrubber

    @property
    def has_resolver(self) -> bool:
        """Whether a resolver is among the options that were given here."""
        return "resolver" in self._options

    @property
    def scrub(self) -> Callable[[Event], Event] | None:
        """The scrubbing that every event of ours passes last, after `before_send`."""
        return self.scrubber.report if self.scrubber else None

    def merged_under(self, base: Settings) -> Settings:
        """Return these options, from `base` where they were left out.

        Scrub rules add up, and a resolver stays with the kind of request it was written for.
        """
        options = {**base._options, **self._options}
        if not self.has_resolver and "make_request" in base._options:
            options["make_request"] = base._options["make_request"]
        return self._with(options, base)

    def without_resolver_of(self, base: Settings) -> Settings:
        """Return these options over the ones of `base`, but for its ways to find a user."""
        options = {
            name: value for name, value in base._options.items() if name not in _FINDING_A_USER
        }
        return self._with({**options, **self._options}, base)

    def merged_under_once(self, outer: Settings) -> Settings:
        """Return what `merged_under` does; the same one as long as `outer` is the same.

        Nearly always it is the same outer middleware, at every request.
        """
        joined = self._joined
        if joined is None or joined[0] is not outer:
            joined = self._joined = (outer, self.merged_under(outer))
        return joined[1]

    def _with(self, options: Mapping[str, Any], base: Settings) -> Settings:
        joined = object.__new__(Settings)
        joined._apply(options, base.scrubber.merged(self.scrubber))
        return joined

    def conflicts_with(self, outer: Settings) -> list[str]:
        """Name the options given both here and to an outer middleware, and not the same.

        What that one has of `init()` is there to be overruled.
        """
        ours, theirs = self._options, outer._options
        both = ours.keys() & theirs.keys() - {"make_request"}
        common = default()._options
        return sorted(
            name
            for name in both
            if theirs[name] != ours[name] and theirs[name] is not common.get(name)
        )


def _async_resolver(resolver: object) -> Callable[[Any], Awaitable[object]] | None:
    """Return what a ready resolver of ours has for tasks that can await a better answer."""
    found: Any = getattr(resolver, "async_resolver", None)
    return found if found is not None and is_async(found) else None


def _name_of(function: object) -> str:
    module = getattr(function, "__module__", None) or type(function).__module__
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{module}.{name}"


def _overriding(clients: tuple[ReportingClient, ...], name: str) -> tuple[ReportingClient, ...]:
    """Return the clients whose method does more than the base class's."""
    methods = [(client, getattr(type(client), name, None)) for client in clients]
    base = "usercontext.clients.base"
    return tuple(client for client, method in methods if getattr(method, "__module__", "") != base)


# --- the process-wide default -------------------------------------------------------------------

_default: Settings = Settings()


def default() -> Settings:
    """Return what `init()` configured, or settings without any option."""
    return _default


def replace_default(settings: Settings) -> Settings:
    """Put settings in the process-wide default's place; return those before."""
    global _default
    before, _default = _default, settings
    return before


class JoinedSettings:
    """The options of a middleware over the process-wide default, joined again at each `init()`.

    Attributes:
        joined: what applies to the middleware's requests: one attribute, read at each of them.
    """

    __slots__ = ("__weakref__", "_own", "joined")

    #: Names the user of every middleware's requests as they begin.
    acting: ClassVar[Callable[[Any], object] | None] = None

    def __init__(self, own: Settings) -> None:
        self._own = own
        self.join()
        _all_joined.add(self)

    def join(self) -> None:
        """Join the options with what is now the default."""
        joined = self._own.merged_under(default())
        if JoinedSettings.acting is not None:
            joined.act(JoinedSettings.acting)
        self.joined: Settings = joined


_all_joined: weakref.WeakSet[JoinedSettings] = weakref.WeakSet()


def act(acting: Callable[[Any], object] | None) -> None:
    """Have the user of every middleware's requests named as they begin; None: no more."""
    JoinedSettings.acting = acting
    join_again()


def join_again() -> list[Settings]:
    """Join the options of every middleware with what is now the default; return the results."""
    every = list(_all_joined)
    for one in every:
        one.join()
    return [one.joined for one in every]
