"""What callers store, list and erase of a user's behaviors. Work on the store runs in threads of its own, never on the event loop."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from model.item_hash import hash_item_id
from service.admission import Admission, Deadline
from service.auth import Caller
from service.behavior_store import Appended, BehaviorSequence, BehaviorStore, NewBehavior
from service.call import Call
from service.errors import Problem, shown
from service.metrics import Metrics
from service.models import Models
from service.schemas import BehaviorsRequest, StoredBehavior, UserBehaviorsAnswer, id_text
from service.settings import Settings
from service.threads import Threads

Result = TypeVar("Result")
_CONSIDERED = 100_000


class UserBehaviors:
    """The store behind its limits."""

    def __init__(
        self,
        settings: Settings,
        models: Models,
        store: BehaviorStore,
        metrics: Metrics,
        admission: Admission,
    ) -> None:
        self._settings = settings
        self._models = models
        self._store = store
        self._metrics = metrics
        self._admission = admission
        self._threads = Threads(settings.store_threads, "store")

    async def append(self, request: BehaviorsRequest, call: Call) -> Appended:
        """Store the posted behaviors, all or nothing. Raises: Problem, StoreFull."""
        limit, count = self._settings.max_posted_behaviors, len(request.behaviors)
        if count > limit:
            raise Problem(422, f"at most {limit} behaviors, got {count}", pointer="/behaviors")
        appended = await self._with_store(lambda: self._append(request, call), call)
        self._metrics.behaviors.labels("accepted").inc(appended.accepted)
        self._metrics.behaviors.labels("duplicate").inc(appended.duplicates)
        return appended

    async def listed(self, caller: Caller, user_id: str, limit: int, before: int | None, skip: int, request_id: str) -> UserBehaviorsAnswer:
        """The user's newest behaviors before a time, newest first, after leaving out the newest `skip` of them."""

        def work() -> UserBehaviorsAnswer:
            sequence = self._store.read(caller.user(user_id))
            end = len(sequence) if before is None else int(np.searchsorted(sequence.timestamp, before, side="left"))
            end = max(0, end - skip)
            listed = [self._stored(sequence, place) for place in range(end - 1, max(-1, end - 1 - limit), -1)]
            return UserBehaviorsAnswer(request_id, user_id, len(sequence), listed)

        return await self._with_store(work)

    async def delete(self, user_id: str) -> int:
        """Erase everything held about the user, named as the store does; returns the behaviors erased. Raises: StoreFull."""

        def work() -> int:
            erased = self._store.delete(user_id)
            self._models.forget(user_id)
            return erased

        return await self._with_store(work)

    async def longest(self, caller: Caller, prefix: str, limit: int) -> list[tuple[str, int]]:
        """Up to `limit` of the caller's users whose id begins with `prefix`, longest histories first among the first 100,000."""

        def work() -> list[tuple[str, int]]:
            own = ((caller.own(user), length) for user, length in self._store.users())
            users = itertools.islice(((user, length) for user, length in own if user and user.startswith(prefix)), _CONSIDERED)
            return heapq.nlargest(limit, users, key=lambda user: (user[1], user[0]))

        return await self._with_store(work)

    def close(self) -> None:
        """Finish what runs, then let go of the threads and the store."""
        self._threads.close()
        self._store.close()

    async def _with_store(self, work: Callable[[], Result], call: Call | None = None) -> Result:
        async with self._admission.permit(Deadline(None, 0.0), None if call is None else call.gone) as waited_ms:
            if call is not None:
                call.stages.queue = waited_ms
            return await self._threads.run(work)

    def _append(self, request: BehaviorsRequest, call: Call) -> Appended:
        new, began = self._checked(request, call.caller), time.perf_counter()
        appended = self._store.append(new)
        call.stages.store = (time.perf_counter() - began) * 1e3
        return appended

    def _checked(self, request: BehaviorsRequest, caller: Caller) -> list[NewBehavior]:
        new, count = [], dict[str, int]()
        for place, posted in enumerate(request.behaviors):
            user_id = id_text(posted.user_id, f"/behaviors/{place}/user_id")
            count[user_id] = count.get(user_id, 0) + 1
            item_hash = hash_item_id(id_text(posted.item_id, f"/behaviors/{place}/item_id"))
            event = posted.event_id
            event_hash = None if event is None else hash_item_id(id_text(event, f"/behaviors/{place}/event_id"))
            new.append(NewBehavior(caller.user(user_id), item_hash, posted.timestamp, event_hash))
        most = max(count, key=lambda user_id: count[user_id])
        limit = self._settings.max_posted_per_user
        if count[most] > limit:
            raise Problem(422, f"at most {limit} behaviors for one user, got {count[most]} for {shown(most)}", pointer="/behaviors")
        return new

    def _stored(self, sequence: BehaviorSequence, place: int) -> StoredBehavior:
        item_hash = int(sequence.item_hash[place])
        timestamp = int(sequence.timestamp[place])
        runtime = self._models.active.runtime
        return StoredBehavior(runtime.item_id(item_hash), str(item_hash), timestamp, runtime.item_text(item_hash))
