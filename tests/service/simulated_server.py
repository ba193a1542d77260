"""A store's server, and the network between it and the workers, in virtual time: late, lost, cut, frozen, failed over, emptied."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import redis

from service.redis_connection import Deadlines
from tests.service.simulated_scripts import SCRIPTS, Keys
from tests.service.virtual_time import Expected, TaskLocal, VirtualTime

Command = tuple[Any, ...]
Applied = Callable[[str, Sequence[Any]], None]
_NAME_OF = {sha1(files("service").joinpath("lua", f"{name}.lua").read_bytes()).hexdigest(): name for name in SCRIPTS}
_UNIX_S = 1_700_000_000.0


class SimulatedServer:
    """Executes commands, one at a time. `applied` is told the name and the arguments of every script that changed something, just after.

    `scripts` are the twins that run; `failover` and `empty` are what a real one may do to what it has acknowledged.
    """

    def __init__(self, time: VirtualTime, applied: Applied, scripts: dict[str, Callable[..., Any]]) -> None:
        self._time, self._applied, self._scripts = time, applied, scripts
        self.skew_s = 0.0
        self.keys = Keys(time_us=self._time_us, publish=self._publish)
        self.known = set[str]()
        self.subscribed: list[SimulatedSubscription] = []
        self.backup = self._copied()

    def _time_us(self) -> int:
        return int((_UNIX_S + self._time.now + self.skew_s) * 1e6)

    def _publish(self, channel: str, message: str) -> None:
        for subscription in self.subscribed:
            subscription.send({"type": "message", "data": message.encode(), "at_s": self._time.now})

    def _copied(self) -> Keys:
        held = self.keys
        return Keys(
            string=dict(held.string),
            hash=dict(held.hash),  # its values are replaced, never changed
            ranked={name: dict(known) for name, known in held.ranked.items()},
            expires=dict(held.expires),
            time_us=self._time_us,
            publish=self._publish,
        )

    def replicate(self) -> None:
        """What a failover, or a start after a crash, brings back is what is held now."""
        self.backup = self._copied()

    def restore(self) -> None:
        """Lose what came after `replicate`, and the scripts."""
        full = self.keys.full
        self.keys = self.backup
        self.keys.full = full
        self.known.clear()
        self.replicate()

    def flush(self) -> None:
        """FLUSHALL."""
        self.keys.remove(self.keys.names())

    def execute(self, command: Command) -> Any:
        """One command. Raises: redis.ResponseError."""
        name, *arguments = command
        keys = self.keys
        known: dict[str, Callable[..., Any]] = {
            "EVAL": lambda *rest: self._script("EVAL", *rest),
            "EVALSHA": lambda *rest: self._script("EVALSHA", *rest),
            "HMGET": lambda key, *fields: list(map(keys.hash.get(key, {}).get, fields)),
            "HGET": lambda key, field: keys.hash.get(key, {}).get(field),
            "GET": keys.string.get,
            "SCAN": lambda: (0, [key.encode() for key in keys.hash]),
            "INFO": lambda: {"redis_version": "8.1.0", "aof_enabled": 1},
            "PING": lambda: True,
        }
        return known[name](*arguments)

    def _script(self, how: str, script: str, count: int, *rest: Any) -> Any:
        sha = script if how == "EVALSHA" else sha1(script.encode()).hexdigest()
        if how == "EVALSHA" and sha not in self.known:
            raise redis.exceptions.NoScriptError("No matching script.")
        self.known.add(sha)
        name = _NAME_OF[sha]
        reply = self._scripts[name](self.keys, rest[:count], rest[count:])
        self._applied(name, rest[count:])
        return reply


@dataclass
class Fate:
    """What becomes of a call: it reaches the server after `there_s` (None: never) with the first `share` of its commands, the reply comes
    `back_s` later (None: never), or the connection breaks after `broken_s` (None: it does not)."""

    there_s: float | None
    back_s: float | None
    broken_s: float | None = None
    share: float = 1.0


class Network:
    """Between the workers and one server. `trouble` is the share of calls to which something happens, `slow_s` how late a reply may be
    otherwise; `reachable` False refuses every
    connection; `frozen` lets them in and answers nothing until `thaw`."""

    def __init__(self, time: VirtualTime, server: SimulatedServer, chance: random.Random) -> None:
        self.time, self.server, self._chance = time, server, chance
        self.trouble = self.slow_s = 0.0
        self.reachable, self.frozen = True, False
        self._era = 0
        self._waiting: list[Callable[[], None]] = []
        self._under_way: dict[int, Expected] = {}
        self._answered = set[int]()

    def cut(self) -> None:
        """Break every connection: what was under way to the server never arrives."""
        self._era += 1
        self._waiting.clear()
        for number, expected in list(self._under_way.items()):
            # A reply that has left the server may still arrive.
            if number not in self._answered or self._chance.random() < 0.5:
                expected.deliver(redis.ConnectionError("Connection reset by peer"))
        for subscription in self.server.subscribed:
            # A peer that vanished without a word is noticed by its silence alone.
            subscription.broken = self._chance.random() < 0.7
        self.server.subscribed.clear()

    def thaw(self) -> None:
        """A server that was stopped goes on with all that was sent to it meanwhile, whoever still waits for it."""
        self.frozen = False
        waiting, self._waiting = self._waiting, []
        self._chance.shuffle(waiting)
        for do in waiting:
            do()

    def fate(self) -> Fate:
        """What becomes of the next call."""
        chance = self._chance
        there_s, back_s = chance.uniform(1e-4, 1e-3), chance.uniform(1e-4, 1e-3) + chance.random() ** 2 * self.slow_s
        if chance.random() >= self.trouble:
            return Fate(there_s, back_s)
        slow_s = chance.choice([0.01, 0.05, 0.3]) * chance.random()
        return chance.choice(
            [
                Fate(None, None),
                Fate(None, None, broken_s=slow_s),
                Fate(there_s + slow_s, back_s),
                Fate(there_s, back_s + slow_s),
                Fate(there_s, None),
                Fate(there_s, None, broken_s=there_s + slow_s),
                Fate(there_s, None, broken_s=there_s + slow_s, share=chance.random()),
            ]
        )

    def message_s(self) -> float:
        """How long a published message is under way."""
        return self._chance.uniform(1e-4, 1e-3) + (self._chance.random() * 0.02 if self._chance.random() < self.trouble else 0.0)

    def call(self, commands: Sequence[Command], together: bool, seconds: float) -> list[Any]:
        """The replies, errors of the server among them. Raises: redis.ConnectionError, redis.TimeoutError."""
        if not self.reachable:
            self.time.sleep(self._chance.uniform(1e-5, 1e-3))
            raise redis.ConnectionError("Connection refused")
        fate, expected, era = self.fate(), Expected(self.time), self._era
        if fate.broken_s is not None:
            self.time.after(fate.broken_s, lambda: expected.deliver(redis.ConnectionError("Connection reset by peer")))

        def served() -> None:
            arrived = commands if together else commands[: round(fate.share * len(commands))]
            replies = list(map(self._replied, arrived))
            if fate.back_s is not None and len(replies) == len(commands):
                self._answered.add(id(expected))
                self.time.after(fate.back_s, lambda: expected.deliver(replies))

        def arrive() -> None:
            if era == self._era:
                (self._waiting.append if self.frozen else lambda do: do())(served)  # type: ignore[func-returns-value]

        if fate.there_s is not None:
            self.time.after(fate.there_s, arrive)
        self._under_way[id(expected)] = expected
        come = expected.wait(seconds)
        del self._under_way[id(expected)]
        self._answered.discard(id(expected))
        if not come:
            raise redis.TimeoutError("Timeout reading from socket")
        if isinstance(come[0], Exception):
            raise come[0]
        return list(come[0])

    def _replied(self, command: Command) -> Any:
        try:
            return self.server.execute(command)
        except redis.ResponseError as error:
            return error


class SimulatedSubscription:
    """What `redis.Redis.pubsub` gives. Messages of one connection arrive in order."""

    def __init__(self, client: SimulatedClient) -> None:
        self._client, self._network = client, client.network
        self._messages: list[Any] = []
        self._expected: Expected | None = None
        self._last_s = 0.0
        self.broken = False

    def subscribe(self, channel: str) -> None:
        """SUBSCRIBE; its confirmation is a message."""
        self._client.plainly(("PING",))
        self._network.server.subscribed.append(self)
        self.send({"type": "subscribe", "data": 1, "at_s": self._network.time.now})

    def ping(self) -> None:
        """PING, answered by a message where the server still is at the other end."""
        if self in self._network.server.subscribed and not self._network.frozen:
            self.send({"type": "pong", "data": b""})

    def send(self, message: dict[str, Any]) -> None:
        """From the server's end."""
        time = self._network.time
        self._last_s = max(self._last_s, time.now + self._network.message_s())
        time.after(self._last_s - time.now, lambda: self._arrived(message))

    def _arrived(self, message: dict[str, Any]) -> None:
        self._messages.append(message)
        if self._expected is not None:
            self._expected.deliver(None)

    def get_message(self, timeout: float) -> dict[str, Any] | None:
        """The next message within so many seconds. Raises: redis.ConnectionError."""
        if not self._messages and not self.broken:
            self._expected = Expected(self._network.time)
            self._expected.wait(timeout)
        if self.broken:
            self._client.deaf()
            raise redis.ConnectionError("Connection closed by server")
        if not self._messages:
            return None
        message: dict[str, Any] = self._messages.pop(0)
        self._client.heard(message)
        return message

    def close(self) -> None:
        """Leave."""
        if self in self._network.server.subscribed:
            self._network.server.subscribed.remove(self)


