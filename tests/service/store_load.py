"""Callers of a service whose store is being broken: they score, and post each behavior until it is acknowledged."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import numpy as np

from model.item_hash import hash_item_id
from service.app import open_store
from service.behavior_store import BehaviorSequence, BehaviorStore, StoreUnavailable
from service.settings import Settings
from tests.conftest import Tiny
from tests.patience import until
from tests.service.conftest import Server

USERS = 6
CANDIDATES = [f"item-{i}" for i in range(50)]


@contextmanager
def service_on(tiny: Tiny, url: str, **settings: object) -> Iterator[Server]:
    """A service on the store of a URL, with the settings that users get but for patience in the queue: four callers on a busy machine are
    no overload, and a 503 would be taken for the store's."""
    chosen = Settings(artifacts=tiny.artifacts, store=url, queue_wait_ms=60_000, **settings)  # type: ignore[arg-type]
    running = Server(chosen, open_store(url, chosen))
    try:
        yield running
    finally:
        running.stop()


@dataclass(frozen=True)
class Answer:
    """One answer to a score request: when it was sent (monotonic s), how long it took, what came."""

    at: float
    ms: float
    status: int
    degraded: bool
    length: int


@dataclass
class Load:
    """Scoring and posting callers. `acknowledged[user]` are the event numbers answered with 200, in order; `refused` counts the 503s that
    said when to come back; `answers` those to score requests."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    acknowledged: list[list[int]] = field(default_factory=lambda: [[] for _ in range(USERS)])
    refused: int = 0
    broken: list[str] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Two callers score and two post until the end of the block; what they post last is acknowledged before it is left."""
        self._end = threading.Event()
        threads = [threading.Thread(target=self._score, args=(part,)) for part in range(2)]
        threads += [threading.Thread(target=self._post, args=(part,)) for part in range(2)]
        for thread in threads:
            thread.start()
        self._given_up = False
        try:
            yield
        except BaseException:
            self._given_up = True  # the test has failed: nobody will mend the store
            raise
        finally:
            self._end.set()
            for thread in threads:
                thread.join()
        assert not self.broken, self.broken

    def during(self, begin: float, end: float) -> list[Answer]:
        """Answers to requests sent in this time."""
        return [answer for answer in self.answers if begin <= answer.at < end]

    def posted(self) -> int:
        """Acknowledged behaviors."""
        return sum(map(len, self.acknowledged))

    def until_posted(self, more: int) -> None:
        """Wait for so many more acknowledged behaviors."""
        target = self.posted() + more
        until(lambda: self.posted() >= target or self.broken)

    def until_scored(self, more: int) -> None:
        """Wait for so many more answers to score requests."""
        target = len(self.answers) + more
        until(lambda: len(self.answers) >= target or self.broken)

    def until_whole(self) -> None:
        """Wait for an answer from the whole history."""
        began = time.monotonic()
        until(lambda: any(answer.at > began and not answer.degraded for answer in self.answers[-10:]) or self.broken)

    def until_remembered(self, store: BehaviorStore) -> None:
        """Wait until the service can score every user without asking its store."""
        until(lambda: all(len(store.recall(f"user{user}")) for user in range(USERS)) or self.broken)

    def _score(self, part: int) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            step = 0
            while not self._end.wait(0.004):
                step += 1
                user, sent = (part + step * 2) % USERS, time.monotonic()
                ask = {"user_id": f"user{user}", "candidates": CANDIDATES, "timestamp": 2_000_000_000}
                answer = client.post("/v1/score", json=ask)
                took, body = (time.monotonic() - sent) * 1e3, answer.json()
                self.answers.append(
                    Answer(sent, took, answer.status_code, body.get("degraded", False), body.get("sequence_length_used", -1))
                )

    def _post(self, part: int) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            event = 0
            while not self._end.wait(0.002):
                event += 1
                user = part + 2 * (event % (USERS // 2))
                posted = {
                    "user_id": f"user{user}", "item_id": str(event), "timestamp": 1_600_000_000 + event, "event_id": str(event)
                }  # fmt: skip
                while (answer := client.post("/v1/behaviors", json={"behaviors": [posted]})).status_code != 200:
                    if self._given_up:
                        return
                    if answer.status_code != 503 or "Retry-After" not in answer.headers:
                        self.broken.append(f"{answer.status_code}: {answer.text}")
                        return
                    self.refused += 1
                    time.sleep(0.01)
                self.acknowledged[user].append(event)

    def lost_and_doubled(self, store: BehaviorStore) -> tuple[int, int]:
        """Acknowledged behaviors that the store does not hold, and those that it holds more than once; the rest must be in order."""
        lost = doubled = 0
        for user, events in enumerate(self.acknowledged):
            held = read_patiently(store, f"user{user}")
            wanted = {hash_item_id(str(event)) for event in events}
            found, count = np.unique(held.item_hash, return_counts=True)
            lost += len(wanted - set(found.tolist()))
            doubled += int((count - 1).sum())
            assert (np.diff(held.timestamp) >= 0).all()
        return lost, doubled


def read_patiently(store: BehaviorStore, user_id: str) -> BehaviorSequence:
    """What the store reads as soon as it answers in time: a busy machine may miss its 25 ms now and then."""
    found: list[BehaviorSequence] = []

    def read() -> bool:
        try:
            found.append(store.read(user_id))
        except StoreUnavailable:
            return False
        return True

    until(read)
    return found[0]


def p99(answers: list[Answer]) -> float:
    """99th percentile of the times, ms."""
    return float(np.percentile([answer.ms for answer in answers], 99))
