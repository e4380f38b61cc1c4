"""The last word: scrubbing rules over users and whole events, explicit values included; pure.

Rules name values with Relay's selectors, or patterns inside strings. Nothing is changed in place:
what a rule touches is copied, so nothing of the app's is ever mutated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from usercontext.address_search import find_addresses
from usercontext.client_ip import ADDRESS_HEADERS
from usercontext.exceptions import ConfigurationError
from usercontext.selectors import Path, Selector, nearest, parse_selector
from usercontext.sensitive import FILTERED

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Scrubber", "hash_id"]

Rule: TypeAlias = "str | tuple[str, str]"

_METHODS = ("remove", "mask", "replace", "hash")
_PATTERNS = ("anything", "ip", "email")
_MIN_KEY = 16
_MAX_KEY = 64  # of blake2b

#: Takes a text that is to be hidden, returns what stands in its place.
_Hide: TypeAlias = Callable[[str], str]


class Scrubber:
    """Applies rules to users and events; false where it has nothing to do.

    Args:
        rules: each a selector such as `"$user.ip_address"`, or a pair of selector and method,
            such as `("$user.email", "hash")`. Methods are `remove` (without one), `mask`
            (stars), `replace` ("[Filtered]") and `hash` (keyed). `"@ip"` and `"@email"` in a
            selector's place are about addresses inside any string; in a method's place, such as
            `("$extra.**", "@email:mask")`, about those inside what the selector names.
        hash_key: at least 16 secret bytes, needed by `hash`.
        never_store_ip: take every address out of everything, whatever else is configured.

    Raises:
        ConfigurationError: a rule cannot be read, or the key is missing or too short.

    .. versionadded:: 0.1.0
    """

    __slots__ = ("_rules", "never_store_ip")

    def __init__(
        self,
        rules: Iterable[Rule] = (),
        *,
        hash_key: bytes | str | None = None,
        never_store_ip: bool = False,
    ) -> None:
        if not isinstance(never_store_ip, bool):
            raise ConfigurationError(
                f"never_store_ip must be True or False, not {type(never_store_ip).__name__}"
            )
        key = None if hash_key is None else _checked_key(hash_key, "hash_key")
        self._rules = tuple(_compiled(rule, key) for rule in _checked_rules(rules))
        self.never_store_ip = never_store_ip

    def __bool__(self) -> bool:
        return bool(self._rules) or self.never_store_ip

    def __repr__(self) -> str:
        written = [rule.written for rule in self._rules]
        return f"Scrubber({written!r}, never_store_ip={self.never_store_ip!r})"

    def merged(self, other: Scrubber) -> Scrubber:
        """Return one with the rules of both; what one never stores, both do not."""
        both = Scrubber(never_store_ip=self.never_store_ip or other.never_store_ip)
        both._rules = tuple(dict.fromkeys((*self._rules, *other._rules)))
        return both

    def user(self, fields: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return a user's fields as they may leave; None if nothing of them is left."""
        if not fields:
            return None
        return self.event({"user": fields}).get("user")

    def event(self, event: dict[str, Any]) -> dict[str, Any]:
        """Return an event as it may leave; parts that no rule touches are shared with it."""
        scrubbed = event
        for rule in self._rules:
            scrubbed = _applied(rule, scrubbed)
        if self.never_store_ip:
            scrubbed = _without_addresses(scrubbed)
        if scrubbed is event:
            return event
        return _with_sound_user(event, scrubbed)


# -- rules --


class _Rule(NamedTuple):
    """A rule as read: what it is about, what it looks for there, what it does about it."""

    selector: Selector
    pattern: str  # "ip" or "email"; empty: the value as a whole
    hide: _Hide | None  # None: remove
    written: tuple[str, str]
    key: bytes | None

    def __hash__(self) -> int:
        return hash((self.written, self.key))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Rule):
            return NotImplemented
        return (self.written, self.key) == (other.written, other.key)


def _checked_rules(rules: object) -> Iterable[Any]:
    if isinstance(rules, (str, bytes, Mapping)):
        raise ConfigurationError(
            'scrub must be a list of rules, such as ["$user.ip_address", ("$user.email", "hash")]'
        )
    if not isinstance(rules, Iterable):
        raise ConfigurationError(f"scrub must be a list of rules, not {type(rules).__name__}")
    return rules


