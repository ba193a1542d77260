"""The background thread of a shared store: hears which users other processes erase, and finds out when the store is back."""

from __future__ import annotations

import logging
import math
import threading
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
    """Calls `erased(user_id)` for every user erased while subscribed.

    `since` (monotonic s) is when the current subscription began, or the last one where there is none now: what was read before may have
    been erased unheard. `lost_at` is when the last one ended.
    """

    def __init__(self, client: redis.Redis, resolved: Resolved, breaker: CircuitBreaker, erased: Callable[[str], None]) -> None:
        self._client, self._resolved, self._breaker = client, resolved, breaker
        self._erased = erased
        self._stop = threading.Event()
        self.since, self.lost_at = math.inf, math.inf
        self._thread = threading.Thread(target=self._run, name="store-feed", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._client.pubsub() as subscription:  # type: ignore[no-untyped-call]
                    self._listen(subscription)
            except (redis.RedisError, OSError) as error:
                if self.lost_at == math.inf:
                    self.lost_at = time.monotonic()
                    _log.warning("no connection for erasures, tried again every %.0f ms: %s", _POLL_S * 1e3, error)
                self._stop.wait(_POLL_S)
                self._try_to_resolve()

    def _listen(self, subscription: redis.client.PubSub) -> None:
        subscription.subscribe(CHANNEL)
        heard = pinged = time.monotonic()
        while not self._stop.is_set():
            message = subscription.get_message(timeout=_POLL_S)
            now = time.monotonic()
            if message is not None:
                heard = now
                if message["type"] == "subscribe":
                    self.since, self.lost_at = now, math.inf
                    _log.info("hearing of erased users")
                elif message["type"] == "message":
                    self._erased(message["data"].decode())
            if now - heard > _SILENT_S:
                raise redis.ConnectionError(f"silent for {_SILENT_S:.0f} s")
            if now - pinged > _PING_S:
                pinged = now
                subscription.ping()
            if self._breaker.is_open:
                self._probe()

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
