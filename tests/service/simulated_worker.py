"""One process of a simulation: the real store, cache, breaker and feed, and what is to be expected of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.redis_connection import Deadlines, RedisAddress, Resolved
from service.redis_store import RedisStore
from service.surroundings import Surroundings
from service.user_cache import UserCache
from tests.service.simulated_server import SimulatedClient

if TYPE_CHECKING:
    from tests.service.simulation import Simulation

USERS = ("u", "shop\x1fu", "rival\x1fu")
OPEN_AFTER_S, STALE_S = 0.1, 0.15


class Worker:
    """One process: a store, a cache of prepared users, and what is to be expected of its breaker and of what it recalls.

    `bound` is the place in a user's history before which nothing may be recalled any more: this worker was told of an erasure.
    """

    def __init__(self, world: Simulation, name: str) -> None:
        self.world, self.name = world, name
        self.bound = dict.fromkeys(USERS, 0)
        self.expects_open, self._failing_since, self._succeeded_at = False, None, 0.0
        self.deaf_since: float | None = None
        chance, truth = world.chance, world.truth
        self.users = UserCache(world.runtime, chance.choice([0, 9_000, *[2**30] * 4]), world.metrics)
        self.store = RedisStore(
            "redis://127.0.0.1",
            cache_bytes=chance.choice([0, 600, *[2**27] * 4]),
            stale_s=STALE_S,
            max_length=truth.longest,
            surroundings=Surroundings(world.time.clock, self._connect, world.repeat),
        )
        self.store.on_erased(self.users.forget)

    def _connect(self, address: RedisAddress, resolved: Resolved, deadlines: Deadlines, connections: int, timeout_s: float) -> Any:
        client = SimulatedClient(self.world.network, deadlines, timeout_s)
        client.ended, client.heard, client.deaf = self._ended, self._heard, self._deaf
        return client

    def _ended(self, began: float, failed: bool) -> None:
        now = self.world.time.now
        if not failed:
            self.expects_open, self._failing_since, self._succeeded_at = False, None, now
            return
        if self._failing_since is None:
            self._failing_since = max(began, self._succeeded_at)
        self.expects_open = self.expects_open or now - self._failing_since >= OPEN_AFTER_S

    def _deaf(self) -> None:
        if self.deaf_since is None:
            self.deaf_since = self.world.time.now

    def _heard(self, message: dict[str, Any]) -> None:
        truth, until = self.world.truth, message.get("at_s", 0.0)
        if message["type"] == "message":
            user = message["data"].decode()
            self.bound[user] = max(self.bound[user], truth.latest(user, lambda version: version.erased and version.at_s <= until))
        elif message["type"] == "subscribe":
            self.deaf_since = None
            for user in USERS:
                self.bound[user] = max(self.bound[user], truth.latest(user, lambda version: version.at_s <= until))
