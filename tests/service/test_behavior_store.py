"""One contract for every store, checked against a plain model; and what the file store promises beyond it."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.behavior_store import MAX_LENGTH, REMEMBERED_EVENTS, BehaviorStore, NewBehavior, StoreError, StoreFull
from service.file_store import FileStore
from service.memory_store import MemoryStore
from service.redis_store import RedisStore

Maker = Callable[[], BehaviorStore]


@pytest.fixture(params=["memory", "file", "redis"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Maker:
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url
        # Deadlines are not what this suite is about, and the machine may be busy.
        return lambda: RedisStore(url, read_s=30, write_s=30)
    return MemoryStore if request.param == "memory" else lambda: FileStore(tmp_path / "store")


def rows(store: BehaviorStore, user: str) -> list[tuple[int, int]]:
    sequence = store.read(user)
    return list(zip(sequence.timestamp.tolist(), sequence.item_hash.tolist(), strict=True))


def test_order_is_time_then_arrival_and_late_behaviors_are_inserted(make_store: Maker) -> None:
    store = make_store()
    for item, time in [(1, 10), (2, 20), (3, 20), (4, 15), (5, 10)]:
        store.append([NewBehavior("u", item, time, None)])
    assert rows(store, "u") == [(10, 1), (10, 5), (15, 4), (20, 2), (20, 3)]
    store.close()


def test_users_read_together_are_as_each_alone(make_store: Maker) -> None:
    store = make_store()
    for place, user in enumerate("abc"):
        store.append([NewBehavior(user, place, 10 + place, None)])
    assert len(store.read("a")) == len(store.read("b")) == 1
    store.append([NewBehavior("a", 9, 20, None)])
    store.delete("b")
    together = store.read_known(["a", "b", "c", "nobody"])
    assert "a" in together
    for user, sequence in together.items():
        assert list(zip(sequence.timestamp.tolist(), sequence.item_hash.tolist(), strict=True)) == rows(store, user)
    store.close()


def test_the_epoch_changes_exactly_when_what_was_read_is_no_longer_a_beginning(make_store: Maker) -> None:
    store = make_store()
    store.append([NewBehavior("u", 1, 10, None)])
    first = store.read("u")
    store.append([NewBehavior("u", 2, 10, None)])
    grown = store.read("u")
    assert grown.epoch == first.epoch and grown.item_hash[:1].tolist() == first.item_hash.tolist()
    store.append([NewBehavior("u", 3, 5, None)])
    assert store.read("u").epoch != first.epoch
    assert first.item_hash.tolist() == [1] and grown.item_hash.tolist() == [1, 2], "views never change"
    epoch = store.read("u").epoch
    assert store.delete("u") == 3 and len(store.read("u")) == 0
    store.append([NewBehavior("u", 1, 10, None)])
    assert store.read("u").epoch not in (epoch, first.epoch)
    store.close()


def test_an_event_sent_twice_is_stored_once_within_the_remembered_ones(make_store: Maker) -> None:
    store = make_store()
    twice = [NewBehavior("u", 1, 10, 77), NewBehavior("u", 1, 10, 77), NewBehavior("v", 1, 10, 77)]
    outcome = store.append(twice)
    assert (outcome.accepted, outcome.duplicates) == (2, 1)
    assert store.append(twice[:1]).duplicates == 1
    for event in range(REMEMBERED_EVENTS):
        store.append([NewBehavior("u", 2, 11, 1000 + event)])
    assert store.append(twice[:1]).accepted == 1, "event 77 is forgotten after 128 others"
    store.close()


def test_only_the_newest_100_000_are_kept(make_store: Maker) -> None:
    store = make_store()
    size = MAX_LENGTH + 5
    assert store.load("u", np.arange(size, dtype=np.uint64), np.arange(size)) == MAX_LENGTH
    loaded = store.read("u")
    assert loaded.item_hash[0] == 5
    for item in range(1100):
        store.append([NewBehavior("u", item, size + item, None)])
    sequence = store.read("u")
    assert len(sequence) == MAX_LENGTH and sequence.timestamp[-1] == size + 1099 and sequence.timestamp[0] == 1105
    assert (sequence.epoch, sequence.start) == (loaded.epoch, loaded.start + 1100), "still the same behaviors at their places"
    assert dict(store.users()) == {"u": MAX_LENGTH}
    store.close()


def test_a_random_walk_equals_a_plain_model(make_store: Maker) -> None:
    store, truth, random_ = make_store(), dict[str, list[tuple[int, int]]](), random.Random(1)
    seen = dict[str, list[int]]()
    for step in range(5000):
        user = f"user-{random_.randrange(8)}"
        if random_.random() < 0.01:
            assert store.delete(user) == len(truth.pop(user, []))
            seen.pop(user, None)
        else:
            event = random_.choice([None, step, random_.randrange(max(1, step))])
            time = random_.randrange(2000)
            outcome = store.append([NewBehavior(user, step, time, event)])
            duplicate = event is not None and event in seen.get(user, [])[-REMEMBERED_EVENTS:]
            assert outcome.duplicates == duplicate
            if not duplicate:
                truth.setdefault(user, []).append((time, step))
                truth[user].sort(key=lambda row: row[0])
                if event is not None:
                    seen.setdefault(user, []).append(event)
        if step % 50 == 0:
            assert {user: rows(store, user) for user in truth} == truth
    store.close()


def test_unsorted_bulk_loads_are_refused(make_store: Maker) -> None:
    store = make_store()
    with pytest.raises(ValueError, match="'u': timestamps must be sorted"):
        store.load("u", np.zeros(2, np.uint64), np.array([2, 1]))
    store.close()


def test_a_reopened_file_store_holds_everything_and_still_knows_its_events(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.load("bulk", np.arange(1000, dtype=np.uint64), np.arange(1000))
    store.append([NewBehavior("bulk", 5, 2000, 42), NewBehavior("late", 1, 10, None), NewBehavior("late", 2, 5, None)])
    store.append([NewBehavior("gone", 1, 1, None)])
    store.delete("gone")
    before = {user: rows(store, user) for user, _ in store.users()}
    store.close()
    again = FileStore(tmp_path)
    assert {user: rows(again, user) for user, _ in again.users()} == before and "gone" not in before
    assert again.append([NewBehavior("bulk", 5, 2000, 42)]).duplicates == 1
    again.close()


def test_erased_users_leave_no_trace_on_disk(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.append([NewBehavior("somebody-to-forget", 1, 1, None), NewBehavior("other", 2, 2, None)])
    store.delete("somebody-to-forget")
    assert b"somebody-to-forget" not in (tmp_path / "behaviors.log").read_bytes()
    store.append([NewBehavior("other", 3, 3, None)])
    store.close()
    again = FileStore(tmp_path)
    assert rows(again, "other") == [(2, 2), (3, 3)]
    again.close()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    with pytest.raises(StoreError, match="another process uses this store"):
        FileStore(tmp_path)
    store.close()


def test_a_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used as a store"):
        FileStore(tmp_path / "file")


def test_blocks_that_were_never_written_are_a_torn_write(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = FileStore(tmp_path)
    store.append([NewBehavior("u", 1, 1, None)])
    store.close()
    with (tmp_path / "behaviors.log").open("ab") as file:
        file.write(bytes(4096))
    store = FileStore(tmp_path)
    assert rows(store, "u") == [(1, 1)] and "the last 4096 bytes are a torn write" in caplog.text
    store.append([NewBehavior("u", 2, 2, None)])
    store.close()
    again = FileStore(tmp_path)
    assert rows(again, "u") == [(1, 1), (2, 2)]
    again.close()


def test_a_long_log_is_compacted_at_start(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    for item in range(20_001):
        store.append([NewBehavior(f"user-{item % 3}", item, item, item)])
    before = {user: rows(store, user) for user, _ in store.users()}
    store.close()
    size = (tmp_path / "behaviors.log").stat().st_size
    again = FileStore(tmp_path)
    assert {user: rows(again, user) for user, _ in again.users()} == before
    assert (tmp_path / "behaviors.log").stat().st_size < size / 2
    assert again.append([NewBehavior("user-0", 1, 1, 19_998)]).duplicates == 1
    again.close()


def test_a_torn_last_write_is_removed_and_damage_before_it_refused(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    ends = []
    for item in range(6):
        store.append([NewBehavior("u", item, item, None)])
        ends.append((tmp_path / "behaviors.log").stat().st_size)
    store.close()
    log = tmp_path / "behaviors.log"
    whole = log.read_bytes()
    for cut in range(ends[3] + 1, ends[4]):
        log.write_bytes(whole[:cut])
        store = FileStore(tmp_path)
        assert len(store.read("u")) == 4
        store.append([NewBehavior("u", 9, 9, None)])
        assert len(store.read("u")) == 5
        store.close()
    for place in range(ends[2], ends[3]):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        log.write_bytes(bytes(damaged))
        with pytest.raises(StoreError, match=f"damaged at byte {ends[2]}"):
            FileStore(tmp_path)
    log.write_bytes(whole)
    FileStore(tmp_path).close()


@pytest.mark.parametrize("room", [0, 5, 20, 120])
def test_a_full_disk_refuses_the_append_and_keeps_what_was_there(tmp_path: Path, room: int) -> None:
    store = FileStore(tmp_path)
    store.append([NewBehavior("u", 1, 1, None)])
    size = (tmp_path / "behaviors.log").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel writes `room` bytes of the frame and refuses the rest, as a full disk does; 120 are more than the next whole frame has.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
    try:
        with pytest.raises(StoreFull, match="File too large"):
            store.append([NewBehavior("u", 2, 2, None)] + [NewBehavior("v", 2, 2, None)] * 50)
        with pytest.raises(StoreFull, match="File too large"):
            store.load("u", np.arange(9, dtype=np.uint64), np.arange(9))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert rows(store, "u") == [(1, 1)] and rows(store, "v") == []
    store.append([NewBehavior("u", 3, 3, None)])
    store.close()
    again = FileStore(tmp_path)
    assert rows(again, "u") == [(1, 1), (3, 3)]
    again.close()


def test_an_erasure_that_the_disk_refuses_keeps_the_user_and_the_log(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.append([NewBehavior("u", 1, 1, None), NewBehavior("v", 1, 1, None)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(StoreFull, match="cannot be rewritten: File too large"):
            store.delete("u")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert rows(store, "u") == [(1, 1)] and {file.name for file in tmp_path.iterdir()} == {"behaviors.log", "lock"}
    assert store.delete("u") == 1
    store.close()
    again = FileStore(tmp_path)
    assert dict(again.users()) == {"v": 1}
    again.close()


_WRITER = """
import sys
from pathlib import Path
from service.behavior_store import NewBehavior
from service.file_store import FileStore
store = FileStore(Path(sys.argv[1]))
for i in range(10**9):
    store.append([NewBehavior(f"user-{i % 7}", i, i, i)])
    print(i, flush=True)
"""


def test_a_killed_process_loses_no_acknowledged_behavior(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = -1
    for line in writer.stdout:
        acknowledged = int(line)
        if acknowledged >= 2000:
            writer.send_signal(signal.SIGKILL)
            break
    rest = writer.stdout.read().split()
    acknowledged = int(rest[-1]) if rest else acknowledged
    writer.stdout.close()
    writer.wait()
    store = FileStore(tmp_path)
    found = sorted(int(item) for user, _ in store.users() for item in store.read(user).item_hash)
    assert found[: acknowledged + 1] == list(range(acknowledged + 1)) and len(found) <= acknowledged + 2
    store.close()
