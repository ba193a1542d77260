"""The behavior store on Redis or Valkey, shared by any number of processes (docs/operations.md, docs/adr/0007)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.resources import files
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import numpy as np
import redis

from service.behavior_store import (
    EMPTY,
    I64,
    MAX_LENGTH,
    REMEMBERED_EVENTS,
    U64,
    Appended,
    BehaviorSequence,
    NewBehavior,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from service.circuit_breaker import CircuitBreaker
from service.erasure_feed import CHANNEL, ErasureFeed
from service.redis_connection import Deadlines, RedisAddress, Resolved
from service.sequence_cache import AGAIN, RECORD, Held, SequenceCache
from service.surroundings import Surroundings

TAIL_LEAST, TAIL_MOST = 32, 512
"""Bounds on the newest behaviors that are stored apart, in the string that grows."""
_SLACK = 8192
"""Behaviors over the maximum before the server cuts a user's: every process then reads all of them again, and prepares the user anew."""
_DELTA_MOST = 4096
_PIPELINE = 200
_START_S, _LOAD_S, _SCAN_S = 1.0, 10.0, 1.0
_log = logging.getLogger("dare.store")
Result = TypeVar("Result")


class RedisStore:
    """See `service.behavior_store.BehaviorStore`. All or nothing holds for each user; an append for several may be stored in part when it
    raises, and its event ids make sending all of it again safe.

    Args: `url` as `RedisAddress.parse` reads it; `connections` used at once; `read_s`, `write_s` deadlines of one call; `ttl_s` after a
    user's last append (0: kept for ever); `cache_bytes` of sequences kept in this process; `stale_s` how long they are recalled while the
    server cannot be reached; `max_length` newest behaviors kept of one user; `failed` is told the kind of every call that failed;
    `surroundings` a simulation's.
    Raises: StoreError for a bad URL, refused credentials, a server too old or one that evicts.
    """

    def __init__(
        self,
        url: str,
        *,
        connections: int = 8,
        read_s: float = 0.025,
        write_s: float = 0.2,
        ttl_s: int = 0,
        cache_bytes: int = 2**27,
        stale_s: float = 300.0,
        max_length: int = MAX_LENGTH,
        failed: Callable[[str], None] = lambda kind: None,
        surroundings: Surroundings = Surroundings(),  # noqa: B008 - frozen
    ) -> None:
        self._clock = surroundings.clock
        self._address = RedisAddress.parse(url)
        self._read_s, self._write_s, self._stale_s = read_s, write_s, stale_s
        self._failed = failed
        self._longest = max_length
        bounds = (min(_SLACK, max_length), min(TAIL_LEAST, max_length), min(TAIL_MOST, max_length))
        self._append_arguments = (max_length, *bounds, REMEMBERED_EVENTS, ttl_s * 1000)
        self._ttl_ms = ttl_s * 1000
        self._script = {name: files("service").joinpath("lua", f"{name}.lua").read_text() for name in ("append", "load", "delete", "read")}
        self._deadlines = Deadlines(self._clock)
        resolved = Resolved(self._address)
        self._client = surroundings.connect(self._address, resolved, self._deadlines, connections + 2, read_s)
        self._sha = {name: self._client.register_script(text).sha for name, text in self._script.items()}
        self.breaker = CircuitBreaker(clock=self._clock)
        self._cached = SequenceCache(cache_bytes, max_length)
        self._forget: list[Callable[[str], None]] = []
        self._check_server()
        self._feed = ErasureFeed(self._client, resolved, self.breaker, self._erased, self._clock)
        self._end_feed = surroundings.repeat(self._feed.step)

    def append(self, behaviors: Sequence[NewBehavior]) -> Appended:
        """See `BehaviorStore.append`."""
        of_user = dict[str, list[NewBehavior]]()
        for behavior in behaviors:
            of_user.setdefault(behavior.user_id, []).append(behavior)
        calls = [(_keys(user_id), (*self._append_arguments, _packed(new), *map(_event, new))) for user_id, new in of_user.items()]
        accepted = 0
        for first in range(0, len(calls), _PIPELINE):
            replies = self._run_scripts("append", calls[first : first + _PIPELINE])
            accepted += sum(reply[0] for reply in replies)
        return Appended(accepted, len(behaviors) - accepted)

    def load(self, user_id: str, item_hash: U64, timestamp: I64) -> int:
        """See `BehaviorStore.load`. Raises: ValueError when the times are not sorted, or outside 0 to 2^32 - 1."""
        if len(timestamp) > 1 and (np.diff(timestamp) < 0).any():
            raise ValueError(f"user {user_id!r}: timestamps must be sorted, oldest first")
        if len(timestamp) and not 0 <= timestamp[0] <= timestamp[-1] < 2**32:
            raise ValueError(f"user {user_id!r}: timestamps {timestamp[0]} to {timestamp[-1]} are not in 0 to 2^32 - 1")
        length = min(len(item_hash), self._longest)
        rows = np.zeros(length, RECORD)
        rows["item_hash"], rows["timestamp"] = item_hash[len(item_hash) - length :], timestamp[len(item_hash) - length :]
        tail = min(length, TAIL_LEAST // 2)
        parts = (rows[: length - tail].tobytes(), rows[length - tail :].tobytes())
        last = int(rows["timestamp"][-1]) if length else 0
        self._run_scripts("load", [(_keys(user_id)[:4], (self._ttl_ms, last, *parts))], _LOAD_S)
        return length

    def read(self, user_id: str) -> BehaviorSequence:
        """See `BehaviorStore.read`."""
        erasures = self._cached.erasures
        found = self.read_known([user_id])
        return found[user_id] if user_id in found else self._read_whole(user_id, erasures)

    def read_known(self, user_ids: Sequence[str]) -> dict[str, BehaviorSequence]:
        """See `BehaviorStore.read_known`."""
        asked, found = self._clock(), dict[str, BehaviorSequence]()
        known = [(user_id, held, held.length) for user_id in user_ids if (held := self._cached.get(user_id)) is not None]
        for first in range(0, len(known), _PIPELINE):
            some = known[first : first + _PIPELINE]
            calls = [(_keys(user_id)[:3], (held.epoch, length, min(AGAIN, length), _DELTA_MOST)) for user_id, held, length in some]
            for (user_id, held, length), reply in zip(some, self._run_scripts("read", calls, self._read_s), strict=True):
                sequence = self._with_news(user_id, held, length, reply, asked)
                if sequence is not None:
                    found[user_id] = sequence
        return found

    def _with_news(self, user_id: str, held: Held, known: int, reply: list[Any], asked: float) -> BehaviorSequence | None:
        """What the read script's reply makes of the first `known` behaviors held; None where everything has to be read."""
        if not reply:
            self._cached.forget(user_id)
            return EMPTY
        if len(reply) == 2:
            return None
        return self._cached.extend(user_id, held, known, reply[2], asked)

    def recall(self, user_id: str) -> BehaviorSequence:
        """See `BehaviorStore.recall`."""
        if self._clock() - self._feed.lost_at > self._stale_s:
            return EMPTY
        return self._cached.recall(user_id, self._feed.since)

    def delete(self, user_id: str) -> int:
        """See `BehaviorStore.delete`."""
        (total,) = self._run_scripts("delete", [(_keys(user_id)[:4], (CHANNEL, user_id))])
        self._cached.forget(user_id)
        return min(int(total), self._longest)

    def on_erased(self, forget: Callable[[str], None]) -> None:
        """See `BehaviorStore.on_erased`."""
        self._forget.append(forget)

    def users(self) -> Iterator[tuple[str, int]]:
        """See `BehaviorStore.users`. Users added or erased meanwhile may or may not be among them."""
        cursor, seen = 0, set[str]()
        while True:
            cursor, keys = self._ask(lambda at=cursor: self._client.scan(at, match="dare:{*}:m", count=1000), _SCAN_S)  # type: ignore[misc]
            found = [user_id for user_id in map(_user_of, keys) if user_id not in seen]
            seen.update(found)
            yield from self._lengths(found)
            if cursor == 0:
                return

    def available(self) -> bool:
        """See `BehaviorStore.available`."""
        try:
            self._ask(self._client.ping, self._read_s)
        except StoreUnavailable:
            return False
        return True

    def close(self) -> None:
        """Let go of the connections; the server keeps everything."""
        self._end_feed()
        self._feed.close()
        self._client.connection_pool.disconnect()

    def _read_whole(self, user_id: str, erasures: int) -> BehaviorSequence:
        body_key, tail_key, meta_key, _, _ = _keys(user_id)
        asked = self._clock()

        def work() -> list[Any]:
            commands = [("HMGET", meta_key, "schema", "epoch", "total"), ("GET", body_key), ("GET", tail_key)]
            return _without_errors(self._client.exchange(commands, together=True))

        # A whole history is a hundred times the bytes of what is new.
        (schema, epoch, total), body, tail = self._ask(work, 4 * self._read_s, user_id)
        if schema is None:
            self._cached.forget(user_id)
            return EMPTY
        content = (body or b"") + (tail or b"")
        if schema != b"1" or len(content) != int(total) * RECORD.itemsize:
            raise StoreError(f"user {user_id!r}: schema {schema!r}, {len(content)} bytes for {int(total)} behaviors")
        held = Held(int(epoch), content, asked)
        return self._cached.replace(user_id, held, erasures)

    def _lengths(self, user_ids: list[str]) -> Iterator[tuple[str, int]]:
        def work() -> list[Any]:
            return _without_errors(self._client.exchange([("HGET", _keys(user_id)[2], "total") for user_id in user_ids]))

        for user_id, total in zip(user_ids, self._ask(work, _SCAN_S), strict=True):
            if total is not None:
                yield user_id, min(int(total), self._longest)

    def _run_scripts(self, name: str, calls: Sequence[tuple[tuple[str, ...], tuple[Any, ...]]], seconds: float | None = None) -> list[Any]:
        """Run a script once per call, pipelined: one user's keys are never in one command with another's."""
        seconds = self._write_s if seconds is None else seconds

        def work(by: str, what: str, places: Iterable[int]) -> list[Any]:
            return self._client.exchange([(by, what, len(calls[place][0]), *calls[place][0], *calls[place][1]) for place in places])

        replies = self._ask(lambda: work("EVALSHA", self._sha[name], range(len(calls))), seconds)
        # The server forgot its scripts (restarted, SCRIPT FLUSH): what it did not know it did not run.
        missing = [place for place, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)]
        if missing:
            again = self._ask(lambda: work("EVAL", self._script[name], missing), seconds)
            for place, reply in zip(missing, again, strict=True):
                replies[place] = reply
        for (keys, _), reply in zip(calls, replies, strict=True):
            if isinstance(reply, redis.RedisError):
                raise self._refusal(reply, keys[0])
        return replies

    def _ask(self, work: Callable[[], Result], seconds: float, about: str = "") -> Result:
        if self.breaker.is_open:
            self._failed("breaker_open")
            raise StoreUnavailable(f"{self._address} did not answer lately")
        began = self._clock()
        self._deadlines.start(seconds)
        try:
            result = work()
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self._failed("timeout" if isinstance(error, redis.TimeoutError | TimeoutError) else "connection")
            self.breaker.failed(began)
            raise StoreUnavailable(f"{self._address}: {error}") from error
        except redis.ResponseError as error:
            raise self._refusal(error, about) from error
        finally:
            self._deadlines.end()
        self.breaker.succeeded()
        return result

    def _refusal(self, error: redis.RedisError, about: str) -> Exception:
        text = str(error)
        if "OOM command" in text or isinstance(error, redis.OutOfMemoryError) or "MISCONF" in text:
            self._failed("full")
            return StoreFull(f"{self._address} takes no more: {text}")
        if isinstance(error, redis.ReadOnlyError) or text.startswith(("MASTERDOWN", "CLUSTERDOWN", "BUSY", "TRYAGAIN")):
            self._failed("not_serving")
            return StoreUnavailable(f"{self._address}: {text}")
        self._failed("refused")
        return StoreError(f"{self._address}, {about}: {text}")

    def _erased(self, user_id: str) -> None:
        self._cached.forget(user_id)
        for forget in self._forget:
            forget(user_id)

    def _check_server(self) -> None:
        try:
            info = self._ask(self._client.info, max(_START_S, self._write_s))
        except StoreUnavailable as error:
            if isinstance(error.__cause__, redis.AuthenticationError):
                raise StoreError(str(error)) from error
            _log.warning("%s; serving what needs no store until it answers", error)
            return
        version = tuple(map(int, str(info["redis_version"]).split(".")[:2]))
        if version < (6, 2):
            raise StoreError(f"{self._address} is of version {info['redis_version']}; 6.2 or newer is needed")
        policy = info.get("maxmemory_policy", "noeviction")
        if info.get("maxmemory") and policy != "noeviction":
            raise StoreError(f"{self._address} has maxmemory-policy {policy}, which drops users silently; set noeviction")
        if not info.get("aof_enabled"):
            _log.warning("%s keeps no append-only file: what was acknowledged since its last snapshot dies with it", self._address)


