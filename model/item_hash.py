"""Stable 64-bit item hashes: XXH3-64, seed 0, of the UTF-8 item id, the same in every process, store and model version."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import xxhash


def hash_item_id(item_id: str) -> int:
    """Hash of one item id, 0..2^64-1. Raises: UnicodeEncodeError for lone surrogates, which no valid id holds."""
    return xxhash.xxh3_64_intdigest(item_id.encode())


def hash_item_ids(item_ids: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Hashes of many item ids, in order: u64 [N]."""
    # One array from the digests' bytes, which are big-endian: faster than from as many Python integers.
    digests = b"".join(map(xxhash.xxh3_64_digest, map(str.encode, item_ids)))
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)
