"""The rows of candidates, and where their items occur, in NumPy: readable, and what runs where the compiled library does not."""

from __future__ import annotations

import numpy as np

from kernels.candidates.arguments import I32, I64, U64, CandidateRows, CatalogueRows, HistoryRows
from kernels.lookup import lookup_rows


def can_run() -> tuple[bool, str]:
    """Always."""
    return True, "NumPy's takes"


def rows(hash_N: U64, catalogue: CatalogueRows, history: HistoryRows) -> CandidateRows:
    """See `kernels.candidate_rows`."""
    place = lookup_rows(hash_N, catalogue.index)
    category = catalogue.category[place]
    item_row, category_row = catalogue.item_row[place], catalogue.category_row[category]
    attn = np.concatenate([catalogue.item_VA[item_row], catalogue.category_GA[category_row]], axis=1) * np.float32(catalogue.scale)
    return CandidateRows(
        place, item_row, category_row, lookup_rows(hash_N, history.index), history.category_record_C[category], attn.astype(np.float32)
    )


def occurrences(start_D1: I64, position_P: I32, indexed_N: I32, first: int) -> tuple[I64, I32]:
    """See `kernels.occurrences`."""
    none = position_P[:0]
    runs = [none if i < 0 else position_P[start_D1[i] : start_D1[i + 1]] for i in indexed_N.tolist()]
    start = np.zeros(len(runs) + 1, dtype=np.int64)
    np.cumsum([len(run) for run in runs], out=start[1:])
    return start, np.concatenate([none, *runs]) - np.int32(first)