def _without_errors(replies: list[Any]) -> list[Any]:
    """Raises: redis.RedisError, the first among them."""
    for reply in replies:
        if isinstance(reply, redis.RedisError):
            raise reply
    return replies


def _keys(user_id: str) -> tuple[str, str, str, str, str]:
    """Body, tail, meta, seen, spare: in one slot of a cluster, told apart from every other user's whatever the ids hold."""
    tenant, _, user = user_id.rpartition("\x1f")
    name = f"dare:{{{_quoted(tenant)}:{_quoted(user)}}}"
    return f"{name}:b", f"{name}:t", f"{name}:m", f"{name}:d", f"{name}:x"


def _quoted(text: str) -> str:
    # What needs no quoting is seen five times as fast as quoted.
    return text if text.isascii() and text.isalnum() else quote(text, safe="")


def _user_of(key: bytes | str) -> str:
    text = key.decode() if isinstance(key, bytes) else key
    tenant, _, user = text[len("dare:{") : -len("}:m")].partition(":")
    return unquote(user) if not tenant else f"{unquote(tenant)}\x1f{unquote(user)}"


def _packed(behaviors: list[NewBehavior]) -> bytes:
    for behavior in behaviors:
        if not 0 <= behavior.timestamp < 2**32:
            raise ValueError(f"user {behavior.user_id!r}: timestamp {behavior.timestamp} is not in 0 to 2^32 - 1")
    rows = np.zeros(len(behaviors), RECORD)
    rows["item_hash"] = [behavior.item_hash for behavior in behaviors]
    rows["timestamp"] = [behavior.timestamp for behavior in behaviors]
    return rows.tobytes()


def _event(behavior: NewBehavior) -> bytes:
    return b"" if behavior.event_hash is None else behavior.event_hash.to_bytes(8, "little")