def _compiled(rule: Any, key: bytes | None) -> _Rule:
    written = (rule, "remove") if isinstance(rule, str) else rule
    if (
        not isinstance(written, (tuple, list))
        or len(written) != 2
        or not all(isinstance(part, str) for part in written)
    ):
        raise ConfigurationError(
            f"scrub: a rule is a selector or a pair of selector and method, not {rule!r:.80}"
        )
    selector, method = written
    if selector.startswith("@"):
        method = selector if ":" in selector and isinstance(rule, str) else f"{selector}:{method}"
        selector = "**"
    pattern, method = _checked_method(method)
    if method == "hash" and key is None:
        raise ConfigurationError(
            f"scrub: {written!r} needs hash_key, at least {_MIN_KEY} secret bytes: without a key "
            "a hash of an address or an id is undone by trying them all"
        )
    parsed = parse_selector(selector, spares_structure=pattern == "anything")
    hide = _hider(pattern, method, key)
    return _Rule(
        parsed, pattern if pattern != "anything" else "", hide, (written[0], written[1]), key
    )


def _checked_method(text: str) -> tuple[str, str]:
    pattern, method = "anything", text
    if text.startswith("@"):
        pattern, _, method = text[1:].partition(":")
        method = method or "remove"
    if pattern not in _PATTERNS:
        known = [f"@{name}" for name in _PATTERNS]
        raise ConfigurationError(
            f"scrub: the pattern '@{pattern}' is unknown{nearest('@' + pattern, known)}"
        )
    if method not in _METHODS:
        raise ConfigurationError(
            f"scrub: the method {method!r} is unknown{nearest(method, _METHODS)}"
        )
    return pattern, method


def _hider(pattern: str, method: str, key: bytes | None) -> _Hide | None:
    if method == "hash" and key is not None:
        return lambda text: _digest(text, key)
    if method == "mask":
        return lambda text: "*" * len(text)
    if method == "replace":
        replacement = FILTERED if pattern == "anything" else f"[{pattern}]"
        return lambda _text: replacement
    return None


# -- the walk --

# An event's identity is never rewritten: "1.2.3.4" as a release is a version, not an address.
_UNTOUCHED = frozenset({
    "dist", "environment", "event_id", "level", "modules", "platform", "release", "sdk",
    "timestamp", "type",
})  # fmt: skip
# Where the protocol takes pairs as well as an object.
_PAIRS = frozenset({"cookies", "env", "headers", "query_string", "tags"})

# In `contexts`, and never an address, though "5.15.0.91" looks like one.
_VERSIONS = frozenset({"build", "kernel_version", "version"})

_EVERYTHING = Selector(lambda _path, _value: True, None)
_REMOVED: Any = object()

_USER_FIELDS = frozenset({
    "data", "email", "geo", "id", "ip_address", "name", "segment", "sentry_user", "username",
})  # fmt: skip


def _applied(rule: _Rule, event: dict[str, Any]) -> dict[str, Any]:
    roots = rule.selector.roots
    changed: dict[str, Any] = {}
    for name, value in event.items():
        root = str(name).lower()
        if (roots is not None and root not in roots) or (rule.pattern and root in _UNTOUCHED):
            continue
        new = _scrubbed(rule, (root,), value)
        if new is not value:
            changed[name] = new
    if not changed:
        return event
    joined = {**event, **changed}
    return {name: value for name, value in joined.items() if value is not _REMOVED}


def _scrubbed(rule: _Rule, path: Path, value: Any) -> Any:
    """Return a value as the rule leaves it: itself where nothing changes, or _REMOVED."""
    if rule.pattern and path[0] == "contexts" and path[-1] in _VERSIONS:
        return value
    if rule.selector.matches(path, value) or _matches_extra(rule, path, value):
        if not rule.pattern:
            return _REMOVED if _is_extra_removed(rule, path) else _hidden(rule, value)
        if isinstance(value, str):
            return _without_pattern(rule, value)
        rule = rule._replace(selector=_EVERYTHING)
    if isinstance(value, dict):
        return _scrubbed_mapping(rule, path, value)
    if isinstance(value, (list, tuple)):
        return _scrubbed_items(rule, path, value)
    if isinstance(value, str) and path == ("request", "query_string"):
        return _scrubbed_query(rule, path, value)
    return value