class SimulatedClient:
    """The part of `redis.Redis` that the store uses. `ended(began, failed)` is told of every call; `heard` of every published
    message, `deaf` when none comes any more."""

    def __init__(self, network: Network, deadlines: Deadlines, timeout_s: float) -> None:
        self.network, self._deadlines, self._timeout_s = network, deadlines, timeout_s
        deadlines._local = TaskLocal()  # type: ignore[assignment]
        self.ended: Callable[[float, bool], None] = lambda began, failed: None
        self.heard: Callable[[dict[str, Any]], None] = lambda message: None
        self.deaf: Callable[[], None] = lambda: None
        self.connection_pool = SimpleNamespace(disconnect=lambda: None)

    def exchange(self, commands: Sequence[Command], together: bool = False) -> list[Any]:
        """See `Network.call`; within the deadline of the calling task."""
        began = self.network.time.now
        try:
            replies = self.network.call(commands, together, self._deadlines.left_s())
        except (redis.ConnectionError, redis.TimeoutError):
            self.ended(began, True)
            raise
        self.ended(began, False)
        return replies

    def plainly(self, command: Command) -> Any:
        """A command outside any deadline."""
        return self.network.call([command], True, self._timeout_s)[0]

    def _one(self, command: Command) -> Any:
        (reply,) = self.exchange([command])
        if isinstance(reply, Exception):
            raise reply
        return reply

    def ping(self) -> bool:
        """PING, within a deadline or of the background; one of the latter that fails is nobody's call."""
        if self._deadlines.left_s() < math.inf:
            return bool(self._one(("PING",)))
        began = self.network.time.now
        self.plainly(("PING",))
        self.ended(began, False)
        return True

    def info(self) -> Any:
        """INFO."""
        return self._one(("INFO",))

    def scan(self, cursor: int, match: str, count: int) -> Any:
        """SCAN."""
        return self._one(("SCAN",))

    def register_script(self, text: str) -> SimpleNamespace:
        """The script's digest."""
        return SimpleNamespace(sha=sha1(text.encode()).hexdigest())

    def pubsub(self) -> SimulatedSubscription:
        """A subscription to be."""
        return SimulatedSubscription(self)
