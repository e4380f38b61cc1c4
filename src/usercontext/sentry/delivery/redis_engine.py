"""Reports in a stream of Redis or Valkey; the only file that knows the package `redis`.

Each server has a stream of its own, whose readers are one consumer group: a report is claimed by
one of them, pending until it is acknowledged, and adopted by others when its lease is over. All is
done by scripts, each of which is one step for everybody else.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from usercontext.diagnostics import warn_once
from usercontext.exceptions import ConfigurationError
from usercontext.optional import importing
from usercontext.sentry.delivery.engine import (
    LEASE_SECONDS,
    EngineBounds,
    EngineError,
    EngineStatus,
    Entry,
)
from usercontext.sentry.delivery.network import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from usercontext.sentry.delivery.engine import Address, Row

__all__ = ["RedisEngine"]

_TARGETS = "usercontext:outbox:targets"
_OLDEST_VERSION = (7, 0)
_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 5.0
# What is claimed by a dead process was claimed longer ago than that, or by another one just now.
_JUST_NOW_MS = 100
_DAY_MS = 86_400_000
_DEAD_EVERY = 0.5

# Keys: the stream, its size in bytes, when nobody may send.
_TRIM = """
local function trim(most, bytes, seconds)
  local gone = {}
  local oldest = (tonumber(redis.call('TIME')[1]) - seconds) * 1000
  while #gone < 500 do
    local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
    if not first then redis.call('SET', KEYS[2], 0) break end
    local size = tonumber(redis.call('GET', KEYS[2]) or 0)
    local written = tonumber(string.match(first[1], '^%d+'))
    if redis.call('XLEN', KEYS[1]) <= most and size <= bytes and written >= oldest then break end
    redis.call('XDEL', KEYS[1], first[1])
    redis.call('DECRBY', KEYS[2], #first[2][4])
    gone[#gone + 1] = first[2][2]
  end
  return gone
end
"""
_KEEP = (
    _TRIM
    + """
local tokens = {}
for i = 4, #ARGV, 2 do
  tokens[#tokens + 1] = redis.call('XADD', KEYS[1], '*', 'id', ARGV[i], 'event', ARGV[i + 1])
  redis.call('INCRBY', KEYS[2], #ARGV[i + 1])
end
return {tokens, trim(tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]))}
"""
)
_EXPIRE = _TRIM + "return trim(math.huge, math.huge, tonumber(ARGV[1]))"
_CLAIM = """
local found = redis.call(
  'XREADGROUP', 'GROUP', 'forwarders', ARGV[1], 'COUNT', ARGV[2], 'STREAMS', KEYS[1], '>')
return found and found[1][2] or {}
"""
_ADOPT_EXPIRED = """
return redis.call('XAUTOCLAIM', KEYS[1], 'forwarders', ARGV[1], ARGV[3], ARGV[4], 'COUNT', ARGV[2])
"""
_OWNERS = """
local owners = {}
for _, each in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], 'forwarders')) do
  local told = {}
  for i = 1, #each, 2 do told[each[i]] = each[i + 1] end
  owners[#owners + 1] = {told['name'], told['pending'], told['idle']}
end
return owners
"""
_ADOPT_OF = """
local ids = {}
for _, each in ipairs(redis.call(
    'XPENDING', KEYS[1], 'forwarders', '-', '+', ARGV[2], ARGV[3])) do
  ids[#ids + 1] = each[1]
end
if #ids == 0 then return {} end
return redis.call('XCLAIM', KEYS[1], 'forwarders', ARGV[1], ARGV[4], unpack(ids))
"""
# Of those alone that are ours yet.
_SET_IDLE = """
for i = 3, #ARGV do
  local pending = redis.call('XPENDING', KEYS[1], 'forwarders', ARGV[i], ARGV[i], 1, ARGV[1])
  if #pending > 0 then
    redis.call(
      'XCLAIM', KEYS[1], 'forwarders', ARGV[1], 0, ARGV[i], 'IDLE', ARGV[2], 'JUSTID')
  end
end
"""
_REMOVE = """
for i = 1, #ARGV, 2 do
  if redis.call('XDEL', KEYS[1], ARGV[i]) == 1 then redis.call('DECRBY', KEYS[2], ARGV[i + 1]) end
  redis.call('XACK', KEYS[1], 'forwarders', ARGV[i])
end
"""
_LEFT = """
local left = {}
for _, id in ipairs(ARGV) do
  if #redis.call('XRANGE', KEYS[1], id, id) > 0 then left[#left + 1] = id end
end
return left
"""
_LEAVE = """
if #redis.call('XPENDING', KEYS[1], 'forwarders', '-', '+', 1, ARGV[1]) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'forwarders', ARGV[1])
end
"""
_PAUSE = """
if redis.call('PTTL', KEYS[3]) < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[3], 1, 'PX', ARGV[1])
end
"""
_PAUSED = "return redis.call('PTTL', KEYS[3])"
_STATUS = """
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local pending = redis.call('XPENDING', KEYS[1], 'forwarders')[1]
return {redis.call('XLEN', KEYS[1]), pending, redis.call('GET', KEYS[2]) or 0, first and first[1]}
"""
_CLEAR = """
redis.call('SET', KEYS[2], 0)
return redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)
"""
_PREPARE = """
local ended = redis.pcall('XGROUP', 'CREATE', KEYS[1], 'forwarders', '0', 'MKSTREAM')
if ended.err and not string.find(ended.err, 'BUSYGROUP') then return ended end
"""


class RedisEngine:
    """One server's reports in Redis or Valkey.

    Args:
        address: where it runs.
        target: the server's DSN, without its secret; "" for what concerns no server.

    Raises:
        ConfigurationError: the URL has options that cannot be used.
        MissingDependencyError: the package is not installed.
    """

    def __init__(self, address: Address, target: str) -> None:
        with importing("redis", "redis", purpose="an outbox in Redis or Valkey"):
            import redis.backoff
            import redis.exceptions
            import redis.retry
        self._redis: Any = redis
        self._address = address
        self._target = target
        name = blake2b(target.encode(), digest_size=8).hexdigest()
        # In braces: a cluster keeps all keys of a server on one node, as scripts need them.
        self._keys = [
            f"usercontext:outbox:{{{name}}}:{key}" for key in ("reports", "size", "pause")
        ]
        self._abandoned: list[object] = []
        self._is_prepared = False
        self._client = self._connected()
        self._cursor: str | bytes = "0-0"
        self._looked_for_dead_at = 0.0

    def _connected(self) -> Any:
        try:
            return self._redis.Redis.from_url(
                self._address.url,
                socket_connect_timeout=_CONNECT_SECONDS,
                socket_timeout=_ANSWER_SECONDS,
                # Who waits is a thread that knows better when to try again.
                retry=self._redis.retry.Retry(self._redis.backoff.NoBackoff(), 0),
                decode_responses=False,
            )
        except (ValueError, TypeError):
            raise ConfigurationError(
                "outbox is a URL of Redis with options that the package redis does not know: "
                'write outbox="redis://host:6379/0"'
            ) from None

    # What it is asked for

    def keep(self, rows: Sequence[Row], bounds: EngineBounds) -> tuple[list[str | None], list[str]]:
        """Write reports; return their tokens, and the ids of what made room."""
        limits = bounds.max_reports, bounds.max_bytes, bounds.max_age
        tokens, gone = self._run(_KEEP, *limits, *(part for row in rows for part in row))
        return [token.decode() for token in tokens], [event_id.decode() for event_id in gone]

    def claim(self, owner: str, limit: int) -> list[Entry]:
        """Claim the oldest reports that nobody has claimed."""
        return _entries(self._run(_CLAIM, owner, limit))

    def adopt(self, owner: str, limit: int, is_dead: Callable[[str], bool]) -> list[Entry]:
        """Claim what owners had claimed whose lease is over, or who are known to be dead."""
        lease = int(LEASE_SECONDS * 1000)
        self._cursor, found, *_ = self._run(_ADOPT_EXPIRED, owner, limit, lease, self._cursor)
        entries = _entries(found)
        if entries or time.monotonic() < self._looked_for_dead_at + _DEAD_EVERY:
            return entries
        self._looked_for_dead_at = time.monotonic()
        for name, pending, idle in self._run(_OWNERS):
            other = name.decode()
            if other == owner or not (is_dead(other) or idle > _DAY_MS):
                continue
            if pending == 0:
                self.leave(other)
            elif not entries:
                entries = _entries(self._run(_ADOPT_OF, owner, limit, other, _JUST_NOW_MS))
                self._looked_for_dead_at = 0.0  # There may be more.
        return entries

    def extend(self, owner: str, tokens: Sequence[str]) -> None:
        """Begin the lease of what is claimed once more."""
        self._run(_SET_IDLE, owner, 0, *tokens)

    def free(self, owner: str, tokens: Sequence[str]) -> None:
        """Let others adopt what is claimed."""
        self._run(_SET_IDLE, owner, int(LEASE_SECONDS * 1000), *tokens)

    def remove(self, entries: Sequence[Entry]) -> None:
        """Delete what has met its end."""
        self._run(_REMOVE, *(part for each in entries for part in (each.token, len(each.payload))))

    def expire(self, max_age: float) -> list[str]:
        """Delete what is older; return the ids of the events."""
        return [event_id.decode() for event_id in self._run(_EXPIRE, max_age)]

    def left(self, tokens: Sequence[str]) -> set[str]:
        """Return which of some tokens are still there."""
        return {token.decode() for token in self._run(_LEFT, *tokens)}

    def leave(self, owner: str) -> None:
        """Forget an owner, who claims nothing more."""
        self._run(_LEAVE, owner)

    def paused(self) -> float:
        """Return for how many seconds nobody is to send."""
        return max(0.0, float(self._run(_PAUSED)) / 1000)

    def pause(self, seconds: float) -> None:
        """Let nobody send for so long; a longer pause stays."""
        self._run(_PAUSE, max(1, int(seconds * 1000)))

    def status(self) -> EngineStatus:
        """Return what is held."""
        waiting, claimed, size, *first = self._run(_STATUS)
        oldest = int(first[0].partition(b"-")[0]) / 1000 if first and first[0] else None
        return EngineStatus(waiting, claimed, int(size), oldest)

    def clear(self) -> int:
        """Delete all reports; return how many there were."""
        return int(self._run(_CLEAR))

    def targets(self) -> list[str]:
        """Return the DSNs of all servers that anything was kept for."""
        with self._told():
            return sorted(target.decode() for target in self._client.smembers(_TARGETS))

    def close(self) -> None:
        """Close the connection; the next call opens one."""
        self._is_prepared = False
        self._client.connection_pool.disconnect()

    def abandon(self) -> None:
        """Leave the connection to the parent process."""
        self._abandoned.append(self._client)
        self._client = self._connected()
        self._is_prepared = False

    # How it is done

    def _run(self, script: str, *arguments: object) -> Any:
        with self._told():
            if not self._is_prepared:
                self._prepare()
            try:
                return self._eval(script, arguments)
            except self._redis.exceptions.ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
            # It has been emptied, or has come back without what it held.
            self._prepare()
            return self._eval(script, arguments)

    def _eval(self, script: str, arguments: Sequence[object]) -> Any:
        keys = self._keys
        return self._client.execute_command("EVAL", script, len(keys), *keys, *arguments)

    def _prepare(self) -> None:
        self._check(self._information())
        if self._target:
            self._eval(_PREPARE, ())
            self._client.sadd(_TARGETS, self._target)
        self._is_prepared = True

    def _information(self) -> dict[str, Any]:
        try:
            return dict(self._client.info())
        except self._redis.exceptions.NoPermissionError:
            return {}  # One that is managed for us may not tell.

    def _check(self, told: dict[str, Any]) -> None:
        version = str(told.get("valkey_version") or told.get("redis_version") or "7.0")
        if _version(version) < _OLDEST_VERSION:
            raise EngineError(f"its version is {version}, and 7.0 or a newer one is needed")
        self._check_persistence(told)
        policy = str(told.get("maxmemory_policy", ""))
        if told.get("maxmemory") and policy.startswith("allkeys"):
            warn_once(
                f"eviction of {self._address}",
                "the outbox %s deletes reports when its memory is full, without a word "
                "(maxmemory-policy %s): set it to noeviction",
                self._address,
                policy,
            )

    def _check_persistence(self, told: dict[str, Any]) -> None:
        if told.get("aof_enabled", 1):
            return
        snapshots = self._snapshots()
        warn_once(
            f"persistence of {self._address}",
            "the outbox %s %s: set appendonly to yes, and appendfsync to always for what must "
            "survive a power failure",
            self._address,
            "keeps snapshots alone, and when it ends by force loses what came after the last one"
            if snapshots
            else "keeps nothing on a disk, and loses all reports when it ends",
        )

    def _snapshots(self) -> bool:
        try:
            found = self._client.config_get("save")
        except self._redis.exceptions.RedisError:
            return False
        return bool(next(iter(found.values()), ""))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell in a few words what goes wrong in a block."""
        try:
            yield
        except (self._redis.exceptions.RedisError, OSError) as error:
            self._is_prepared = False
            raise EngineError(self._reason(error)) from error

    def _reason(self, error: BaseException) -> str:
        known, text = self._redis.exceptions, str(error)
        if isinstance(error, known.AuthenticationError) or "NOAUTH" in text or "WRONGPASS" in text:
            return "the password is missing or wrong"
        if "NOPERM" in text or "ACL" in text or "no permission" in text.lower():
            return (
                "its user may not do what is needed: allow +@stream +@string +@set +@scripting "
                "+time +pttl +info on ~usercontext:outbox:*"
            )
        if isinstance(error, known.OutOfMemoryError) or "OOM" in text:
            return "its memory is full"
        if isinstance(error, known.ReadOnlyError) or "READONLY" in text:
            return "it is a replica, which takes nothing: name the primary"
        if isinstance(error, known.BusyLoadingError):
            return "it is still loading what it holds"
        if isinstance(error, known.TimeoutError):
            return "there was no answer in time"
        if isinstance(error, known.ConnectionError | OSError):
            reason = reason_of(error)
            return "the connection was closed" if "HTTP" in reason else reason
        return f"it answers with an error of {type(error).__name__}"


def _entries(found: Sequence[Any]) -> list[Entry]:
    """Return what was claimed; what has been deleted meanwhile is left out."""
    return [
        Entry(each[0].decode(), each[1][1].decode(), each[1][3])
        for each in found
        if each and each[1]
    ]


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())
