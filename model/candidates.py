"""What passes between the runtime and the two ways to score: candidates in, ranked candidates out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Candidates:
    """N candidates of one user: `item_hash_N` u64; i32 [N] their places in the catalogue, category codes, records in the user's history
    where the index of its items has them (-1: it has not), and table rows; `attn_NA` f32 their vectors in attention space, not scaled."""

    item_hash_N: npt.NDArray[np.uint64]
    place_N: I32
    category_N: I32
    indexed_N: I32
    item_row_N: I32
    category_row_N: I32
    attn_NA: F32


@dataclass(frozen=True, slots=True)
class Ranked:
    """`click_probability_N` f32; what search kept, best first: `index_NK` i32 (-1: none), `score_NK` f32; how long search took, ms."""

    click_probability_N: F32
    index_NK: I32
    score_NK: F32
    search_ms: float
