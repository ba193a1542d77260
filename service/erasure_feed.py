"""The background work of a shared store: hears which users other processes erase, and finds out when the store is back."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import redis

from service.circuit_breaker import CircuitBreaker
from service.redis_connection import Resolved

CHANNEL = "dare:erased"
_POLL_S = 0.05
_PING_S = 1.0
_SILENT_S = 3.0
_log = logging.getLogger("dare.store")


class ErasureFeed:
    """Calls `erased(user_id)` for every user erased while subscribed. `step` is to be called again and again, by one thread.

    `since` (monotonic s) is when the current subscription began, or the last one where there is none now: what was read before may have
    been erased unheard. `lost_at` is when the last one ended.

    Args: `clock` monotonic seconds.
    """

    def __init__(
        self,
        client: redis.Redis,
        resolved: Resolved,
        breaker: CircuitBreaker,
        erased: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._resolved, self._breaker = client, resolved, breaker
        self._erased, self._clock = erased, clock
        self._subscription: redis.client.PubSub | None = None
        self._heard = self._pinged = -math.inf
        self.since, self.lost_at = math.inf, math.inf

    def step(self) -> float:
        """Subscribe, or wait a little for a message; returns the pause before the next step, s."""
        pause_s = 0.0
        try:
            self._listen()
        except (redis.RedisError, OSError) as error:
            self.close()
            if self.lost_at == math.inf:
                self.lost_at = self._clock()
                _log.warning("no connection for erasures, tried again every %.0f ms: %s", _POLL_S * 1e3, error)
            self._try_to_resolve()
            pause_s = _POLL_S
        # Also where no subscription succeeds: that must not keep a store away that answers.
        if self._breaker.is_open:
            self._probe()
        return pause_s

    def close(self) -> None:
        """Let go of the connection."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()

    def _listen(self) -> None:
        if self._subscription is None:
            self._subscription = self._client.pubsub()  # type: ignore[no-untyped-call]
            self._subscription.subscribe(CHANNEL)
            self._heard = self._pinged = self._clock()
        message = self._subscription.get_message(timeout=_POLL_S)
        now = self._clock()
        if message is not None:
            self._heard = now
            if message["type"] == "subscribe":
                self.since, self.lost_at = now, math.inf
                _log.info("hearing of erased users")
            elif message["type"] == "message":
                self._erased(message["data"].decode(errors="replace"))
        if now - self._heard > _SILENT_S:
            raise redis.ConnectionError(f"silent for {_SILENT_S:.0f} s")
        if now - self._pinged > _PING_S:
            self._pinged = now
            self._subscription.ping()

    def _probe(self) -> None:
        try:
            self._client.ping()
        except (redis.RedisError, OSError):
            return
        _log.info("the store answers again")
        self._breaker.succeeded()

    def _try_to_resolve(self) -> None:
        try:
            self._resolved.refresh()
        except OSError as error:
            _log.debug("the store's name is not found: %s", error)
