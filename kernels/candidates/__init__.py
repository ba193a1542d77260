"""From the hashes of candidates to all that the stages read about them, and to where their items occur in a history."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from kernels.backends import chosen
from kernels.candidates import native_backend, reference
from kernels.candidates.arguments import I32, I64, U64, CandidateRows, CatalogueRows, HistoryRows
from kernels.checks import array

__all__ = ["CandidateRows", "CatalogueRows", "HistoryRows", "candidate_rows", "candidates_backends", "occurrences"]

_BACKENDS: dict[str, ModuleType] = {"native": native_backend, "reference": reference}


def candidates_backends() -> dict[str, tuple[bool, str]]:
    """Every backend, whether it can run here, and why or why not; the first that can is what "auto" uses."""
    return {name: backend.can_run() for name, backend in _BACKENDS.items()}


def candidate_rows(hash_N: U64, catalogue: CatalogueRows, history: HistoryRows, *, backend: str = "auto") -> CandidateRows:
    """Rows of N candidates, u64 [N], in a model's tables and in one user's records.

    Args: `backend` "auto" or a name of `candidates_backends()`.
    Raises: ValueError for another dtype or shape, a history of other categories, or an unknown backend; RuntimeError when the named backend
    cannot run, with the reason.
    """
    hashes = array("hash_N", hash_N, np.uint64, (None,))
    if len(history.category_record_C) != len(catalogue.category_row):
        raise ValueError(f"category_record_C must have {len(catalogue.category_row)} rows, got {len(history.category_record_C)}")
    found: CandidateRows = chosen("candidates", _BACKENDS, backend).rows(hashes, catalogue, history)
    return found


def occurrences(start_D1: I64, position_P: I32, indexed_N: I32, first: int, *, backend: str = "auto") -> tuple[I64, I32]:
    """Where the items of N candidates occur: those of candidate n at `index[start[n]:start[n + 1]]`, i64 [N + 1] and i32 [M].

    Args: `start_D1` i64 [D + 1], `position_P` i32 [P]: item d of a history at `position[start[d]:start[d + 1]]`, of which `first` is taken;
    `indexed_N` i32 [N] which item each candidate is, -1 for none; `backend` as above. That items lie in the arrays is not checked here.
    Raises: ValueError for another dtype or shape, or an unknown backend; RuntimeError when the named backend cannot run, with the reason.
    """
    given = (array("start_D1", start_D1, np.int64, (None,)), array("position_P", position_P, np.int32, (None,)))
    found: tuple[I64, I32] = chosen("candidates", _BACKENDS, backend).occurrences(
        *given, array("indexed_N", indexed_N, np.int32, (None,)), first
    )
    return found
