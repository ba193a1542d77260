"""Every backend finds what is there and nothing else, however the hashes are spread."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from kernels import HashIndex, lookup_rows, native_library
from kernels.lookup.hash_index import BUCKETS

LEVELS = ["scalar", "avx2", "avx512", "avx512-vnni"]


@pytest.fixture(params=["reference", *(f"native-{level}" for level in LEVELS)])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name, _, level = str(request.param).partition("-")
    if level:
        monkeypatch.setenv(native_library.LEVEL_VARIABLE, level)
        able, reason = native_library.can_run()
        if not able:
            pytest.skip(reason)
    return name


def spread(kind: str, size: int) -> npt.NDArray[np.uint64]:
    """About `size` ascending distinct hashes."""
    rng = np.random.default_rng(size)
    top = 2**64 - 1
    hashes = {
        "even": lambda: rng.integers(0, top, size, dtype=np.uint64, endpoint=True),
        "one bucket": lambda: rng.integers(2**63, 2**63 + 4 * size + 1, size, dtype=np.uint64),
        "crowds": lambda: (
            (rng.integers(0, 5, size, dtype=np.uint64) << np.uint64(61)) + rng.integers(0, 9 * size + 1, size, dtype=np.uint64)
        ),
        "the ends": lambda: np.concatenate([np.arange(size // 2, dtype=np.uint64), np.uint64(top) - np.arange(size // 2, dtype=np.uint64)]),
        "powers": lambda: np.uint64(1) << rng.integers(0, 64, size, dtype=np.uint64),
    }[kind]()
    return np.unique(hashes)


@pytest.mark.parametrize("kind", ["even", "one bucket", "crowds", "the ends", "powers"])
@pytest.mark.parametrize("size", [0, 1, 2, 7, 8, 9, 17, 64, 590, 1000, 100_003])
def test_finds_what_is_there_and_nothing_else(backend: str, kind: str, size: int) -> None:
    rng = np.random.default_rng(size)
    table = spread(kind, size)
    near = np.concatenate([table[:2000] - np.uint64(1), table[:2000] + np.uint64(1)])
    anywhere = rng.integers(0, 2**64, 500, dtype=np.uint64)
    wanted = np.concatenate([table, near, anywhere, np.array([0, 2**63, 2**64 - 1], np.uint64)])
    rng.shuffle(wanted)
    found = lookup_rows(wanted, HashIndex(table), backend=backend)
    assert found.dtype == np.int32
    place = {int(value): row for row, value in enumerate(table)}
    assert found.tolist() == [place.get(int(value), -1) for value in wanted]


def test_every_bucket_of_evenly_spread_hashes_is_known_exactly() -> None:
    """What a byte cannot say makes a guess bad and a look-up slow, never wrong: only this can tell."""
    table = spread("even", 20_000)
    index = HashIndex(table)
    first, drift = index.stretch.view(np.int32)[:, 0].astype(np.int64), index.stretch[:-1, 4:].view(np.int8).astype(np.int64)
    place = np.arange(BUCKETS + 1)
    said = first[:-1, None] + place * index.rows_a_stretch // BUCKETS + drift
    width = 1 << index.shift
    starts = [[width * stretch + width * int(bucket) // BUCKETS for bucket in place] for stretch in range(len(said))]
    assert said.tolist() == [[int((table < np.uint64(min(start, 2**64 - 1))).sum()) for start in row] for row in starts]


@pytest.mark.parametrize("count", [0, 1, 31, 32, 49, 1023, 1024, 1025, 3000])
def test_any_number_is_looked_up(backend: str, count: int) -> None:
    table = spread("even", 3000)
    assert lookup_rows(table[:count], HashIndex(table), backend=backend).tolist() == list(range(count))


def test_hashes_at_any_address(backend: str) -> None:
    """A look-up reads a whole cache line; where the first of them begins depends on the array's address."""
    room = np.empty(1100, np.uint64)
    for shift in range(8):
        table = room[shift : shift + 1000]
        table[:] = spread("even", 1000)
        assert lookup_rows(table, HashIndex(table), backend=backend).tolist() == list(range(1000))


def test_threads_share_the_work(backend: str) -> None:
    table = spread("even", 100_003)
    assert lookup_rows(table[:50_000], HashIndex(table), backend=backend, num_threads=3).tolist() == list(range(50_000))


def test_a_bare_array_needs_no_preparation() -> None:
    table = spread("even", 100)
    assert lookup_rows(table[::-1], table).tolist() == list(range(99, -1, -1))
    with pytest.raises(RuntimeError, match="look-up backend 'native' cannot run: needs a HashIndex"):
        lookup_rows(table, table, backend="native")


def test_the_index_is_small() -> None:
    table = spread("even", 100_003)
    assert HashIndex(table).nbytes < table.nbytes / 24 + 16


def test_wrong_arguments_are_named() -> None:
    table = spread("even", 100)
    with pytest.raises(ValueError, match="hash_M must have dtype uint64, got int64"):
        lookup_rows(np.zeros(3, np.int64), table)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"sorted_hash_V must ascend, got 7 before 7 at 1"):
        HashIndex(np.array([3, 7, 7, 9], np.uint64))
    with pytest.raises(ValueError, match=r"sorted_hash_V must have shape \[any\], got \[2, 2\]"):
        HashIndex(np.zeros((2, 2), np.uint64))
    with pytest.raises(ValueError, match="num_threads must be an integer of at least 1, got 0"):
        lookup_rows(table, table, num_threads=0)
    with pytest.raises(ValueError, match="backend must be auto or one of native, reference, got 'gpu'"):
        lookup_rows(table, table, backend="gpu")
