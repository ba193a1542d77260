"""Two workers, their caches and breakers, on one server that is broken in every way at once; seeded, in virtual time.

The store, the caches, the breaker and the feed are the real ones. The server runs the scripts' twins; clock, network and threads are
simulated, so that the seed alone decides what happens when. Whatever is read is compared with what the server held during that call.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from model.runtime import ScoringRuntime
from service.behavior_store import BehaviorSequence, NewBehavior, StoreFull, StoreUnavailable
from service.metrics import Metrics
from tests.service.simulated_scripts import SCRIPTS
from tests.service.simulated_server import Network, SimulatedServer
from tests.service.simulated_truth import Row, Truth
from tests.service.simulated_worker import STALE_S, USERS, Worker
from tests.service.virtual_time import VirtualTime

_OFTEN = ("u", "u", "u", "shop\x1fu", "rival\x1fu")
SILENT_S = 3.0
"""After which a worker knows that the other end of its subscription is gone."""
_PATIENCE_S = 30.0
_STORM_S = 1.0


class Broken(AssertionError):
    """A promise was broken; the message has the seed."""


class Simulation:
    """One seed. Args: `scripts` the server's, `again` what a caller sends after a call without an answer: both to be mutated."""

    def __init__(
        self,
        seed: int,
        runtime: ScoringRuntime,
        metrics: Metrics,
        scripts: dict[str, Callable[..., Any]] = SCRIPTS,
        again: Callable[[list[NewBehavior]], list[NewBehavior]] = lambda sent: sent,
    ) -> None:
        self.seed, self.runtime, self.metrics, self.again = seed, runtime, metrics, again
        self.chance = random.Random(seed)
        self.time = VirtualTime()
        self.truth = Truth(USERS, self.chance.choice([6, 60, 400, 400]), self.time.clock)
        self.server = SimulatedServer(self.time, self.truth.apply, scripts)
        self.network = Network(self.time, self.server, self.chance)
        self.counted = Counter[str]()
        self.workers: list[Worker] = []
        self._sent: list[list[NewBehavior]] = []
        self._item = self._calling = 0
        self._ended = False

    def run(self) -> Counter[str]:
        """Storm, heal, check, erase, check again; returns what happened how often. Raises: Broken."""
        self._as_tasks(lambda: self.workers.extend(Worker(self, name) for name in "AB"))
        storm = [self._caller] * 4 + [self._chaos]
        self._as_tasks(*storm, at_most_s=_PATIENCE_S)
        self.time.run(1.0)
        self._as_tasks(self._recovered)
        if self.chance.random() < 0.5:
            self._as_tasks(self._restarts)
        # A subscription whose other end vanished is noticed by its silence.
        self.time.run(SILENT_S + 1.0, until=lambda: len(self.server.subscribed) == len(self.workers))
        self.network.slow_s = 0.02
        self._as_tasks(*[self._erases, *[self._reads_meanwhile] * 3])
        self.time.run(1.0)
        self._as_tasks(self._erased)
        self._ended = True
        self.time.run(1.0)
        return self.counted + self.truth.destroyed

    def check(self, holds: bool, what: str, *details: Any) -> None:
        """Raises: Broken."""
        if not holds:
            raise Broken(f"seed {self.seed}, after {self.time.now - 1000:.3f} s: {what} {details if details else ''}")

    def repeat(self, step: Callable[[], float]) -> Callable[[], None]:
        """See `Surroundings.repeat`."""

        wanted, ended = [True], list[bool]()

        def steps() -> None:
            while wanted[0] and not self._ended:
                self.time.sleep(step())
            ended.append(True)

        def end() -> None:
            wanted[0] = False
            while not ended:
                self.time.sleep(0.001)

        self.time.start(steps)
        return end

    def _as_tasks(self, *work: Callable[[], None], at_most_s: float = _PATIENCE_S) -> None:
        left = [len(work)]

        def task(do: Callable[[], None]) -> None:
            do()
            left[0] -= 1

        for do in work:
            self.time.start(lambda do=do: task(do))  # type: ignore[misc]
        self.time.run(at_most_s, until=lambda: left[0] == 0)
        self.check(left[0] == 0, "somebody waits for ever")

    # What callers do.

    def _caller(self) -> None:
        self._calling += 1
        while self.time.now < 1000 + _STORM_S:
            self.time.sleep(self.chance.expovariate(1 / 0.02))
            worker, user = self.chance.choice(self.workers), self.chance.choice(_OFTEN)
            kind = self.chance.random()
            if kind < 0.4:
                self._append(worker, [behavior for who in self._some(user) for behavior in self._new(who)])
            elif kind < 0.5 and self._sent:
                self._append(worker, self.chance.choice(self._sent))
            elif kind < 0.53:
                self._delete(worker, user)
            elif kind < 0.56:
                self._load(worker, user)
            elif kind < 0.6:
                self._read_together(worker)
            else:
                self._read(worker, user)
        self._calling -= 1

    def _some(self, user: str) -> list[str]:
        return list(USERS) if self.chance.random() < 0.2 else [user]

    def _new(self, user: str) -> list[NewBehavior]:
        new, named = list[NewBehavior](), self.chance.random() < 0.9
        late = self.chance.random() < 0.12
        for _ in range(self.chance.randint(1, 5)):
            self._item += 1
            self.truth.owner[self._item] = user
            time = 1000 + self._item - (self.chance.choice([10, 1000]) * self.chance.randint(0, 1) if late else 0)
            new.append(NewBehavior(user, self._item, time, self._item if named else None))
        return new

    def _persists(self, worker: Worker, call: Callable[[Worker], Any], named: bool = True) -> Any:
        """Call until it is answered, on one worker or the other; None where nobody may try again."""
        while True:
            try:
                return call(worker)
            except (StoreUnavailable, StoreFull) as error:
                self.counted[type(error).__name__] += 1
                if not named:
                    return None
            finally:
                self.check(worker.store.breaker.is_open == worker.expects_open, "breaker open", worker.store.breaker.is_open)
            self.time.sleep(self.chance.expovariate(1 / 0.03))
            worker = self.chance.choice(self.workers)

    def _append(self, worker: Worker, behaviors: list[NewBehavior]) -> None:
        sent = [behaviors]

        def call(of: Worker) -> Any:
            now, sent[0] = sent[0], self.again(sent[0])
            return of.store.append(now)

        named = all(behavior.event_hash is not None for behavior in behaviors)
        appended = self._persists(worker, call, named)
        if appended is None:
            return
        self.counted["acknowledged"] += appended.accepted
        self.check(appended.accepted + appended.duplicates == len(behaviors), "counted", appended)
        missing = [behavior for behavior in behaviors if behavior.item_hash not in self.truth.applied]
        self.check(not missing, "acknowledged, but never stored", missing)
        self.check(not self.truth.doubled, "stored twice", self.truth.doubled)
        if named:
            self._sent.append(behaviors)
        if self.chance.random() < 0.5:
            self._read(self.chance.choice(self.workers), behaviors[0].user_id)

    def _load(self, worker: Worker, user: str) -> None:
        first, count = self._item + 1, self.chance.choice([1, 20, 70])
        self._item += count
        items, times = np.arange(first, first + count), 1000 + np.arange(first, first + count)
        if self.chance.random() < 0.5:
            # As often as it likes the same: what was inserted before it cannot be told by looking at it.
            items[:], times[:] = first, 1000 + first
        self.truth.owner.update(dict.fromkeys(items.tolist(), user))
        self._persists(worker, lambda of: of.store.load(user, items.astype(np.uint64), times))

    def _delete(self, worker: Worker, user: str) -> None:
        before = len(self.truth.history[user]) - 1
        erased = list[Worker]()

        def call(of: Worker) -> int:
            count = of.store.delete(user)
            of.users.forget(user)
            erased.append(of)
            return count

        count = self._persists(worker, call)
        by, lengths = erased[0], {len(version.rows) for version in self.truth.history[user][before:]}
        self.check(count in lengths | {0}, "behaviors erased", count, lengths)
        # Nothing waits between the answer and this line.
        by.bound[user] = max(by.bound[user], self.truth.latest(user, lambda version: version.erased))
        self.counted["erased users"] += 1

    def _read(self, worker: Worker, user: str) -> None:
        before, erasures = len(self.truth.history[user]) - 1, worker.users.erasures()
        try:
            sequence = worker.store.read(user)
        except StoreUnavailable:
            self._recall(worker, user)
            return
        finally:
            self.check(worker.store.breaker.is_open == worker.expects_open, "breaker open", worker.store.breaker.is_open)
        rows = self._checked(worker, user, sequence, before)
        if rows and self.chance.random() < 0.4:
            if self.chance.random() < 0.3:
                self.time.sleep(self.chance.choice([0.0005, 0.01]))
            known = len(rows) if self.chance.random() < 0.8 else self.chance.randint(1, len(rows))
            state = worker.users.state(user, sequence, known, erasures)
            prepared = list(zip(state.timestamp_L.tolist(), state.item_hash_L.tolist(), strict=True))
            self.check(prepared == rows[:known], "prepared from something else", worker.name, user, prepared, rows[:known])
            self.counted["prepared"] += 1

    def _read_together(self, worker: Worker) -> None:
        before = {user: len(self.truth.history[user]) - 1 for user in USERS}
        try:
            found = worker.store.read_known(USERS)
        except StoreUnavailable:
            return
        finally:
            self.check(worker.store.breaker.is_open == worker.expects_open, "breaker open", worker.store.breaker.is_open)
        for user, sequence in found.items():
            self._checked(worker, user, sequence, before[user])
        self.counted["read together"] += len(found)

    def _checked(self, worker: Worker, user: str, sequence: BehaviorSequence, before: int) -> list[Row]:
        """The rows of what was read, which the server held at some time since its version `before`."""
        rows, held = _rows(sequence), self.truth.history[user][before:]
        self.check(any(version.rows == rows for version in held), self._differs(user, rows), worker.name, user, rows, held[-1].rows)
        self.counted["read"] += 1
        return rows

    def _differs(self, user: str, rows: list[Row]) -> str:
        strangers = [item for _, item in rows if self.truth.owner.get(item) != user]
        if strangers:
            return f"another user's {strangers} read:"
        if any(version.rows == rows for version in self.truth.history[user]):
            return "what is gone was read:"
        return "never so held:"

    def _recall(self, worker: Worker, user: str) -> None:
        rows, now = _rows(worker.store.recall(user)), self.time.now
        self.counted["recalled" if rows else "nothing to recall"] += 1
        if not rows:
            return
        place = self.truth.latest(user, lambda version: version.rows == rows)
        self.check(place >= 0, f"recalled, {self._differs(user, rows)}", worker.name, user, rows)
        self.check(place >= worker.bound[user], "recalled after the erasure was heard", worker.name, user, rows)
        deaf_s = 0.0 if worker.deaf_since is None else now - worker.deaf_since
        self.check(deaf_s <= STALE_S, "recalled by a worker that has heard of no erasure for long", worker.name, deaf_s)

    # What befalls the server.

    def _chaos(self) -> None:
        chance, network = self.chance, self.network
        fates: list[Callable[[], None]] = [
            self._freezes, self._goes_away, *[self._fails_over] * 4, self._flushes, self._expires, self._fills, self._loses_listeners,
            self.server.known.clear, *[self._replicates] * 4, *[self._gets_worse] * 3,
        ]  # fmt: skip
        while self._calling and self.time.now < 1000 + _STORM_S:
            self.time.sleep(chance.expovariate(1 / 0.06))
            fate = chance.choice(fates)
            self.counted[getattr(fate, "__name__", "")] += 1
            fate()
        network.trouble = 0.0

    def _gets_worse(self) -> None:
        self.network.trouble = self.chance.choice([0.0, 0.05, 0.2, 0.5])

    def _freezes(self) -> None:
        self.network.frozen = True
        self.time.sleep(4.0 if self.chance.random() < 0.05 else self.chance.uniform(0.01, 0.4))
        self.network.thaw()

    def _goes_away(self) -> None:
        self.network.cut()
        self.network.reachable = False
        self.time.sleep(self.chance.uniform(0.01, 0.4))
        self.network.reachable = True

    def _replicates(self) -> None:
        self.server.replicate()
        self.truth.replicate()

    def _fails_over(self) -> None:
        if self.chance.random() < 0.7:
            self._replicates()
            self.time.sleep(self.chance.uniform(0.02, 0.2))
        self.network.cut()
        self.server.restore()
        self.truth.restore()
        self.server.skew_s = self.chance.uniform(-2, 2)

    def _flushes(self) -> None:
        self.server.flush()
        for user in USERS:
            self.truth.lose(user, "flushed")

    def _expires(self) -> None:
        user = self.chance.choice(USERS)
        tenant, _, own = user.rpartition("\x1f")
        self.server.keys.remove([name for name in self.server.keys.names() if name.startswith(f"dare:{{{tenant}:{own}}}:")])
        self.truth.lose(user, "expired")

    def _fills(self) -> None:
        self.server.keys.full = True
        self.time.sleep(self.chance.uniform(0.01, 0.2))
        self.server.keys.full = False

    def _loses_listeners(self) -> None:
        for subscription in self.server.subscribed:
            subscription.broken = True
        self.server.subscribed.clear()

    # What must hold in the end.

    def _recovered(self) -> None:
        for worker in self.workers:
            self.check(not worker.store.breaker.is_open, "the breaker stays open", worker.name)
            self.check(worker.store.available(), "not available", worker.name)
            for user in USERS:
                sequence = worker.store.read(user)
                self.check(_rows(sequence) == self.truth.now.rows[user], "in the end", worker.name, user, _rows(sequence))
            lengths = {user: len(rows) for user, rows in self.truth.now.rows.items() if rows}
            listed = {user: length for user, length in worker.store.users() if length}
            self.check(listed == lengths, "listed", listed, lengths)

    def _restarts(self) -> None:
        """Both workers end and others take their places: who has just started reads everybody whole."""
        for worker in self.workers:
            worker.store.close()
        self.workers = [Worker(self, worker.name) for worker in self.workers]

    def _erases(self) -> None:
        for user in self.chance.sample(USERS, len(USERS)):
            self.time.sleep(self.chance.uniform(0, 0.01))
            self._delete(self.chance.choice(self.workers), user)

    def _reads_meanwhile(self) -> None:
        for _ in range(self.chance.choice([1, 6])):
            worker, user = self.chance.choice(self.workers), self.chance.choice(USERS)
            if self.chance.random() < 0.3:
                self._append(worker, self._new(user))
            self._read(worker, user)

    def _erased(self) -> None:
        gone = [user for user in USERS if not self.truth.now.rows[user]]
        for worker in self.workers:
            for user in gone:
                self.check(not len(worker.store.recall(user)), "an erased user is remembered", worker.name, user)
                self.check(user not in worker.users._held, "an erased user stays prepared", worker.name, user)
            for user in USERS:
                self.check(_rows(worker.store.read(user)) == self.truth.now.rows[user], "after the erasures", worker.name, user)


def _rows(sequence: Any) -> list[Row]:
    return list(zip(sequence.timestamp.tolist(), sequence.item_hash.tolist(), strict=True))
