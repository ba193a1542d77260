"""The users of one batch, read in one exchange with the store where that is possible."""

from __future__ import annotations

from collections.abc import Sequence

from service.behavior_store import BehaviorSequence, BehaviorStore
from service.loading import Served
from service.models import Models


class BatchReads:
    """Reads `users` together when the first of them is asked for, in that request's thread and on its time; each of them once. Whoever the
    store could not answer for then, and whoever is asked for again, is read alone."""

    def __init__(self, store: BehaviorStore, models: Models, users: Sequence[str]) -> None:
        self._store, self._models = store, models
        self._users: Sequence[str] = users
        self._read = dict[str, BehaviorSequence]()
        self._erasures = dict[Served, int]()

    def read(self, user_id: str, model: Served) -> tuple[BehaviorSequence, int]:
        """The user's behaviors, and how many users the model had forgotten before they were read. Raises: StoreUnavailable."""
        if self._users:
            users, self._users = self._users, ()
            self._erasures = {served: served.users.erasures() for served in self._models.answering()}
            self._read = self._store.read_known(users)
        sequence = self._read.pop(user_id, None)
        if sequence is not None and model in self._erasures:
            return sequence, self._erasures[model]
        erasures = model.users.erasures()
        return self._store.read(user_id), erasures
