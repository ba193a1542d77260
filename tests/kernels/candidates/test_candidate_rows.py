"""A candidate's hash leads to its rows, and to nobody's where nobody knows it, in every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kernels import CatalogueRows, HashIndex, HistoryRows, candidate_rows, candidates_backends, native_library, occurrences
from tests.kernels.candidates import made

KNOWN = np.array([10, 20, 30], np.uint64)


@pytest.fixture(params=["native", "reference"])
def backend(request: pytest.FixtureRequest) -> str:
    able, reason = candidates_backends()[request.param]
    if not able:
        pytest.skip(reason)
    return str(request.param)


def small() -> tuple[CatalogueRows, HistoryRows]:
    """Three items of two categories, and an unknown one; the user knows item 30 and the second category."""
    rows = (np.array([3, 2, 1, 0], np.int32), np.array([0, 1, 1, 2], np.int32), np.array([1, 2, 0], np.int32))
    tables = np.arange(8, dtype=np.float32).reshape(4, 2), 10 * np.arange(3, dtype=np.float32)[:, None]
    return CatalogueRows(HashIndex(KNOWN), *rows, *tables, scale=0.5), HistoryRows(HashIndex(KNOWN[2:]), np.array([-1, 4, -1], np.int32))


def test_known_answers(backend: str) -> None:
    rows = candidate_rows(np.array([30, 7, 10], np.uint64), *small(), backend=backend)
    assert rows.place_N.tolist() == [2, -1, 0]
    assert rows.item_row_N.tolist() == [1, 0, 3]
    assert rows.category_row_N.tolist() == [2, 0, 1]
    assert rows.indexed_N.tolist() == [0, -1, -1]
    assert rows.category_record_N.tolist() == [4, -1, -1]
    assert rows.attn_NA.tolist() == [[1.0, 1.5, 10.0], [0.0, 0.5, 0.0], [3.0, 3.5, 5.0]]


def test_where_items_occur(backend: str) -> None:
    start, position = np.array([0, 2, 2, 5], np.int64), np.array([4, 9, 5, 6, 7], np.int32)
    first, index = occurrences(start, position, np.array([2, -1, 0, 1, 2], np.int32), 4, backend=backend)
    assert first.tolist() == [0, 3, 3, 5, 5, 8]
    assert index.tolist() == [1, 2, 3, 0, 5, 1, 2, 3]
    first, index = occurrences(start, position, np.zeros(0, np.int32), 0, backend=backend)
    assert first.tolist() == [0] and index.dtype == np.int32 and len(index) == 0


@pytest.mark.skipif(not candidates_backends()["native"][0], reason=candidates_backends()["native"][1])
@pytest.mark.parametrize("level", ["scalar", "avx2", "avx512", "avx512-vnni"])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 700])
def test_compiled_rows_are_those_of_the_reference(level: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native_library.LEVEL_VARIABLE, level)
    if not native_library.can_run()[0]:
        pytest.skip(native_library.can_run()[1])
    rng = np.random.default_rng(size)
    for items, widths in ((0, (1, 1)), (5, (16, 16)), (3000, (7, 33))):
        known = made.hashes(rng, items)
        wanted = np.concatenate([known, made.hashes(rng, 50)])[rng.integers(0, len(known) + 50, size)]
        made.compare(made.catalogue(rng, known, widths, 9), made.history(rng, known[::3], 9), wanted)
        made.compare_occurrences(rng, items + 1, most=3, wanted=size)
        # More positions than are made room for at first.
        made.compare_occurrences(rng, items + 1, most=90, wanted=size)


def test_what_leads_out_of_a_table_is_named(backend: str) -> None:
    catalogue, user = small()
    for name in ("item_row", "category", "category_row"):
        bad = getattr(catalogue, name).copy()
        bad[-1] = 4
        with pytest.raises(ValueError, match=f"{name} must be in .* got 4"):
            replace(catalogue, **{name: bad})
    with pytest.raises(ValueError, match="item_row must have shape"):
        replace(catalogue, item_row=catalogue.item_row[:-1])
    with pytest.raises(ValueError, match="category_record_C must have 3 rows, got 2"):
        candidate_rows(KNOWN, catalogue, HistoryRows(user.index, user.category_record_C[:2]), backend=backend)
    with pytest.raises(ValueError, match="hash_N must have dtype uint64"):
        candidate_rows(KNOWN.astype(np.int64), catalogue, user, backend=backend)  # type: ignore[arg-type]
