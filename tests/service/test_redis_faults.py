"""Replies late, cut, swallowed or of a server that lost something: never another user's data, never twice, never what is gone."""

from __future__ import annotations

import random
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest

from service.behavior_store import NewBehavior, StoreFull, StoreUnavailable
from service.redis_store import RedisStore
from tests.patience import until
from tests.service.fault_proxy import NONE, Fault, FaultProxy
from tests.service.redis_server import RedisServer

Figure = Callable[[int, str], None]
Row = tuple[int, int]
quick_and_long = pytest.mark.parametrize("behaviors", [1_000, pytest.param(10_000, marks=pytest.mark.faults)])


@pytest.fixture
def broken() -> Iterator[RedisServer]:
    """A server of the test's own, which syncs every write."""
    with closing(RedisServer()) as server:
        yield server


@pytest.fixture
def proxy(broken: RedisServer) -> Iterator[FaultProxy]:
    """What stands between."""
    with closing(FaultProxy(broken.port)) as between:
        yield between


def rows(store: RedisStore, user: str) -> list[Row]:
    sequence = store.read(user)
    return list(zip(sequence.timestamp.tolist(), sequence.item_hash.tolist(), strict=True))


def faults(seed: int, share: float) -> Callable[[], Fault]:
    """A share of the replies is held back, dripped, cut, swallowed or ended by a reset; the connection then closes, or stays silent."""
    random_, lock = random.Random(seed), threading.Lock()

    def fault() -> Fault:
        with lock:
            if random_.random() >= share:
                return NONE
            return random_.choice(
                [
                    Fault(delay_s=random_.uniform(0.01, 0.1)),
                    Fault(drip_s=0.002),
                    Fault(keep=random_.random(), end=random_.choice(["close", "reset", "silence"])),
                    Fault(keep=0, end=random_.choice(["close", "reset", "silence"])),
                ]
            )

    return fault


@quick_and_long
def test_retries_of_ambiguous_appends_store_each_behavior_once(
    broken: RedisServer, proxy: FaultProxy, figure: Figure, behaviors: int
) -> None:
    threads, kinds = 8, Counter[str]()
    # What a reply may take is the long form's to bound: beside the rest of the suite most would come too late.
    write_s = 0.05 if behaviors > 1_000 else 0.2
    sent: dict[str, list[Row]] = {f"u{user}": [] for user in range(threads * 3)}
    unacknowledged = 0
    with closing(RedisStore(proxy.url, write_s=write_s, connections=threads, failed=lambda kind: kinds.update([kind]))) as store:
        proxy.fault = faults(6, 0.3)

        def post(part: int) -> int:
            random_, refused = random.Random(part), 0
            mine = [f"u{part * 3 + user}" for user in range(3)]
            for first in range(0, behaviors // threads, 5):
                user = random_.choice(mine)
                # Its own items; mostly in order, some late.
                items = [part * behaviors + first + place for place in range(5)]
                batch = [NewBehavior(user, item, 1000 + item - random_.choice([0, 0, 0, 40]), item) for item in items]
                while True:
                    try:
                        store.append(batch)
                        break
                    except StoreUnavailable:
                        refused += 1
                        time.sleep(0.001)
                sent[user] += [(new.timestamp, new.item_hash) for new in batch]
            return refused

        with ThreadPoolExecutor(threads) as callers:
            unacknowledged = sum(callers.map(post, range(threads)))
        proxy.fault = lambda: NONE
    with closing(RedisStore(broken.url, read_s=30)) as checked:
        for user, posted in sent.items():
            # Order is (time, arrival): what arrived in one call and has one time keeps its order.
            assert rows(checked, user) == sorted(posted, key=lambda row: row[0])
    assert kinds["timeout"] > 5 and kinds["connection"] > 5, kinds
    figure(6, f"{sum(map(len, sent.values()))} behaviors by 8 threads, {unacknowledged} calls without an answer; each stored exactly once")


@quick_and_long
def test_a_reply_never_reaches_another_user(broken: RedisServer, proxy: FaultProxy, figure: Figure, behaviors: int) -> None:
    users, kinds = 12, Counter[str]()
    acknowledged = [0] * users
    with closing(RedisStore(broken.url, write_s=30)) as writer, ThreadPoolExecutor(4) as callers:
        for user in range(users):
            writer.load(f"u{user}", np.full(500, user, np.uint64), np.arange(500))
        with closing(RedisStore(proxy.url, connections=4, failed=lambda kind: kinds.update([kind]))) as store:
            proxy.fault = faults(3, 0.2)

            def read(part: int) -> tuple[int, int, int]:
                random_, answered, longest, step = random.Random(part), 0, 0.0, 0
                # A busy machine answers fewer in time and takes longer, not less.
                while step < behaviors // 4 or answered < behaviors // 80:
                    step += 1
                    user = random_.randrange(users)
                    known = 500 + acknowledged[user]
                    began = time.monotonic()
                    try:
                        sequence = store.read(f"u{user}")
                        assert len(sequence) >= known
                        answered += 1
                    except StoreUnavailable:
                        sequence = store.recall(f"u{user}")
                    longest = max(longest, time.monotonic() - began)
                    time.sleep(0.001)  # an open breaker answers at once
                    assert set(sequence.item_hash.tolist()) <= {user}, "another user's"
                    if step % 10 == part:
                        mine = part * 3 + step % 3
                        writer.append([NewBehavior(f"u{mine}", mine, 1000 + step, None)])
                        acknowledged[mine] += 1
                return answered, round(longest * 1e3), step

            counted = list(callers.map(read, range(4)))
            proxy.fault = lambda: NONE
            for user in range(users):
                while True:
                    try:
                        assert len(store.read(f"u{user}")) == 500 + acknowledged[user]
                        break
                    except StoreUnavailable:
                        time.sleep(0.001)
    answered = sum(answers for answers, _, _ in counted)
    assert kinds["timeout"] > 5 and kinds["connection"] > 5, kinds
    longest = max(slowest for _, slowest, _ in counted)
    asked = sum(steps for _, _, steps in counted)
    figure(3, f"{answered} of {asked} reads answered amid {kinds.total()} failed calls, none with another's data; longest {longest} ms")


def test_a_dripping_reply_ends_at_the_deadline(broken: RedisServer, proxy: FaultProxy) -> None:
    with closing(RedisStore(proxy.url)) as store:
        store.load("u", np.arange(1000, dtype=np.uint64), np.arange(1000))
        proxy.fault = lambda: Fault(drip_s=0.005)
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"deadline|timed out"):
            store.read("u")
        # 16,000 bytes at 5 ms each would take 80 s, and no single wait is longer than 5 ms.
        assert time.monotonic() - began < 10.0


