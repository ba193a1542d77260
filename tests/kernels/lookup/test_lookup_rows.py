import numpy as np
import pytest

from kernels import lookup_rows


@pytest.mark.parametrize("size", [0, 1, 2, 1000, 100_003])
def test_finds_what_is_there_and_nothing_else(size: int) -> None:
    rng = np.random.default_rng(size)
    table = np.unique(rng.integers(0, 2**64, size, dtype=np.uint64))
    wanted = np.concatenate([table, rng.integers(0, 2**64, 500, dtype=np.uint64), np.array([0, 2**64 - 1], np.uint64)])
    rng.shuffle(wanted)
    found = lookup_rows(wanted, table)
    assert found.dtype == np.int32
    place = {int(value): row for row, value in enumerate(table)}
    assert found.tolist() == [place.get(int(value), -1) for value in wanted]


def test_another_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="hash_M must have dtype uint64, got int64"):
        lookup_rows(np.zeros(3, np.int64), np.zeros(3, np.uint64))  # type: ignore[arg-type]