def _is_extra(path: Path) -> bool:
    """Extra keys of a user stand beside its fields, and count as its `data`, as with Relay."""
    return len(path) >= 2 and path[0] == "user" and path[1] not in _USER_FIELDS


def _matches_extra(rule: _Rule, path: Path, value: Any) -> bool:
    if not _is_extra(path):
        return False
    if len(path) == 2 and rule.selector.matches(("user", "data"), {}):
        return True
    return rule.selector.matches(("user", "data", *path[1:]), value)


def _is_extra_removed(rule: _Rule, path: Path) -> bool:
    """Return whether a rule is about `data` as a whole, which cannot be masked or hashed."""
    return _is_extra(path) and len(path) == 2 and rule.selector.matches(("user", "data"), {})


def _hidden(rule: _Rule, value: Any) -> Any:
    if rule.hide is None or value is None or isinstance(value, (dict, list, tuple, bool)):
        return _REMOVED  # only a text can be masked, replaced or hashed
    return rule.hide(str(value))


def _scrubbed_mapping(rule: _Rule, path: Path, mapping: dict[Any, Any]) -> Any:
    changed = False
    copy: dict[Any, Any] = {}
    for key, value in mapping.items():
        place = (*path, str(key).lower())
        new, new_key = _scrubbed(rule, place, value), _scrubbed_key(rule, place, key)
        changed = changed or new is not value or new_key is not key
        if new is not _REMOVED:
            copy[new_key] = new
    return copy if changed else mapping


def _scrubbed_key(rule: _Rule, path: Path, key: Any) -> Any:
    """Take patterns out of a key as well: a table by address is full of addresses."""
    if not rule.pattern or not isinstance(key, str) or not rule.selector.matches(path, key):
        return key
    return _without_pattern(rule, key)


def _scrubbed_items(rule: _Rule, path: Path, items: Any) -> Any:
    if path[-1] in _PAIRS and all(_is_pair(item) for item in items):
        return _scrubbed_pairs(rule, path, items)
    copy = [_scrubbed(rule, (*path, str(at)), item) for at, item in enumerate(items)]
    if all(new is old for new, old in zip(copy, items, strict=True)):
        return items
    return [None if item is _REMOVED else item for item in copy]


def _is_pair(item: object) -> bool:
    return isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], str)


def _scrubbed_pairs(rule: _Rule, path: Path, pairs: Any) -> Any:
    changed = False
    copy: list[Any] = []
    for pair in pairs:
        name, value = pair
        place = (*path, name.lower())
        new, new_name = _scrubbed(rule, place, value), _scrubbed_key(rule, place, name)
        unchanged = new is value and new_name is name
        changed = changed or not unchanged
        if new is not _REMOVED:
            copy.append(pair if unchanged else [new_name, new])
    return copy if changed else pairs


def _scrubbed_query(rule: _Rule, path: Path, query: str) -> Any:
    from urllib.parse import quote_plus, unquote_plus

    pairs = [pair.partition("=") for pair in query.split("&")]
    shown: list[str] = []
    for name, equals, value in pairs:
        plain = unquote_plus(value)
        new = _scrubbed(rule, (*path, unquote_plus(name).lower()), plain)
        if new is not _REMOVED:
            shown.append(name + equals + (value if new is plain else quote_plus(str(new), "[]*")))
    changed = "&".join(shown)
    return query if changed == query else changed


# -- patterns --

_AT = re.compile(r"@|%40")
_BEFORE_AT = re.compile(r"[^\s@<>()\[\]\"',;:\\&?=/|]+\Z")
_AFTER_AT = re.compile(r"\w(?:[\w.-]*\w)?")


def _without_pattern(rule: _Rule, text: str) -> str:
    spans = _find_emails(text) if rule.pattern == "email" else _spans_of_addresses(text)
    shown: list[str] = []
    at = 0
    for start, end in spans:
        shown += (text[at:start], "" if rule.hide is None else rule.hide(text[start:end]))
        at = end
    return "".join((*shown, text[at:])) if at else text


def _spans_of_addresses(text: str) -> Iterator[tuple[int, int]]:
    for start, end, _ in find_addresses(text):
        yield start, end


