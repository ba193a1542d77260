"""How a model version comes into service: verified, loaded, warmed up, and given the users who were prepared for the one before."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from model.artifact import ArtifactError, current_version, fingerprint
from model.runtime import ScoringRuntime
from service.metrics import Metrics
from service.pace import Pace
from service.settings import Settings
from service.threads import Threads
from service.user_cache import UserCache
from service.verifier import Verifier

_log = logging.getLogger("dare.service")
_WARM_LENGTH, _WARM_CANDIDATES, _WARM_ROUNDS = 1000, 500, 3
_REST, _LONGEST_REST_S = 4.0, 0.5
"""Times what a step took, before the next one: a fifth of a core, so that requests find room beside it. A low priority would be no way out:
the event loop waits for whoever holds the interpreter, and who holds it waits for a processor (docs/adr/0018)."""
_LONG = 4096
"""Behaviors from which a user is prepared ahead: from about there on it costs as much as an answer. Others are left to the requests, which
spread them best."""
_LONGEST_S = 5.0
"""Time for the users of a version, after which the rest of them is left to their requests too."""
_LONGEST_FAREWELL_S = 1.0
"""Rests while users are let go of: the answer to an activation waits for that."""


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A loaded version with the users prepared for it. A request takes one and keeps it to its end, so no answer mixes versions; the
    version leaves memory with the last request that holds it."""

    runtime: ScoringRuntime
    users: UserCache
    pace: Pace

    @property
    def version(self) -> str:
        """The model version."""
        return self.runtime.version


class Loader:
    """Loads versions one after the other, in a thread of its own."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._verifier = Verifier(settings.artifacts)
        self._thread = Threads(1, "load")
        self._closed = threading.Event()

    def at_start(self, version: str | None) -> Served:
        """The version (None: that of `CURRENT`), verified here and now: nobody waits for this process yet. Raises: ArtifactError."""
        version = current_version(self._settings.artifacts) if version is None else version
        before = fingerprint(self._settings.artifacts, version)
        served = self._load(version, None, lambda: None)
        self._verifier.remember(version, before)
        return served

    async def loaded(self, version: str) -> Served:
        """The version, verified by a process of its own unless it was before, while requests are answered.

        Raises: ArtifactError, also where the settings ask for a backend that the version cannot be scored with.
        """
        return await self._thread.run(lambda: self._beside_requests(version))

    async def take_over(self, served: Served, before: Served, answers: Callable[[str], bool]) -> None:
        """Prepare for a version whom another has prepared, last used first, as far as the new one's limit and a few seconds allow.

        Args: `answers` whether the version is to answer for a user.
        """
        await self._thread.run(lambda: self._take_over(served.users, before.users, answers))

    async def let_go(self, served: Served) -> None:
        """Drop the users of a version that answers no new request: thousands of them take a while."""
        await self._thread.run(lambda: served.users.retire(self._rests(_LONGEST_FAREWELL_S)))

    def close(self) -> None:
        """End what is under way, and the thread."""
        self._closed.set()
        self._verifier.close()
        self._thread.close()

    def _rests(self, together_s: float = math.inf) -> Callable[[], None]:
        """What rests as long as the work since it last did asks for, until its rests have taken `together_s`."""
        worked_from = time.perf_counter()

        def rest() -> None:
            nonlocal worked_from, together_s
            rest_s = min(_REST * (time.perf_counter() - worked_from), _LONGEST_REST_S, max(0.0, together_s))
            self._closed.wait(rest_s)
            together_s -= rest_s
            worked_from = time.perf_counter()

        return rest

    def _beside_requests(self, version: str) -> Served:
        verified = self._verifier.verified(version)
        try:
            return self._load(version, verified, self._rests())
        except ArtifactError:
            raise
        except (ValueError, RuntimeError) as error:
            raise ArtifactError(f"{version}: {error}") from error

    def _load(self, version: str, verified: str | None, rest: Callable[[], None]) -> Served:
        settings, started = self._settings, time.perf_counter()
        runtime = ScoringRuntime.load(
            settings.artifacts, version, search=settings.search_backend, ranking=settings.ranking_backend, verified=verified, rest=rest
        )
        rest()
        pace = Pace()
        warm_up(runtime, pace, rest)
        _log.info("loaded %s in %.3f s", version, time.perf_counter() - started)
        return Served(runtime, UserCache(runtime, settings.user_cache_bytes, self._metrics), pace)

    def _take_over(self, users: UserCache, before: UserCache, answers: Callable[[str], bool]) -> None:
        until, count, rest = time.monotonic() + _LONGEST_S, 0, self._rests()
        for user_id in before.last_used_first(_LONG):
            if not answers(user_id):
                continue
            if time.monotonic() > until or self._closed.is_set() or not users.take_over(user_id, before):
                break
            count += 1
            rest()
        _log.info("%d users were prepared ahead", count)


def warm_up(runtime: ScoringRuntime, pace: Pace, rest: Callable[[], None]) -> None:
    """Score a made-up user until nothing is left to be done for the first time, and note what it costs.

    Args: `rest` is called after each round.
    Raises: ArtifactError when the scores are not finite.
    """
    known = runtime.catalogue.item_hash
    item_hash = np.resize(known, _WARM_LENGTH) if len(known) else np.zeros(_WARM_LENGTH, np.uint64)
    timestamp = np.arange(runtime.as_of - _WARM_LENGTH, runtime.as_of, dtype=np.int64)
    for _ in range(_WARM_ROUNDS):
        started = time.perf_counter()
        state = runtime.prepare(item_hash, timestamp)
        prepare_ms = (time.perf_counter() - started) * 1e3
        scored = runtime.score(state, item_hash[:_WARM_CANDIDATES], runtime.as_of)
        if not np.isfinite(scored.click_probability_N).all():
            raise ArtifactError(f"{runtime.version}: the scores of a made-up user are not finite")
        rest()
    # The first rounds paid for what is done once; the last one is what a request costs.
    pace.prepared(_WARM_LENGTH, prepare_ms)
    pace.scored(_WARM_LENGTH, _WARM_CANDIDATES, scored.search_ms, scored.rank_ms)
