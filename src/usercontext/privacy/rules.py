"""How scrubbing rules are read, and what they do to an event; pure.

Rules name values with Relay's selectors, or patterns inside strings. A rule copies what it
changes and shares the rest, so what it was given is never mutated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from usercontext.address.headers import is_address_header
from usercontext.checks import listed
from usercontext.exceptions import ConfigurationError
from usercontext.privacy.patterns import PATTERNS, Pattern, of_regex, of_route
from usercontext.privacy.pseudonyms import digest
from usercontext.privacy.secret_names import FILTERED
from usercontext.privacy.selectors import Path, Selector, nearest, parse_selector

__all__ = ["ScrubRule", "compiled", "scrubbed", "scrubbed_and_told"]

_METHODS = ("remove", "mask", "replace", "hash")

#: Takes a text that is to be hidden, and what is left of it; returns what stands in its place.
_Hide: TypeAlias = Callable[[str, str], str]


def compiled(rules: object, key: bytes | None) -> tuple[ScrubRule, ...]:
    """Read rules as `Scrubber` takes them.

    Raises:
        ConfigurationError: one cannot be read, or needs a key; the text names it and the fix.
    """
    return tuple(_compiled(rule, key) for rule in _checked_rules(rules))


def scrubbed(
    event: dict[str, Any],
    rules: Iterable[ScrubRule],
    *,
    never_store_ip: bool,
    used: list[ScrubRule] | None = None,
) -> dict[str, Any]:
    """Return an event as the rules leave it, itself if they are about nothing in it.

    The rules that changed something are added to `used`.
    """
    result = event
    for rule in rules:
        changed = _applied(rule, result)
        if used is not None and changed is not result:
            used.append(rule)
        result = changed
    if never_store_ip:
        result = _without_addresses(result)
    return event if result is event else _with_sound_user(event, result)


def scrubbed_and_told(
    event: dict[str, Any], rules: tuple[ScrubRule, ...], *, never_store_ip: bool
) -> dict[str, Any]:
    """Return what `scrubbed` does, with the rules that changed something told in it."""
    used: list[ScrubRule] = []
    result = scrubbed(event, rules, never_store_ip=never_store_ip, used=used)
    contexts = result.get("contexts", {})
    notes = contexts.get("usercontext", {}) if isinstance(contexts, dict) else None
    was_there = "usercontext" in (event.get("contexts") or {})
    if not used or not isinstance(notes, dict) or (was_there and not notes):
        return result  # One may be about the notes themselves, and has the last word.
    told = [{"what": rule.written[0], "rule": f"scrub: {rule.written[1]}"} for rule in used]
    notes = {**notes, "withheld": [*notes.get("withheld", ()), *told]}
    return {**result, "contexts": {**contexts, "usercontext": notes}}


class ScrubRule(NamedTuple):
    """A rule as read: what it is about, what it looks for there, what it does about it."""

    selector: Selector
    pattern: Pattern | None  # None: the value as a whole
    hide: _Hide | None  # None: remove
    written: tuple[str, str]
    key: bytes | None

    def __hash__(self) -> int:
        return hash((self.written, self.key))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScrubRule):
            return NotImplemented
        return (self.written, self.key) == (other.written, other.key)


def _checked_rules(rules: object) -> Iterable[Any]:
    if isinstance(rules, Mapping):
        rules = None  # its keys alone would be read, and no methods
    return listed("scrub", rules, "rules", '["$user.ip_address", ("$user.email", "hash")]')


def _compiled(rule: Any, key: bytes | None) -> ScrubRule:
    selector, pattern, method = _parts(rule)
    if method not in _METHODS:
        raise ConfigurationError(
            f"scrub: the method {method!r} is unknown{nearest(method, _METHODS)}"
        )
    if method == "hash" and key is None:
        raise ConfigurationError(
            f"scrub: {rule!r} needs hash_key, at least 16 secret bytes: without a key "
            "a hash of an address or an id is undone by trying them all"
        )
    sought = _pattern(pattern)
    parsed = parse_selector(selector, spares_structure=sought is None)
    if selector == "**" and sought is not None:
        parsed = _EVERYTHING
    return ScrubRule(parsed, sought, _hider(method, key), _written(rule), key)


def _parts(rule: Any) -> tuple[str, Any, str]:
    """Return a rule's selector, what it looks for there and its method."""
    parts = tuple(rule) if isinstance(rule, (tuple, list)) else (rule,)
    if not all(isinstance(part, (str, re.Pattern)) for part in parts) or not parts:
        raise _no_rule(rule)
    first = parts[0]
    if _is_pattern(first):
        pattern, method = _split(first, "remove")
        if len(parts) > 2 or (len(parts) == 2 and not isinstance(parts[1], str)):
            raise _no_rule(rule)
        return "**", pattern, parts[1] if len(parts) == 2 else method
    if len(parts) == 3 and _is_pattern(parts[1]) and isinstance(parts[2], str):
        return first, _split(parts[1], "")[0], parts[2]
    if len(parts) == 2 and _is_pattern(parts[1]):
        return first, *_split(parts[1], "remove")
    if len(parts) > 2:
        raise _no_rule(rule)
    return first, "@anything", parts[1] if len(parts) == 2 else "remove"


