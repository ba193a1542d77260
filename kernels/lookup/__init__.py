"""Item hashes to rows of a sorted table."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kernels.checks import array


def lookup_rows(hash_M: npt.NDArray[np.uint64], sorted_hash_V: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
    """Position of each hash in the sorted array: int32 [M], -1 when absent.

    Raises: ValueError for another dtype or shape. `sorted_hash_V` must ascend without duplicates; it is not checked here.
    """
    wanted = array("hash_M", hash_M, np.uint64, (None,))
    known = array("sorted_hash_V", sorted_hash_V, np.uint64, (None,))
    if len(known) == 0:
        return np.full(len(wanted), -1, dtype=np.int32)
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[place] == wanted, place, -1).astype(np.int32)
