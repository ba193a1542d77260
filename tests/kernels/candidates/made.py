"""Made-up catalogues and histories for the rows of candidates."""

from __future__ import annotations

import numpy as np

from kernels import CatalogueRows, HashIndex, HistoryRows, candidate_rows, occurrences


def hashes(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.unique(rng.integers(0, 2**64, size, dtype=np.uint64))


def catalogue(rng: np.random.Generator, known: np.ndarray, widths: tuple[int, int], codes: int) -> CatalogueRows:
    vectors, groups = int(rng.integers(1, 50)), int(rng.integers(1, 20))
    rows = [
        rng.integers(0, end, size).astype(np.int32) for end, size in ((vectors, len(known) + 1), (codes, len(known) + 1), (groups, codes))
    ]
    tables = [rng.standard_normal((size, width)).astype(np.float32) for size, width in zip((vectors, groups), widths, strict=True)]
    return CatalogueRows(HashIndex(known), *rows, *tables, scale=0.25)


def history(rng: np.random.Generator, items: np.ndarray, codes: int) -> HistoryRows:
    return HistoryRows(HashIndex(items), rng.integers(-1, 9, codes).astype(np.int32))


def compare(given: CatalogueRows, user: HistoryRows, wanted: np.ndarray) -> None:
    """Fails where the compiled rows are not those of the reference."""
    found, expected = (candidate_rows(wanted, given, user, backend=name) for name in ("native", "reference"))
    for name in expected.__slots__:
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype and one.flags.c_contiguous
        np.testing.assert_array_equal(one, other, name)


def compare_occurrences(rng: np.random.Generator, items: int, most: int, wanted: int) -> None:
    """The same of where the items occur."""
    start = np.concatenate([[0], np.cumsum(rng.integers(0, most + 1, items))]).astype(np.int64)
    given = start, rng.integers(0, 10**6, int(start[-1])).astype(np.int32), rng.integers(-1, items, wanted).astype(np.int32), 7
    found, expected = (occurrences(*given, backend=name) for name in ("native", "reference"))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