def _no_rule(rule: object) -> ConfigurationError:
    return ConfigurationError(
        "scrub: a rule is a selector or a pair of selector and method, such as "
        "('$user.email', 'hash') or ('$request.url', '/reset/<token>', 'replace'); "
        f"not {rule!r:.80}"
    )


def _is_pattern(part: str | re.Pattern[str]) -> bool:
    return isinstance(part, re.Pattern) or part.startswith(("@", "/"))


def _split(pattern: str | re.Pattern[str], default: str) -> tuple[str | re.Pattern[str], str]:
    """Take the method off a pattern that names one: `@ip:mask`, `/reset/<token>:mask`."""
    if isinstance(pattern, re.Pattern):
        return pattern, default
    name, _, method = pattern.rpartition(":")
    if pattern.startswith("/"):
        return (name, method) if method in _METHODS else (pattern, default)
    return (name, method or default) if name else (pattern, default)


def _pattern(pattern: str | re.Pattern[str]) -> Pattern | None:
    if isinstance(pattern, re.Pattern):
        return of_regex(pattern)
    if pattern.startswith("/"):
        return of_route(pattern)
    name = pattern[1:]
    if name not in PATTERNS:
        known = [f"@{one}" for one in PATTERNS]
        raise ConfigurationError(
            f"scrub: the pattern {pattern!r} is unknown{nearest(pattern, known)}"
        )
    return PATTERNS[name]


def _written(rule: Any) -> tuple[str, str]:
    """Return a rule as a report tells it."""
    parts = rule if isinstance(rule, (tuple, list)) else (rule,)
    texts = [part.pattern if isinstance(part, re.Pattern) else part for part in parts]
    return str(texts[0]), ":".join(texts[1:]) or "remove"


def _hider(method: str, key: bytes | None) -> _Hide | None:
    if method == "hash" and key is not None:
        return lambda text, _name: digest(text, key)
    if method == "mask":
        return lambda text, _name: "*" * len(text)
    if method == "replace":
        return lambda _text, name: name
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

# What patterns find in numbers has nine digits at least.
_LONG = 10**8

_EVERYTHING = Selector(lambda _path, _value: True, None)
_REMOVED: Any = object()

_USER_FIELDS = frozenset({
    "data", "email", "geo", "id", "ip_address", "name", "segment", "sentry_user", "username",
})  # fmt: skip


def _applied(rule: ScrubRule, event: dict[str, Any]) -> dict[str, Any]:
    roots = rule.selector.roots
    changed: dict[str, Any] = {}
    for name, value in event.items():
        root = str(name).lower()
        if (roots is not None and root not in roots) or (rule.pattern and root in _UNTOUCHED):
            continue
        new = _scrubbed_value(rule, (root,), value)
        if new is not value:
            changed[name] = new
    if not changed:
        return event
    joined = {**event, **changed}
    return {name: value for name, value in joined.items() if value is not _REMOVED}


def _scrubbed_value(rule: ScrubRule, path: Path, value: Any) -> Any:
    """Return a value as the rule leaves it: itself where nothing changes, or _REMOVED."""
    if rule.pattern and path[0] == "contexts" and path[-1] in _VERSIONS:
        return value
    everything = rule.selector is _EVERYTHING
    if everything or rule.selector.matches(path, value) or _matches_extra(rule, path, value):
        if rule.pattern is None:
            return _REMOVED if _is_extra_removed(rule, path) else _hidden(rule, value)
        if len(path) > 1 and rule.pattern.is_about_key and rule.pattern.is_about_key(path[-1]):
            return _hidden(rule, value, "[password]")
        if isinstance(value, (str, int)):
            return _searched(rule.pattern, rule, value)
        if not everything:
            rule = rule._replace(selector=_EVERYTHING)
    return _scrubbed_inside(rule, path, value)


def _searched(pattern: Pattern, rule: ScrubRule, value: str | int) -> Any:
    if isinstance(value, int):
        text = str(value) if abs(value) >= _LONG else ""
        shown = _without_pattern(pattern, rule, text)
        return value if shown == text else shown or _REMOVED
    # An empty text is not a value: Sentry refuses such tags, and makes "email:" of an email.
    return (_without_pattern(pattern, rule, value) or _REMOVED) if value else value


def _scrubbed_inside(rule: ScrubRule, path: Path, value: Any) -> Any:
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


