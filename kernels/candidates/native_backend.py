"""The rows of candidates in the compiled library (`kernels/candidates/native/`), without the GIL."""

from __future__ import annotations

import struct

import numpy as np

from kernels import native_library
from kernels.candidates.arguments import I32, I64, U64, CandidateRows, CatalogueRows, HistoryRows
from kernels.lookup import HashIndex
from kernels.native_library import address

_INDEX = "3q2P"
_CATALOGUE, _HISTORY = struct.Struct(f"@{_INDEX}2q5Pf0q"), struct.Struct(f"@{_INDEX}P")
_CALL, _OCCURRENCES = struct.Struct("@2q3Pq"), struct.Struct("@4q5P")
"""The structures of native/candidates_call.hpp, field for field."""
_BYTES = _CATALOGUE.size + _HISTORY.size + _CALL.size
_ROOM = 32
"""Positions for each candidate that are made room for at first."""


def can_run() -> tuple[bool, str]:
    """Whether the library loads."""
    return native_library.can_run()


def rows(hash_N: U64, catalogue: CatalogueRows, history: HistoryRows) -> CandidateRows:
    """See `kernels.candidate_rows`. Raises: RuntimeError when the library refuses the call, with the reason."""
    library, level = native_library.last_ready("candidates")
    size = len(hash_N)
    column = np.empty((5, size), dtype=np.int32)
    attn = np.empty((size, catalogue.item_VA.shape[1] + catalogue.category_GA.shape[1]), dtype=np.float32)
    call = _CALL.pack(_BYTES, size, address(hash_N), address(column), address(attn), level)
    status = library.dare_candidates(_catalogue(catalogue), _history(history), call)
    if status != 0:
        raise RuntimeError(f"candidates backend 'native' failed: {native_library.FAILURES[status]}")
    place, item_row, category_row, indexed, category_record = column
    return CandidateRows(place, item_row, category_row, indexed, category_record, attn)


def occurrences(start_D1: I64, position_P: I32, indexed_N: I32, first: int) -> tuple[I64, I32]:
    """See `kernels.occurrences`. Raises: RuntimeError when the library refuses the call, with the reason."""
    library = native_library.last_ready("candidates")[0]
    size = len(indexed_N)
    start = np.empty(size + 1, dtype=np.int64)
    given, room = (address(start_D1), address(position_P), address(indexed_N), address(start)), _ROOM * size
    while True:
        index = np.empty(room, dtype=np.int32)
        status = library.dare_occurrences(_OCCURRENCES.pack(_OCCURRENCES.size, size, first, room, *given, address(index)))
        if status != 0:
            raise RuntimeError(f"candidates backend 'native' failed: {native_library.FAILURES[status]}")
        total = int(start[size])
        if total <= room:
            return start, index[:total]
        room = total


def _index(index: HashIndex) -> tuple[int, ...]:
    return len(index), index.rows_a_stretch, index.shift, address(index.sorted_hash_V), address(index.stretch)


def _catalogue(catalogue: CatalogueRows) -> bytes:
    made: bytes | None = catalogue.prepared.get("native")
    if made is None:
        tables = (catalogue.item_VA, catalogue.category_GA)
        columns = (catalogue.item_row, catalogue.category, catalogue.category_row, *tables)
        widths = (table.shape[1] for table in tables)
        made = _CATALOGUE.pack(*_index(catalogue.index), *widths, *map(address, columns), catalogue.scale)
        catalogue.prepared["native"] = made
    return made


def _history(history: HistoryRows) -> bytes:
    made: bytes | None = history.prepared.get("native")
    if made is None:
        made = _HISTORY.pack(*_index(history.index), address(history.category_record_C))
        history.prepared["native"] = made
    return made
