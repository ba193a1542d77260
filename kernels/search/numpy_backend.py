"""Exact search with NumPy: one matrix product, a partition for the K-th best score, ties settled by recency."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.search.arguments import F32, I32, SearchArguments

_CELLS = 4_000_000
_MOST = 1e37
"""Scores that could be larger than this are computed in float64: infinity stands for rows that are not valid."""
Score = npt.NDArray[np.floating[Any]]


def can_run(arguments: SearchArguments | None = None) -> tuple[bool, str]:
    """Always."""
    return True, "NumPy"


def search(a: SearchArguments) -> tuple[I32, F32]:
    """See `kernels.search_topk`; blocks of targets keep the scores under 16 MB."""
    num_targets, length = len(a.target_NA), a.keys.length
    index_NK = np.full((num_targets, a.k), -1, dtype=np.int32)
    score_NK = np.full((num_targets, a.k), -np.inf, dtype=np.float32)
    if length == 0:
        return index_NK, score_NK
    block = max(1, _CELLS // length)
    for first in range(0, num_targets, block):
        last = min(first + block, num_targets)
        score_nL = _scores(a, first, last)
        kept = _kept(score_nL, min(a.k, length))
        row, column = np.nonzero(kept)
        # Newer first, then a stable sort by score, then by row: best first and ties to the newer within each row.
        row, column = row[::-1], column[::-1]
        order = np.argsort(-score_nL[row, column], kind="stable")
        order = order[np.argsort(row[order], kind="stable")]
        row, column = row[order], column[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        index_NK[first + row, rank] = column
        with np.errstate(over="ignore"):  # beyond float32 a score is infinite
            score_NK[first + row, rank] = score_nL[row, column]
    return index_NK, score_NK


def _magnitude(a: SearchArguments) -> float:
    """No score is larger, and no sum on the way to one."""

    def most(value: F32 | None) -> float:
        return 0.0 if value is None or value.size == 0 else max(float(value.max()), -float(value.min()))

    bonus = 0.0 if a.bonus is None else abs(a.bonus.value) * len(a.bonus.index)
    return most(a.target_NA) * most(a.keys.key_LA) * len(a.target_NA[0]) + most(a.bias_L) + most(a.category_score_NC) + bonus


def _scores(a: SearchArguments, first: int, last: int) -> Score:
    target, key = a.target_NA[first:last], a.keys.key_LA
    if _magnitude(a) > _MOST:
        target, key = target.astype(np.float64), key.astype(np.float64)
    score: Score = target @ key.T
    if a.bias_L is not None:
        score += a.bias_L
    if a.category_score_NC is not None:
        score += a.category_score_NC[first:last][:, a.category_L]
    if a.bonus is not None:
        start = a.bonus.start_N1[first : last + 1]
        row = np.repeat(np.arange(last - first), np.diff(start))
        np.add.at(score, (row, a.bonus.index[start[0] : start[-1]]), score.dtype.type(a.bonus.value))
    if a.valid_L is not None:
        score[:, ~a.valid_L] = -np.inf
    return score


def _kept(score_nL: Score, k: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """The k best valid of each row, among equals the newest: bool [n, L]."""
    length = score_nL.shape[1]
    bound = np.partition(score_nL, length - k, axis=1)[:, length - k, None]
    kept = (score_nL >= bound) & (score_nL > -np.inf)
    crowded = np.flatnonzero(kept.sum(axis=1) > k)
    for n in crowded:
        equal = np.flatnonzero(score_nL[n] == bound[n])
        better = int((score_nL[n] > bound[n]).sum())
        kept[n, equal[: len(equal) - (k - better)]] = False
    return kept
