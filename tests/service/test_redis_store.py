"""What the shared store promises beyond the contract: its bytes, its keys, what it fetches, whom it forgets, which servers it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import pytest

from service.behavior_store import REMEMBERED_EVENTS, NewBehavior, StoreError
from service.commands.capacity import capacity
from service.redis_store import RedisStore
from tests.patience import until
from tests.service.redis_server import GivenServer, RedisServer

AnyServer = RedisServer | GivenServer


@pytest.fixture
def opened(redis_server: AnyServer) -> Iterator[Any]:
    """Opens stores on the server, as so many processes would; with patience, since deadlines have tests of their own."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(closing(RedisStore(redis_server.url, **{"read_s": 30.0, "write_s": 30.0} | options)))


def grown(store: RedisStore, user: str, length: int, batch: int = 100, first: int = 0, events: bool = True) -> None:
    """A history posted little by little."""
    for start in range(first, first + length, batch):
        places = range(start, min(start + batch, first + length))
        store.append([NewBehavior(user, place, 1_600_000_000 + place, place if events else None) for place in places])


def stored_bytes(server: AnyServer) -> int:
    return sum(server.client.memory_usage(key, samples=0) for key in server.client.scan_iter())


@pytest.mark.parametrize(("length", "most"), [(1_000, 20.0), (10_000, 18.0), (100_000, 16.5)])
def test_bytes_of_a_behavior_in_a_history_that_grew(redis_server: AnyServer, opened: Any, length: int, most: float) -> None:
    grown(opened(), "u", length)
    assert stored_bytes(redis_server) / length <= most
    encodings = {key[-1:]: redis_server.client.object("encoding", key) for key in redis_server.client.scan_iter()}
    assert encodings[b"m"] == encodings[b"d"] == b"listpack", "past 128 members the set would take 20 times the memory"
    assert redis_server.client.zcard("dare:{:u}:d") == REMEMBERED_EVENTS


@pytest.mark.parametrize(("users", "length", "events"), [(400, 100, True), (100, 600, True), (50, 3000, False), (5, 20_000, True)])
def test_the_calculator_agrees_with_a_server(users: int, length: int, events: bool) -> None:
    with closing(RedisServer(appendonly="no")) as server, closing(RedisStore(server.url, read_s=30, write_s=30, ttl_s=10**6)) as store:

        def used() -> int:
            memory = server.client.info("memory")
            return int(memory["used_memory"]) - int(memory["mem_clients_normal"])

        grown(store, "warm", 1)
        store.delete("warm")
        before = used()
        for user in range(users):
            item = np.random.default_rng(user).integers(0, 2**63, length)
            for start in range(0, length, 100):
                store.append(
                    [
                        NewBehavior(f"user-{user:08d}", int(item[place]), 1_600_000_000 + place, int(item[place]) if events else None)
                        for place in range(start, min(start + 100, length))
                    ]
                )
        assert used() - before == pytest.approx(capacity(users, length, events, 0).stored_bytes, rel=0.1)


def test_a_read_fetches_only_what_is_new(redis_server: AnyServer, opened: Any) -> None:
    writer, reader = opened(), opened()
    writer.load("u", np.arange(100_000, dtype=np.uint64), np.arange(100_000) + 1_600_000_000)
    assert len(reader.read("u")) == 100_000

    def sent() -> int:
        return int(redis_server.client.info("stats")["total_net_output_bytes"])

    for new in (1, 100, 900):
        length = len(writer.read("u")) + new
        grown(writer, "u", new, batch=new, first=length + 100_000)
        before = sent()
        # Past the longest history the beginning is left out, and that costs no byte either.
        assert reader.read("u").item_hash[-1] == length + 100_000 + new - 1
        assert sent() - before < 16 * new + 12_000, "INFO itself sends some of it"


def test_users_read_together_cost_one_exchange(redis_server: AnyServer, opened: Any) -> None:
    store, users = opened(), [f"u{place}" for place in range(60)]

    def exchanges() -> int:
        return int(redis_server.client.info("stats")["total_reads_processed"])

    for user in users:
        grown(store, user, 100)
        assert len(store.read(user)) == 100
    costs = []
    for _ in range(5):
        before = exchanges()
        together = store.read_known(users)
        costs.append(exchanges() - before)
        assert {len(together[user]) for user in users} == {100}
    assert min(costs) < 10, "INFO asks too, and so does the feed, the more often the slower the machine"
    assert store.read_known(["u1", "a stranger"]).keys() == {"u1"}, "who is not held is to be read whole, alone"


def test_sequences_are_kept_within_their_limit(opened: Any) -> None:
    store = opened(cache_bytes=50_000)
    for user in range(20):
        store.load(f"u{user}", np.arange(1000, dtype=np.uint64), np.arange(1000))
    for _ in range(2):
        for user in range(20):
            assert len(store.read(f"u{user}")) == 1000
            grown(store, f"u{user}", 1, first=2000)
            store.delete(f"u{user}")
            store.load(f"u{user}", np.arange(1000, dtype=np.uint64), np.arange(1000))
    assert sum(len(store.recall(f"u{user}")) for user in range(20)) <= 3000


def test_ids_are_told_apart_whatever_they_hold(redis_server: AnyServer, opened: Any) -> None:
    store = opened()
    users = ["a", "a:b", "a%3Ab", "}", "{", "a}b", "a}:m", "ü/☃", " ", ":", "t\x1fa", "t\x1fa:b", "t:a", "t%1Fa"]
    for place, user in enumerate(users):
        store.append([NewBehavior(user, place, 1, place)])
    assert dict(store.users()) == dict.fromkeys(users, 1)
    for place, user in enumerate(users):
        assert store.read(user).item_hash.tolist() == [place]
    for key in redis_server.client.scan_iter():
        text = key.decode()
        assert text.isascii() and text.count("{") == text.count("}") == 1 and text.startswith("dare:{")
    for user in users:
        assert store.delete(user) == 1
    assert redis_server.client.keys() == []


