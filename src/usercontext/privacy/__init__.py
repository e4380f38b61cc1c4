"""The last word: scrubbing rules over users and whole events, explicit values included; pure.

Nothing is changed in place: what a rule touches is copied, so nothing of the app's is ever
mutated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usercontext.checks import choice, flag

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from usercontext.privacy import rules as scrubbing
    from usercontext.types import PrivacyRule

__all__ = ["Scrubber", "hash_id"]


class Scrubber:
    """Applies rules to users and events; false where it has nothing to do.

    Args:
        rules: each a selector such as `"$user.ip_address"`, or a pair of selector and method,
            such as `("$user.email", "hash")`. Methods are `remove` (without one), `mask`
            (stars), `replace` ("[Filtered]") and `hash` (keyed). A pattern in a selector's place,
            such as `"@ip"`, `"@creditcard"`, a path with the segment in question
            (`"/reset/<token>"`) or a compiled regular expression, is about what it finds inside
            any string; in a method's place, such as `("$extra.**", "@email:mask")` or
            `("$extra.**", re.compile("acct-[0-9]+"), "mask")`, inside what the selector names.
        hash_key: at least 16 secret bytes, needed by `hash`.
        never_store_ip: take every address out of everything, whatever else is configured.

    Raises:
        ConfigurationError: a rule cannot be read, or the key is missing or too short.

    .. versionadded:: 0.1.0
    """

    __slots__ = ("_rules", "never_store_ip")

    def __init__(
        self,
        rules: Iterable[PrivacyRule] = (),
        *,
        hash_key: bytes | str | None = None,
        never_store_ip: bool = False,
    ) -> None:
        key = None if hash_key is None else _checked_key(hash_key)
        self._rules: tuple[scrubbing.ScrubRule, ...] = ()
        if rules != ():
            from usercontext.privacy import rules as scrubbing

            self._rules = scrubbing.compiled(rules, key)
        self.never_store_ip: bool = flag("never_store_ip", never_store_ip)

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
        if not self:
            return event
        from usercontext.privacy import rules as scrubbing

        return scrubbing.scrubbed(event, self._rules, never_store_ip=self.never_store_ip)

    def report(self, event: dict[str, Any]) -> dict[str, Any]:
        """Return an event of our own as it may leave, which tells the rules that changed it.

        They stand in `contexts.usercontext`, as they were written; not where a rule removes that.
        """
        if not self:
            return event
        from usercontext.privacy import rules as scrubbing

        return scrubbing.scrubbed_and_told(event, self._rules, never_store_ip=self.never_store_ip)


def _checked_key(key: object) -> bytes:
    from usercontext.privacy.pseudonyms import checked_key

    return checked_key(key, "hash_key")


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
    from usercontext.privacy.pseudonyms import checked_key, digest

    secret = checked_key(key, "key")
    if choice("rotate", rotate, "daily", None) is None:
        return digest(str(value), secret)
    from datetime import UTC, datetime

    day = (now or datetime.now(UTC)).astimezone(UTC).date().isoformat()
    return digest(str(value), bytes.fromhex(digest(day, secret)))
