"""The slow obvious truth: every score in float64, a full sort, ties to the newer behavior."""

from __future__ import annotations

import numpy as np

from kernels.search.arguments import F32, I32, SearchArguments


def can_run(arguments: SearchArguments | None = None) -> tuple[bool, str]:
    """Always."""
    return True, "plain NumPy in float64"


def search(a: SearchArguments) -> tuple[I32, F32]:
    """See `kernels.search_topk`."""
    num_targets, length = len(a.target_NA), a.keys.length
    index_NK = np.full((num_targets, a.k), -1, dtype=np.int32)
    score_NK = np.full((num_targets, a.k), -np.inf, dtype=np.float32)
    for n in range(num_targets):
        score_L = a.keys.key_LA.astype(np.float64) @ a.target_NA[n].astype(np.float64)
        if a.bias_L is not None:
            score_L += a.bias_L
        if a.category_score_NC is not None:
            score_L += a.category_score_NC[n][a.category_L]
        if a.bonus is not None:
            np.add.at(score_L, a.bonus.index[a.bonus.start_N1[n] : a.bonus.start_N1[n + 1]], a.bonus.value)
        order = sorted(range(length), key=lambda j: (-score_L[j], -j))
        kept = [j for j in order if a.valid_L is None or a.valid_L[j]][: a.k]
        index_NK[n, : len(kept)] = kept
        with np.errstate(over="ignore"):  # beyond float32 a score is infinite
            score_NK[n, : len(kept)] = score_L[kept]
    return index_NK, score_NK
