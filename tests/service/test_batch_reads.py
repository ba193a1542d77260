"""The users of a batch are read together, and nothing else differs from reading each."""

from __future__ import annotations

from collections.abc import Sequence

from service.batch_reads import BatchReads
from service.behavior_store import BehaviorSequence
from service.memory_store import MemoryStore
from service.settings import Settings
from tests.conftest import Tiny
from tests.service.conftest import NOW, Server, filled_store


class CountingStore(MemoryStore):
    """Knows every user but the last one asked for together, and what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.together, self.alone = list[Sequence[str]](), list[str]()

    def read_known(self, user_ids: Sequence[str]) -> dict[str, BehaviorSequence]:
        self.together.append(list(user_ids))
        return {user_id: super(CountingStore, self).read(user_id) for user_id in user_ids[:-1]}

    def read(self, user_id: str) -> BehaviorSequence:
        self.alone.append(user_id)
        return super().read(user_id)


def test_a_batch_reads_its_users_once_and_scores_as_each_alone(tiny: Tiny) -> None:
    store, plain = CountingStore(), filled_store(tiny, users=4)
    for user, _ in plain.users():
        sequence = plain.read(user)
        store.load(user, sequence.item_hash, sequence.timestamp)
    server = Server(Settings(artifacts=tiny.artifacts), store)
    try:
        users = [*tiny.log.user_id[:3], "nobody", tiny.log.user_id[0], tiny.log.user_id[3]]
        asks = [{"user_id": user, "candidates": ["item-1", "item-2"], "timestamp": NOW} for user in users]
        alone = [server.client.post("/v1/score", json=ask).json()["scores"] for ask in asks]
        store.alone.clear()
        answers = server.client.post("/v1/score:batch", json={"requests": [*asks, {"user_id": "\x00", "candidates": ["item-1"]}]}).json()
    finally:
        server.stop()
    assert [answer["answer"]["scores"] for answer in answers["answers"][:-1]] == alone
    assert answers["answers"][-1]["status"] == 422
    assert store.together == [[*users[:4], users[5]]]
    assert store.alone == [users[4], users[5]], "whoever is asked for again, and whom the store did not know"


def test_who_is_erased_while_a_batch_runs_is_not_kept(server: Server, tiny: Tiny) -> None:
    first, second = "batch-first", "batch-second"  # other tests erase users of the server that they share
    given = filled_store(tiny, users=1).read(tiny.log.user_id[0])
    for user in (first, second):
        server.store.load(user, given.item_hash, given.timestamp)
    model, reads = server.models.active, BatchReads(server.store, server.models, [first, second])
    reads.read(first, model)
    model.users.forget(second)
    sequence, erasures = reads.read(second, model)
    model.users.state(second, sequence, len(sequence), erasures)
    assert len(sequence) and not model.users.holds(second, sequence, len(sequence))
