"""Every store against a plain model under arbitrary steps; above all what the cache of prepared users relies on: epochs."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from service.behavior_store import BehaviorSequence, BehaviorStore, NewBehavior
from service.file_store import FileStore
from service.memory_store import MemoryStore
from service.redis_store import RedisStore
from tests.service.redis_server import PATIENCE_S, GivenServer, RedisServer

MAX_LENGTH = 6
USERS = ("a", "b")
users = st.sampled_from(USERS)
times = st.integers(0, 9)
posted = st.builds(NewBehavior, users, st.integers(0, 2**64 - 1), times, st.none() | st.integers(0, 4))

Row = tuple[int, int]


def rows(sequence: BehaviorSequence) -> list[Row]:
    return list(zip(sequence.timestamp.tolist(), sequence.item_hash.tolist(), strict=True))


class StoreStates(RuleBasedStateMachine):
    """The memory store; `held` and `events` are what it must hold, `seen` what was read with its epoch and rows as they were then."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = self.open()
        self.held = dict[str, list[Row]]()
        self.events = dict[str, set[int]]()
        self.seen = list[tuple[str, BehaviorSequence, list[Row]]]()

    def open(self) -> BehaviorStore:
        return MemoryStore(MAX_LENGTH)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(behaviors=st.lists(posted, max_size=5))
    def append(self, behaviors: list[NewBehavior]) -> None:
        duplicates = 0
        for new in behaviors:
            events = self.events.setdefault(new.user_id, set())
            if new.event_hash in events:
                duplicates += 1
                continue
            if new.event_hash is not None:
                events.add(new.event_hash)
            self.hold(new.user_id, [*self.held.get(new.user_id, []), (new.timestamp, new.item_hash)])
        outcome = self.store.append(behaviors)
        assert (outcome.accepted, outcome.duplicates) == (len(behaviors) - duplicates, duplicates)

    @rule(user=users, loaded=st.lists(times, max_size=9).map(sorted))
    def load(self, user: str, loaded: list[int]) -> None:
        self.events.pop(user, None)
        self.hold(user, [(time, place) for place, time in enumerate(loaded)])
        count = self.store.load(user, np.arange(len(loaded), dtype=np.uint64), np.array(loaded, dtype=np.int64))
        assert count == len(self.held[user])

    @rule(user=users)
    def delete(self, user: str) -> None:
        self.events.pop(user, None)
        assert self.store.delete(user) == len(self.held.pop(user, []))

    def hold(self, user: str, found: list[Row]) -> None:
        self.held[user] = sorted(found, key=lambda row: row[0])[-MAX_LENGTH:]

    @invariant()
    def what_is_read_is_what_was_stored(self) -> None:
        assert dict(self.store.users()) == {user: len(held) for user, held in self.held.items()}
        for user in USERS:
            sequence = self.store.read(user)
            assert rows(sequence) == self.held.get(user, [])
            for whose, earlier, as_read in self.seen:
                assert rows(earlier) == as_read, "what was read changed afterwards"
                if whose == user and earlier.epoch == sequence.epoch:
                    gone = sequence.start - earlier.start
                    assert gone >= 0 and rows(sequence)[: max(0, len(as_read) - gone)] == as_read[gone:], "same epoch, but not a beginning"
            self.seen.append((user, sequence, rows(sequence)))


class FileStoreStates(StoreStates):
    """The file store, which moreover may be opened again at any time."""

    def open(self) -> BehaviorStore:
        return FileStore(self.folder, MAX_LENGTH)

    @precondition(lambda self: self.seen)
    @rule()
    def open_again(self) -> None:
        self.store.close()
        self.store = self.open()
        self.seen.clear()


def connected(server: RedisServer | GivenServer) -> RedisStore:
    return RedisStore(server.url, read_s=30, write_s=30, max_length=MAX_LENGTH)


class RedisStoreStates(StoreStates):
    """The shared store, as one process writes and another reads; the server may forget its scripts."""

    server: RedisServer | GivenServer
    reader: RedisStore

    def open(self) -> BehaviorStore:
        # The reader stays from one example to the next, with all that it remembers of users who are gone.
        self.server.client.flushdb()
        return connected(self.server)

    @rule()
    def forget_scripts(self) -> None:
        self.server.client.script_flush()

    @invariant()
    def another_process_reads_the_same(self) -> None:
        for user in USERS:
            here, there = self.store.read(user), self.reader.read(user)
            assert rows(here) == rows(there) and (here.epoch, here.start) == (there.epoch, there.start)

    @invariant()
    def nothing_is_left_over(self) -> None:
        assert len(self.server.client.keys()) <= 4 * len(self.held)


def test_redis_store_states(redis_server: RedisServer | GivenServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is stored is tested here, not how soon: the process may not be given a second of the machine for a second.
    monkeypatch.setattr("service.redis_store._SCAN_S", PATIENCE_S)
    RedisStoreStates.server, RedisStoreStates.reader = redis_server, connected(redis_server)
    run_state_machine_as_test(RedisStoreStates, settings=settings(max_examples=40, stateful_step_count=30))
    RedisStoreStates.reader.close()


@pytest.mark.faults
def test_5_000_steps_of_every_store(
    redis_server: RedisServer | GivenServer, monkeypatch: pytest.MonkeyPatch, figure: Callable[[int, str], None]
) -> None:
    monkeypatch.setattr("service.redis_store._SCAN_S", PATIENCE_S)
    RedisStoreStates.server, RedisStoreStates.reader = redis_server, connected(redis_server)
    steps = Counter[str]()
    for states in (StoreStates, FileStoreStates, RedisStoreStates):

        class Counted(states):  # type: ignore[misc, valid-type]
            @invariant()
            def what_is_read_is_what_was_stored(self) -> None:
                super().what_is_read_is_what_was_stored()
                steps[states.__name__] += 1  # noqa: B023 - called within this turn

        while steps[states.__name__] < 5_000:
            run_state_machine_as_test(Counted, settings=settings(settings.get_profile("anew"), max_examples=100, stateful_step_count=25))
    RedisStoreStates.reader.close()
    counted = ", ".join(
        f"{steps[states.__name__]:,} {name}"
        for states, name in zip((StoreStates, FileStoreStates, RedisStoreStates), ("in memory", "on file", "on the server"), strict=True)
    )
    figure(17, f"model-based steps (duplicates, out of order, late, trimmed, loaded, erased): {counted}; none differs from the model")


TestMemoryStoreStates = StoreStates.TestCase
TestMemoryStoreStates.settings = settings(max_examples=60, stateful_step_count=30)
TestFileStoreStates = FileStoreStates.TestCase
TestFileStoreStates.settings = settings(max_examples=40, stateful_step_count=30)
