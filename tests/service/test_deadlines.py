"""Time that runs out: less history rather than no answer, queued work ends with its caller, odd clocks change no order."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from model.item_hash import hash_item_ids
from model.runtime import ScoringRuntime
from service.behavior_store import BehaviorSequence
from service.memory_store import MemoryStore
from service.pace import Pace
from service.settings import Settings
from tests.conftest import Tiny
from tests.patience import PATIENCE_S, until
from tests.service.conftest import NOW, Server

CANDIDATES = [f"item-{i}" for i in range(100)]


def test_what_fits_into_the_time_left() -> None:
    pace = Pace()
    assert pace.longest(0.001, 100_000, 500, ready=False, least=50) == 100_000, "nothing is known yet"
    pace.scored(10_000, 500, search_ms=50.0, rank_ms=5.0)  # 10 ns a pair, 10 us a candidate
    pace.prepared(10_000, 10.0)  # 1 us a behavior
    assert pace.longest(1.0, 100_000, 500, ready=True, least=50) == 100_000
    assert pace.longest(0.1, 100_000, 500, ready=True, least=50) == 12_500, "80 ms planned, 5 of them to rank, 6 us a behavior"
    assert pace.longest(0.1, 10_000, 500, ready=False, least=50) == 10_000
    assert pace.longest(0.0, 100_000, 500, ready=True, least=50) == 50
    assert pace.longest(0.0, 20, 500, ready=True, least=50) == 20
    pace.scored(10, 10, search_ms=50.0, rank_ms=50.0)
    assert pace.longest(0.1, 100_000, 500, ready=True, least=50) == 12_500, "a small request tells little about a large one"


@contextmanager
def long_user(tiny: Tiny, length: int) -> Iterator[tuple[Server, list[str]]]:
    store, rng = MemoryStore(), np.random.default_rng(1)
    items = [f"item-{i}" for i in rng.integers(0, 300, length)]
    store.load("long", hash_item_ids(items), np.arange(NOW - length, NOW, dtype=np.int64))
    server = Server(Settings(artifacts=tiny.artifacts), store)
    try:
        yield server, items
    finally:
        server.stop()


def test_near_the_deadline_the_newest_behaviors_answer_and_it_is_said(tiny: Tiny) -> None:
    with long_user(tiny, 5000) as (server, items):
        ask = {"user_id": "long", "candidates": CANDIDATES, "timestamp": NOW}
        whole = server.client.post("/v1/score", json=ask | {"budget_ms": 60_000}).json()
        assert (whole["degraded"], whole["sequence_length_used"]) == (False, 5000)
        for _ in range(200):  # a machine that has become slow: 1000 behaviors take 10 s
            server.models.active.pace.scored(5000, 100, search_ms=50_000.0, rank_ms=1.0)
        short = server.client.post("/v1/score", json=ask | {"budget_ms": 10_000}).json()
        used = short["sequence_length_used"]
        assert short["degraded"] and short["degraded_reason"] == "budget" and short["sequence_length"] == 5000
        assert 500 < used < 900
        newest = [{"item_id": item, "timestamp": NOW - used + i} for i, item in enumerate(items[-used:])]
        inline = server.client.post("/v1/score", json={"behaviors": newest, "candidates": CANDIDATES, "timestamp": NOW}).json()
        np.testing.assert_allclose(short["scores"], inline["scores"], atol=1e-6)
        recommended = server.client.post("/v1/recommend", json={"user_id": "long", "timestamp": NOW, "budget_ms": 10_000}).json()
        assert recommended["degraded_reason"] == "budget" and 0 < recommended["sequence_length_used"] < 5000
        unhurried = server.client.post("/v1/score", json=ask).json()
        assert unhurried["scores"] == whole["scores"] and not unhurried["degraded"]
        assert 'dare_degraded_total{reason="budget"} 2.0' in server.client.get("/metrics").text


@pytest.mark.faults
def test_half_the_time_is_enough_for_an_answer(tiny: Tiny, figure: Callable[[int, str], None]) -> None:
    with long_user(tiny, 100_000) as (server, _):
        ask = {"user_id": "long", "candidates": CANDIDATES * 5, "timestamp": NOW}
        server.client.post("/v1/score", json=ask).raise_for_status()
        whole = [server.client.post("/v1/score", json=ask).elapsed.total_seconds() for _ in range(5)]
        budget_ms = int(np.median(whole) * 500)
        answers = [server.client.post("/v1/score", json=ask | {"budget_ms": budget_ms}) for _ in range(20)]
        good = [answer.json() for answer in answers if answer.status_code == 200]
        short = [answer["sequence_length_used"] for answer in good if answer["degraded"]]
        took = np.median([answer.elapsed.total_seconds() for answer in answers]) * 1e3
        figure(
            15,
            f"half the time of 100,000 behaviors ({budget_ms} ms): {len(good)} of 20 answered, {len(short)} of them degraded "
            f"with p50 {np.median(short or [0]):,.0f} behaviors, p50 {took:.0f} ms",
        )
        assert len(good) >= 19
        assert short


class CountingStore(MemoryStore):
    """A store whose reads are counted, and held until told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()

    def read(self, user_id: str) -> BehaviorSequence:
        self.reads += 1
        self.begun.release()
        assert self.go_on.wait(PATIENCE_S)
        return super().read(user_id)