def _find_emails(text: str) -> Iterator[tuple[int, int]]:
    end = 0
    for match in _AT.finditer(text):
        # Looked for from the sign outwards: from the left, a long text would be read for ever.
        low = max(end, match.start() - 256)
        before = _BEFORE_AT.search(text[low : match.start()])
        after = _AFTER_AT.match(text, match.end())
        if before and after:
            yield low + before.start(), after.end()
            end = after.end()


# -- addresses, never --

_ANY_ADDRESS = _Rule(_EVERYTHING, "ip", lambda _text: "[ip]", ("@ip", "replace"), None)


def _is_place_of_addresses(path: Path, _value: object) -> bool:
    if path in (("user", "ip_address"), ("request", "env", "remote_addr")):
        return True
    is_header = len(path) == 3 and path[:2] == ("request", "headers")
    return is_header and path[2].replace("_", "-") in ADDRESS_HEADERS


_PLACES_OF_ADDRESSES = _Rule(
    Selector(_is_place_of_addresses, frozenset({"user", "request"})), "", None, ("", ""), None
)


def _without_addresses(event: dict[str, Any]) -> dict[str, Any]:
    scrubbed = _applied(_ANY_ADDRESS, _applied(_PLACES_OF_ADDRESSES, event))
    sdk = scrubbed.get("sdk")
    if isinstance(sdk, dict):
        kept = {name: value for name, value in sdk.items() if name != "client_ip"}
        scrubbed = {**scrubbed, "sdk": {**kept, "settings": {"infer_ip": "never"}}}
    return scrubbed


def _with_sound_user(event: dict[str, Any], scrubbed: dict[str, Any]) -> dict[str, Any]:
    """Leave in a changed user only what a server will not make something else of."""
    user = scrubbed.get("user")
    before = event.get("user")
    if not isinstance(user, dict) or user is before:
        return scrubbed
    # Relay would keep the raw value in the unique user that it computed before its rules, and
    # would move what is no address from `ip_address` into `id`.
    dropped = {"sentry_user"}
    if isinstance(before, dict) and user.get("ip_address") != before.get("ip_address"):
        dropped.add("ip_address")
    kept = {name: value for name, value in user.items() if name not in dropped}
    rest = {name: value for name, value in scrubbed.items() if name != "user"}
    return {**rest, "user": kept} if kept else rest


# -- keyed hashes --


def hash_id(
    value: object,
    *,
    key: bytes | str,
    rotate: str | None = None,
    now: datetime | None = None,
) -> str:
    """Return a pseudonym for an id: the same for the same value and key, useless without it.

    It is what a `hash` rule makes of the same value with the same key.

    Args:
        value: what is to be hidden, as text.
        key: at least 16 secret bytes. Unkeyed hashes are not offered: whoever can list the ids
            can undo them.
        rotate: `"daily"` gives another pseudonym each day (UTC), so that days cannot be joined.
        now: the time that `rotate` goes by, instead of the clock's; with a time zone.

    Raises:
        ConfigurationError: the key is missing or too short, or `rotate` is unknown.

    .. versionadded:: 0.1.0
    """
    secret = _checked_key(key, "key")
    if rotate is None:
        return _digest(str(value), secret)
    if rotate != "daily":
        raise ConfigurationError(f'rotate must be "daily" or None, not {rotate!r:.80}')
    from datetime import datetime

    day = (now or datetime.now(UTC)).astimezone(UTC).date().isoformat()
    return _digest(str(value), bytes.fromhex(_digest(day, secret)))


def _checked_key(key: object, option: str) -> bytes:
    if isinstance(key, str):
        key = key.encode()
    if not isinstance(key, bytes):
        raise ConfigurationError(
            f"{option} must be bytes, at least {_MIN_KEY} of them, not {type(key).__name__}"
        )
    if len(key) < _MIN_KEY:
        raise ConfigurationError(
            f"{option} has {len(key)} bytes and needs at least {_MIN_KEY}: make one with "
            "secrets.token_bytes(32)"
        )
    return key


def _digest(text: str, key: bytes) -> str:
    from hashlib import blake2b

    if len(key) > _MAX_KEY:
        key = blake2b(key).digest()
    return blake2b(text.encode("utf-8", "surrogatepass"), key=key, digest_size=20).hexdigest()
