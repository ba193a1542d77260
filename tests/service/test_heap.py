"""What the service does about the C library's heap, in a process of its own: it is for good."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Tiny
from tests.service.model_versions import with_versions

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc: it has other heaps")

_CHURN = """
import ctypes, os, threading
import numpy as np
from service.heap import share_one_heap, trim

def heaps():
    libc = ctypes.CDLL(None)
    libc.open_memstream.restype, text, size = ctypes.c_void_p, ctypes.c_char_p(), ctypes.c_size_t()
    stream = ctypes.c_void_p(libc.open_memstream(ctypes.byref(text), ctypes.byref(size)))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    return text.value.count(b"<heap ")

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6

share_one_heap()
before, held = resident_mb(), [[] for _ in range(4)]
threads = [threading.Thread(target=lambda rows=rows: rows.extend(np.ones(4000) for _ in range(500))) for rows in held]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
kept = [rows[place] for rows in held for place in range(0, 500, 25)]
filled = resident_mb()
del held, threads, thread
freed = resident_mb()
trim()
print(heaps(), filled - before, freed - before, resident_mb() - before)
"""


def test_all_threads_share_a_heap_and_what_is_free_in_it_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _CHURN], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    heaps, *grown_mb = done.stdout.split()
    filled, freed, trimmed = map(float, grown_mb)
    assert heaps == "1"
    assert filled > 60 and freed > 50, "64 MB in blocks of 32 kB; those that stay keep the rest from being given back by itself"
    assert trimmed < 10


_KEPT = """
import gc, weakref
from service.heap import keep_what_there_is

class Node:
    pass

garbage, kept = Node(), Node()
garbage.itself, seen = garbage, weakref.ref(garbage)
del garbage
keep_what_there_is()
print(seen() is None, any(one is kept for one in gc.get_objects()), gc.get_freeze_count() > 1000)
"""


def test_what_there_is_is_not_searched_again_and_garbage_is_not_kept() -> None:
    done = subprocess.run([sys.executable, "-c", _KEPT], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "False", "True"]


_SWAPS = """
import asyncio, ctypes, gc, sys
from pathlib import Path
from service import loading
from service.behavior_store import NewBehavior
from service.heap import keep_what_there_is, share_one_heap
from service.memory_store import MemoryStore
from service.metrics import Metrics
from service.models import Models
from service.settings import Settings

class Heap(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Heap

def held():
    gc.collect()
    heap = libc.mallinfo2()
    return heap.uordblks + heap.hblkhd, sys.getallocatedblocks()

loading._REST, loading._LONG, loading._WARM_ROUNDS = 0.0, 50, 1
share_one_heap()
artifacts, versions = Path(sys.argv[1]), sys.argv[2:]
models, store = Models(Settings(artifacts=artifacts), Metrics()), MemoryStore()
keep_what_there_is()
item = models.active.runtime.catalogue.item_hash
users = [f"user-{number}" for number in range(20)]
store.append([NewBehavior(user, int(item[place % len(item)]), place, None) for user in users for place in range(50)])

def answered():
    served = models.active
    for user in users:
        state = served.users.state(user, store.read(user), 50, served.users.erasures())
        served.runtime.score(state, item[:20], 1000)

async def swaps():
    for swap in range(SWAPS):
        answered()
        await models.activate(versions[(swap + 1) % 2])
        if swap in (9, SWAPS - 1):
            await models._loader._thread.run(gc.collect)  # its job before this one is forgotten then
            print(*held())

SWAPS = 20
alone = held()[0]
loading.ScoringRuntime.load(artifacts)
kept = loading.ScoringRuntime.load(artifacts)
print(held()[0] - alone)
del kept
asyncio.run(swaps())
models.close()
"""


def test_a_version_that_was_replaced_leaves_nothing_behind(tiny: Tiny, tmp_path: Path) -> None:
    versions = with_versions(tiny, tmp_path / "a", 1.0)
    command = [sys.executable, "-c", _SWAPS, str(tmp_path / "a"), *versions]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    of_one, first, blocks, last, last_blocks = map(int, done.stdout.split())
    assert of_one > 50_000
    assert last - first < of_one / 5, "10 versions came and went"
    assert last_blocks - blocks < 1000
