"""What passes between the runtime and the two ways to score: candidates in, ranked candidates out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels import CandidateRows

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Candidates:
    """N candidates of one user: `item_hash_N` u64, and their `rows`, with vectors in attention space as the scoring wants them scaled."""

    item_hash_N: npt.NDArray[np.uint64]
    rows: CandidateRows


@dataclass(frozen=True, slots=True)
class Ranked:
    """`click_probability_N` f32; what search kept, best first: `index_NK` i32 (-1: none), `score_NK` f32; how long search took, ms."""

    click_probability_N: F32
    index_NK: I32
    score_NK: F32
    search_ms: float