def test_forgotten_scripts_and_everything_else_forgotten(broken: RedisServer, figure: Figure) -> None:
    with closing(RedisStore(broken.url, write_s=30, read_s=30)) as one, closing(RedisStore(broken.url, write_s=30, read_s=30)) as other:
        new = [NewBehavior(f"u{user}", place, place, place) for user in range(5) for place in range(100)]
        for _ in range(3):
            broken.client.script_flush()
            one.append(new)
            assert all(len(other.read(f"u{user}")) == 100 for user in range(5)), "healed, nothing doubled"
        broken.client.flushall()
        assert all(len(store.read("u1")) == 0 for store in (one, other))
        one.append([NewBehavior("u1", 1000 + place, place, place) for place in range(100)])
        assert [item for _, item in rows(other, "u1")] == list(range(1000, 1100)), "as many as before, but others"
        assert len(rows(other, "u2")) == 0
        figure(5, "SCRIPT FLUSH: healed within the call, nothing doubled; FLUSHALL: 500 lost with the server, nothing stale read")


def test_an_asynchronous_failover(broken: RedisServer, proxy: FaultProxy, figure: Figure) -> None:
    """The replica is promoted without the newest 40 behaviors; others come first, so that the sequence is longer than before."""
    broken.client.config_set("repl-diskless-sync-delay", 0)
    with (
        closing(RedisServer(replicaof=f"127.0.0.1 {broken.port}")) as replica,
        closing(RedisStore(proxy.url, read_s=5, write_s=30)) as store,
    ):
        posted = [NewBehavior("u", place, place, place) for place in range(300)]
        store.append(posted[:260])
        until(
            lambda: replica.client.info("replication").get("slave_repl_offset") == broken.client.info("replication")["master_repl_offset"]
        )
        replica.client.execute_command("REPLICAOF", "NO", "ONE")
        store.append(posted[260:])
        assert len(store.read("u")) == 300
        proxy.upstream = replica.port
        broken.kill()
        until(store.available)
        lost = 300 - len(store.read("u"))
        assert rows(store, "u") == [(place, place) for place in range(260)] and lost == 40, "what the server has, not what was read before"
        store.append([NewBehavior("u", 1000 + place, 400 + place, 1000 + place) for place in range(50)])
        assert [item for _, item in rows(store, "u")][255:] == [*range(255, 260), *range(1000, 1050)]
        assert store.append(posted[260:]).accepted == 40 and store.append(posted[260:]).duplicates == 40
        assert [item for _, item in rows(store, "u")] == [*range(300), *range(1000, 1050)]
        figure(
            5,
            f"failover to a replica {lost} behind: {lost} lost with the server, nothing stale, sent again: stored once",
        )


def test_a_longer_history_after_a_failover_is_not_taken_for_a_continuation(broken: RedisServer) -> None:
    with closing(RedisStore(broken.url, read_s=30, write_s=30)) as store:
        store.append([NewBehavior("u", place, place, None) for place in range(20)])
        before = {key: broken.client.dump(key) for key in broken.client.scan_iter()}
        store.append([NewBehavior("u", 100 + place, 100 + place, None) for place in range(5)])
        assert len(store.read("u")) == 25
        for key, content in before.items():
            broken.client.restore(key, 0, content, replace=True)
        with closing(RedisStore(broken.url, read_s=30, write_s=30)) as other:
            other.append([NewBehavior("u", 200 + place, 200 + place, None) for place in range(9)])
        assert [item for _, item in rows(store, "u")] == [*range(20), *range(200, 209)]


def test_a_full_disk_and_a_read_only_replica_refuse_behaviors_and_are_read(figure: Figure) -> None:
    with closing(RedisServer(appendfsync="everysec")) as server, closing(RedisStore(server.url, read_s=30, write_s=30)) as store:
        store.append([NewBehavior("u", 1, 1, 1)])
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, hard))
        step, refused = 0, ""
        while not refused:
            step += 1
            assert step < 100_000
            try:
                store.append([NewBehavior("v", step, step, step)])
            except StoreFull as error:
                refused = str(error)
        assert "MISCONF" in refused and rows(store, "u") == [(1, 1)]
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))

        def stored() -> bool:
            try:
                return store.append([NewBehavior("u", 2, 2, 2)]).accepted == 1
            except StoreFull:
                return False

        until(stored)
        server.client.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StoreUnavailable, match=r"READONLY|read only"):
            store.append([NewBehavior("u", 3, 3, 3)])
        assert rows(store, "u") == [(1, 1), (2, 2)] and store.available()
        server.client.execute_command("REPLICAOF", "NO", "ONE")
        assert store.append([NewBehavior("u", 3, 3, 3)]).accepted == 1
        figure(19, "disk full: refused with 503 (MISCONF), read on, taken again by itself; read-only: 503, read on")