def half_leave(tiny: Tiny, count: int) -> tuple[int, int, int]:
    """Queue `count` requests behind a held one, and let every second caller go; returns reads, answers, and descriptors left over."""
    store = CountingStore()
    server = Server(Settings(artifacts=tiny.artifacts, inference_threads=1, queue_wait_ms=60_000, queue_length=count), store)
    host, port = server.client.base_url.host, server.client.base_url.port
    body = json.dumps({"user_id": "u", "candidates": ["item-1"]}).encode()
    request = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def metric(text: str) -> None:
        until(lambda: text in server.client.get("/metrics").text)

    try:
        metric("dare_model_info")
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the folder changes while it is listed
        callers = []
        for place in range(count + 1):
            callers.append(socket.create_connection((host, port), timeout=60))
            callers[-1].sendall(request)
            if place == 0:
                assert store.begun.acquire(timeout=60)
        metric(f'dare_waiting{{work="score"}} {float(count)}')
        for caller in callers[1::2]:
            caller.close()
        metric(f'dare_refused_total{{reason="client_gone",work="score"}} {float(len(callers[1::2]))}')
        store.go_on.set()
        answered = 0
        for caller in callers[::2]:
            with caller:
                answered += caller.recv(65_536).startswith(b"HTTP/1.1 200")
        metric('dare_in_flight{work="score"} 0.0')
        deadline = time.monotonic() + 20
        while (left := len(os.listdir("/proc/self/fd")) - before) > 0 and time.monotonic() < deadline:  # noqa: PTH208
            pass
        return store.reads, answered, left
    finally:
        store.go_on.set()
        server.stop()


def test_queued_work_ends_with_its_caller(tiny: Tiny) -> None:
    assert half_leave(tiny, 40) == (21, 21, 0)


@pytest.mark.faults
def test_half_of_400_callers_leave(tiny: Tiny, figure: Callable[[int, str], None]) -> None:
    reads, answered, left = half_leave(tiny, 400)
    figure(12, f"200 of 400 queued callers left: {reads} scored (201 asked to the end), {answered} answered, {left} descriptors left over")
    assert (reads, answered, left) == (201, 201, 0)


def test_a_clock_that_goes_wrong_hides_behaviors_and_breaks_nothing(tiny: Tiny, figure: Callable[[int, str], None]) -> None:
    now = [float(NOW)]
    server = Server(Settings(artifacts=tiny.artifacts), MemoryStore(), clock=lambda: now[0])
    try:

        def post(timestamp: int) -> None:
            new = {"user_id": "u", "item_id": f"item-{timestamp % 300}", "timestamp": timestamp}
            server.client.post("/v1/behaviors", json={"behaviors": [new]}).raise_for_status()

        def used(**more: Any) -> list[float]:
            answer = (
                server.client.post("/v1/score", json={"user_id": "u", "candidates": ["item-1", "item-2"]} | more).raise_for_status().json()
            )
            assert all(0 < score < 1 for score in answer["scores"])
            return [answer["sequence_length"], answer["sequence_length_used"], *answer["scores"]]

        for step in range(10):
            post(NOW - 100 + step)
        right = used()
        assert right[:2] == [10, 10]
        now[0] = NOW - 95.5  # the server's clock falls back: what is later than it is not yet known
        assert used()[:2] == [10, 5]
        now[0] = -5.0  # before 1970
        assert used()[:2] == [10, 0]
        now[0] = 2.0**40
        assert used()[:2] == [10, 10]
        now[0] = NOW
        assert used() == right, "nothing of the wrong times is remembered"
        post(NOW + 3600)  # a caller whose clock is an hour ahead
        assert used()[:2] == [11, 10]
        assert used(timestamp=NOW + 3600)[:2] == [11, 11]
        post(NOW)
        assert used()[:2] == [12, 11]
        listed = server.client.get("/v1/users/u/behaviors").json()["behaviors"]
        times = [behavior["timestamp"] for behavior in listed]
        assert times == sorted(times, reverse=True)
        figure(16, "clock 95 s back, before 1970 and 35,000 years ahead, callers an hour ahead: order kept, nothing remembered, no error")
    finally:
        server.stop()


def test_the_oracle_agrees_at_every_length(tiny: Tiny, server: Server, figure: Callable[[int, str], None]) -> None:
    exact = ScoringRuntime.load(tiny.artifacts, search="reference", ranking="reference")
    kept, rng, largest = exact.max_kept, np.random.default_rng(3), 0.0
    lengths = (0, 1, kept - 1, kept, kept + 1, 63, 1000, 100_000, 100_001)
    for length in lengths:
        items, user = hash_item_ids([f"item-{i}" for i in rng.integers(0, 300, length)]), f"oracle-{length}"
        times = np.sort(rng.integers(NOW - 10**7, NOW, length))
        server.store.load(user, items, times)
        given = server.client.post("/v1/score", json={"user_id": user, "candidates": CANDIDATES[:5], "timestamp": NOW}).json()
        assert given["sequence_length_used"] == min(length, 100_000)
        # Of 100,001 behaviors the oldest is gone.
        state = exact.prepare(items[-100_000:], times[-100_000:])
        expected = exact.score(state, hash_item_ids(CANDIDATES[:5]), NOW).click_probability_N
        largest = max(largest, float(np.abs(np.array(given["scores"]) - expected).max()))
        server.store.delete(user)
    figure(
        15,
        f"behaviors {', '.join(f'{length:,}' for length in lengths)}: largest difference from the float64 oracle {largest:.1e} (<= 1e-5)",
    )
    assert largest <= 1e-5
