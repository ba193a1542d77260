"""The look-up as a binary search: readable, and what runs where the compiled library does not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kernels.lookup.hash_index import U64, HashIndex


def can_run(known: U64 | HashIndex | None = None) -> tuple[bool, str]:
    """Always."""
    return True, "NumPy's binary search"


def lookup(wanted: U64, known: U64 | HashIndex, num_threads: int) -> npt.NDArray[np.int32]:
    """See `kernels.lookup_rows`; one thread."""
    sorted_hash = known.sorted_hash_V if isinstance(known, HashIndex) else known
    if len(sorted_hash) == 0:
        return np.full(len(wanted), -1, dtype=np.int32)
    place = np.minimum(np.searchsorted(sorted_hash, wanted), len(sorted_hash) - 1)
    return np.where(sorted_hash[place] == wanted, place, -1).astype(np.int32)