def test_a_user_expires_after_their_last_append(redis_server: AnyServer, opened: Any) -> None:
    store = opened(ttl_s=1000)
    grown(store, "u", 200)
    left = {key: redis_server.client.pttl(key) for key in redis_server.client.scan_iter()}
    assert len(left) == 4 and all(990_000 < value <= 1_000_000 for value in left.values())
    for key in left:
        redis_server.client.pexpire(key, 5000)
    grown(store, "u", 1, first=500)
    assert all(redis_server.client.pttl(key) > 990_000 for key in left)
    grown(opened(), "u", 1, first=501)
    assert all(redis_server.client.pttl(key) == -1 for key in left), "0 keeps for ever, also what was to expire before"
    for key in left:
        redis_server.client.pexpire(key, 1)
    until(lambda: redis_server.client.dbsize() == 0)
    assert len(store.read("u")) == 0


def test_every_process_forgets_an_erased_user(opened: Any) -> None:
    stores = [opened() for _ in range(3)]
    forgotten = list[str]()
    stores[2].on_erased(forgotten.append)
    grown(stores[0], "u", 10)
    grown(stores[0], "v", 10)
    for store in stores:
        until(lambda store=store: (store.read("u"), len(store.recall("u")))[1] == 10)
        assert len(store.read("v")) == 10
    assert stores[0].delete("u") == 10
    for store in stores:
        # Without asking the server: what a process does while it cannot reach it.
        until(lambda store=store: len(store.recall("u")) == 0)
        assert len(store.recall("v")) == 10
    until(lambda: forgotten == ["u"])


def test_a_sequence_is_not_recalled_once_it_is_stale(opened: Any, redis_server: AnyServer) -> None:
    store = opened(stale_s=0.0)
    grown(store, "u", 3)
    until(lambda: (store.read("u"), len(store.recall("u")))[1] == 3)
    redis_server.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    until(lambda: len(store.recall("u")) == 0)


def test_what_another_version_or_nobody_wrote_is_named(redis_server: AnyServer, opened: Any) -> None:
    store = opened()
    grown(store, "u", 40)
    redis_server.client.hset("dare:{:u}:m", "schema", "2")
    for call in (lambda: store.append([NewBehavior("u", 1, 1, None)]), lambda: store.read("u")):
        with pytest.raises(StoreError, match="u"):
            call()
    redis_server.client.hset("dare:{:u}:m", "schema", "1")
    assert len(store.read("u")) == 40
    redis_server.client.append("dare:{:u}:t", b"x")
    for call in (lambda: store.append([NewBehavior("u", 1, 1, None)]), lambda: opened().read("u"), lambda: store.read("u")):
        with pytest.raises(StoreError, match=r"DAREDAMAGED|641 bytes for 40 behaviors"):
            call()


def test_a_surplus_record_is_no_behavior_not_even_to_who_holds_nothing(redis_server: AnyServer, opened: Any) -> None:
    store = opened()
    store.load("u", np.zeros(0, np.uint64), np.zeros(0, np.int64))
    assert len(store.read("u")) == 0
    grown(opened(), "u", 3)
    redis_server.client.append("dare:{:u}:t", b"x" * 16)
    for _ in range(2):
        with pytest.raises(StoreError, match="64 bytes for 3 behaviors"):
            store.read("u")


@pytest.mark.parametrize("times", [[-1, 5], [5, 2**32]])
def test_times_that_do_not_fit_are_refused(opened: Any, times: list[int]) -> None:
    with pytest.raises(ValueError, match=str(times[0])):
        opened().load("u", np.zeros(2, np.uint64), np.array(times))
    with pytest.raises(ValueError, match=str(times[0] if times[0] < 0 else times[1])):
        opened().append([NewBehavior("u", 1, time, None) for time in times])


def test_no_command_reaches_across_users_on_a_cluster() -> None:
    with closing(RedisServer(cluster_enabled="yes", appendonly="no")) as server:
        server.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        until(lambda: b"cluster_state:ok" in server.client.execute_command("CLUSTER", "INFO"))
        with closing(RedisStore(server.url, read_s=30, write_s=30)) as store:
            many = [NewBehavior(f"u{place % 50}", place, 10_000 - place, place) for place in range(5000)]
            assert store.append(many).accepted == 5000 and store.append(many[-50:]).duplicates == 50
            store.load("w", np.arange(100, dtype=np.uint64), np.arange(100))
            assert dict(store.users()) == {f"u{place}": 100 for place in range(50)} | {"w": 100}
            for _ in range(2):
                assert store.read("u7").timestamp.tolist() == sorted(10_000 - place for place in range(7, 5000, 50))
            assert store.delete("u7") == 100 and len(store.read("u7")) == 0


def test_servers_that_would_lose_or_refuse_are_refused() -> None:
    with closing(RedisServer(maxmemory="100mb", maxmemory_policy="allkeys-lru")) as server, pytest.raises(StoreError, match="allkeys-lru"):
        RedisStore(server.url)
    with closing(RedisServer()) as server:
        server.client.config_set("requirepass", "the-real-one")
        with pytest.raises(StoreError) as refused:
            RedisStore(f"redis://:not-this-one@127.0.0.1:{server.port}/0", read_s=5)
        assert "not-this-one" not in str(refused.value)
        with closing(RedisStore(f"redis://:the-real-one@127.0.0.1:{server.port}/0", read_s=5)) as store:
            assert store.available()