def _matches_extra(rule: ScrubRule, path: Path, value: Any) -> bool:
    if not _is_extra(path):
        return False
    if len(path) == 2 and rule.selector.matches(("user", "data"), {}):
        return True
    return rule.selector.matches(("user", "data", *path[1:]), value)


def _is_extra_removed(rule: ScrubRule, path: Path) -> bool:
    """Return whether a rule is about `data` as a whole, which cannot be masked or hashed."""
    return _is_extra(path) and len(path) == 2 and rule.selector.matches(("user", "data"), {})


def _hidden(rule: ScrubRule, value: Any, name: str = FILTERED) -> Any:
    if rule.hide is None or value is None or isinstance(value, (dict, list, tuple, bool)):
        return _REMOVED  # only a text can be masked, replaced or hashed
    return rule.hide(str(value), name)


def _scrubbed_mapping(rule: ScrubRule, path: Path, mapping: dict[Any, Any]) -> Any:
    changed = False
    copy: dict[Any, Any] = {}
    for key, value in mapping.items():
        place = (*path, str(key).lower())
        new, new_key = _scrubbed_value(rule, place, value), _scrubbed_key(rule, place, key)
        changed = changed or new is not value or new_key is not key
        if new is not _REMOVED:
            copy[new_key] = new
    return copy if changed else mapping


def _scrubbed_key(rule: ScrubRule, path: Path, key: Any) -> Any:
    """Take patterns out of a key as well: a table by address is full of addresses."""
    if rule.pattern is None or not isinstance(key, str) or not rule.selector.matches(path, key):
        return key
    # A name tells that a password stands there, and is none.
    return key if rule.pattern.is_about_key else _without_pattern(rule.pattern, rule, key)


def _scrubbed_items(rule: ScrubRule, path: Path, items: Any) -> Any:
    if path[-1] in _PAIRS and all(_is_pair(item) for item in items):
        return _scrubbed_pairs(rule, path, items)
    copy = [_scrubbed_value(rule, (*path, str(at)), item) for at, item in enumerate(items)]
    if all(new is old for new, old in zip(copy, items, strict=True)):
        return items
    return [None if item is _REMOVED else item for item in copy]


def _is_pair(item: object) -> bool:
    return isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], str)


def _scrubbed_pairs(rule: ScrubRule, path: Path, pairs: Any) -> Any:
    changed = False
    copy: list[Any] = []
    for pair in pairs:
        name, value = pair
        place = (*path, name.lower())
        new, new_name = _scrubbed_value(rule, place, value), _scrubbed_key(rule, place, name)
        unchanged = new is value and new_name is name
        changed = changed or not unchanged
        if new is not _REMOVED:
            copy.append(pair if unchanged else [new_name, new])
    return copy if changed else pairs


def _scrubbed_query(rule: ScrubRule, path: Path, query: str) -> Any:
    from urllib.parse import quote_plus, unquote_plus

    pairs = [pair.partition("=") for pair in query.split("&")]
    shown: list[str] = []
    for name, equals, value in pairs:
        plain = unquote_plus(value)
        new = _scrubbed_value(rule, (*path, unquote_plus(name).lower()), plain)
        if new is not _REMOVED:
            shown.append(name + equals + (value if new is plain else quote_plus(str(new), "[]*")))
    changed = "&".join(shown)
    return query if changed == query else changed


def _without_pattern(pattern: Pattern, rule: ScrubRule, text: str) -> str:
    shown: list[str] = []
    at = 0
    for start, end, name in pattern.find(text):
        if start < at:
            continue  # within what is hidden already: one group of an expression in another
        shown += (text[at:start], "" if rule.hide is None else rule.hide(text[start:end], name))
        at = end
    return "".join((*shown, text[at:])) if at else text


# -- addresses, never --

_ANY_ADDRESS = ScrubRule(
    _EVERYTHING, PATTERNS["ip"], lambda _text, name: name, ("@ip", "replace"), None
)


def _is_place_of_addresses(path: Path, _value: object) -> bool:
    if path in (("user", "ip_address"), ("request", "env", "remote_addr")):
        return True
    is_header = len(path) == 3 and path[:2] == ("request", "headers")
    return is_header and is_address_header(path[2])


_PLACES_OF_ADDRESSES = ScrubRule(
    Selector(_is_place_of_addresses, frozenset({"user", "request"})), None, None, ("", ""), None
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
    # would move what is not an address from `ip_address` into `id`.
    dropped = {"sentry_user"}
    if isinstance(before, dict) and user.get("ip_address") != before.get("ip_address"):
        dropped.add("ip_address")
    kept = {name: value for name, value in user.items() if name not in dropped}
    rest = {name: value for name, value in scrubbed.items() if name != "user"}
    return {**rest, "user": kept} if kept else rest
