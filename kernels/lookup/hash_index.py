"""`HashIndex`: a sorted array of item hashes, prepared once for many look-ups."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from kernels.aligned import LINE, aligned
from kernels.checks import array

U64 = npt.NDArray[np.uint64]
BUCKETS = 59
"""Buckets of a stretch: a cache line holds its first row and a byte for each."""
_HASHES_PER_BUCKET = 5
"""At least this many on average, and less than twice as many: see README.md."""
_PLACES = np.arange(BUCKETS + 1, dtype=np.int64)
_FEW_BITS = 8


class HashIndex:
    """V hashes, ascending, with a line of 64 bytes for every 295 to 590 of them that says where each is, within a few rows.

    Args: `sorted_hash_V` u64 [V], V < 2^31; kept, not copied; it may be memory-mapped.
    Raises: ValueError for another dtype or shape, too many rows, or the first place where the hashes do not ascend.
    """

    def __init__(self, sorted_hash_V: U64) -> None:
        known = array("sorted_hash_V", sorted_hash_V, np.uint64, (None,))
        if len(known) >= 2**31:
            raise ValueError(f"sorted_hash_V must have fewer than 2^31 rows, got {len(known)}")
        falls = np.flatnonzero(known[1:] <= known[:-1])
        if len(falls):
            place = int(falls[0])
            raise ValueError(f"sorted_hash_V must ascend, got {int(known[place])} before {int(known[place + 1])} at {place}")
        bits = max(1, (len(known) // (BUCKETS * _HASHES_PER_BUCKET)).bit_length() - 1)
        self.shift = 64 - bits
        self.rows_a_stretch = round(len(known) / 2**bits)
        self.stretch = _stretches(known, bits, self.rows_a_stretch)
        """u8 [2^bits + 1, 64], `Stretch` of native/lookup_call.hpp, from the start of a cache line on."""
        self.sorted_hash_V: U64 = known

    def __len__(self) -> int:
        return len(self.sorted_hash_V)

    @property
    def nbytes(self) -> int:
        """Bytes held beside the hashes."""
        return self.stretch.nbytes


@functools.lru_cache(maxsize=8)
def _bounds(bits: int) -> U64:
    """The first hash that could be in each bucket of 2^bits stretches: u64 [S, B]."""
    width = 1 << (64 - bits)
    bucket_B = np.array([width * b // BUCKETS for b in range(BUCKETS)], dtype=np.uint64)
    return np.arange(2**bits, dtype=np.uint64)[:, None] * np.uint64(width) + bucket_B


def _stretches(known: U64, bits: int, rows_a_stretch: int) -> npt.NDArray[np.uint8]:
    bound_SB = _bounds(bits) if bits <= _FEW_BITS else _bounds.__wrapped__(bits)
    start_SB1 = np.empty((2**bits, BUCKETS + 1), dtype=np.int32)
    start_SB1[:, :-1] = np.searchsorted(known, bound_SB)
    start_SB1[:-1, -1] = start_SB1[1:, 0]
    start_SB1[-1, -1] = len(known)
    made = aligned((2**bits + 1, LINE), np.uint8)
    first_S1 = made.view(np.int32)[:, 0]
    first_S1[:-1], first_S1[-1] = start_SB1[:, 0], len(known)
    drift_SB1 = start_SB1 - start_SB1[:, :1] - (_PLACES * rows_a_stretch // BUCKETS).astype(np.int32)
    # What a byte cannot say makes a bad guess, never a wrong answer.
    made[:-1, 4:] = np.minimum(np.maximum(drift_SB1, -128), 127).astype(np.int8).view(np.uint8)
    return made
