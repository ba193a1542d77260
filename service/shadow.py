"""Shadow scoring: another version scores what was answered already, when there is time to spare, and only the difference is kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import numpy as np

from model.user_state import UserState
from service.admission import Admission, Deadline
from service.behavior_store import U64
from service.loading import Served
from service.metrics import Metrics
from service.models import Models
from service.threads import Threads

_log = logging.getLogger("dare.service")


class Shadow:
    """Compares the shadow version's scores with the answered ones. It never waits for a permit and never delays an answer.

    Args: `prepared` gives the stored user's state under a version, as of a time.
    """

    def __init__(
        self,
        models: Models,
        metrics: Metrics,
        admission: Admission,
        threads: Threads,
        prepared: Callable[[Served, str, int], UserState],
    ) -> None:
        self._models, self._metrics = models, metrics
        self._admission, self._threads = admission, threads
        self._prepared = prepared
        self._running = set[asyncio.Task[None]]()

    def compare(self, user: str, candidates: U64, timestamp: int, answered: list[float]) -> None:
        """Compare an answer, if this user is among those compared and a thread is free."""
        model = self._models.shadow_of(user)
        if model is None:
            return
        if not self._admission.idle:
            self._metrics.shadow.labels("skipped").inc()
            return
        task = asyncio.create_task(self._compared(model, user, candidates, timestamp, np.array(answered)))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _compared(self, model: Served, user: str, candidates: U64, timestamp: int, answered: np.ndarray) -> None:
        def work() -> np.ndarray:
            return model.runtime.score(self._prepared(model, user, timestamp), candidates, timestamp).click_probability_N

        try:
            async with self._admission.permit(Deadline(None, 0.0)):
                scores = await self._threads.run(work)
        except Exception as error:
            self._metrics.shadow.labels("failed").inc()
            _log.warning("shadow %s could not score: %r", model.version, error)
            return
        self._metrics.shadow.labels("compared").inc()
        self._metrics.shadow_difference.observe(float(np.abs(scores - answered).mean()))

    async def finished(self) -> None:
        """Wait for what runs."""
        await asyncio.gather(*self._running)
