"""Stage 2 with NumPy: pooling before the target product, one matrix product per layer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kernels.ranking.arguments import F32, RankArguments, check_values
from kernels.ranking.bfloat16 import as_float32

_CELLS = 4_000_000


def can_run() -> tuple[bool, str]:
    """Always."""
    return True, "NumPy"


def attention(score_NK: F32, valid_NK: npt.NDArray[np.bool_]) -> tuple[F32, F32]:
    """Softmax weights [N, K] over the valid kept (zeros where none is) and mass log(1 + sum exp(score)) [N]."""
    score = np.where(valid_NK, score_NK, -np.inf)
    any_valid = valid_NK.any(axis=1)
    best = np.where(any_valid, score.max(axis=1, initial=-np.inf), 0.0)[:, None].astype(np.float32)
    power = np.exp(score - best)
    total = power.sum(axis=1, keepdims=True)
    weight = (power / np.where(total > 0, total, 1.0)).astype(np.float32)
    log_total = best[:, 0] + np.log(np.where(any_valid, total[:, 0], 1.0))
    mass = np.where(any_valid, np.logaddexp(0.0, log_total), 0.0).astype(np.float32)
    return weight, mass


def features(a: RankArguments, rows: slice) -> tuple[F32, F32]:
    """Inputs of the head [n, F] and mass [n] of the targets `rows`."""
    index, valid = np.maximum(a.index_NK[rows], 0), a.index_NK[rows] >= 0
    weight, mass = attention(a.score_NK[rows], valid)
    h = np.concatenate(
        [
            np.matmul(weight[:, None, :], as_float32(table[of_behavior[index]]))[:, 0]
            if len(of_behavior)
            else np.zeros((len(index), table.shape[1]), np.float32)
            for table, of_behavior in (
                (a.tables.item, a.behavior.item_L),
                (a.tables.category, a.behavior.category_L),
                (a.tables.recency, a.behavior.recency_L),
            )
        ],
        axis=1,
    )
    u = target_rows(a, rows)
    return np.concatenate([u, h, u * h, a.head.rest(mass, a.extra_NE[rows])], axis=1), mass


def target_rows(a: RankArguments, rows: slice) -> F32:
    """u = [item ; category ; recency 0] of the targets `rows`: [n, R]."""
    item, category = as_float32(a.tables.item[a.target.item_N[rows]]), as_float32(a.tables.category[a.target.category_N[rows]])
    time = np.broadcast_to(as_float32(a.tables.recency[0]), (len(item), a.tables.recency.shape[1]))
    return np.concatenate([item, category, time], axis=1)


def sigmoid(logit: F32) -> F32:
    """1 / (1 + exp(-logit)) without overflow."""
    power = np.exp(-np.abs(logit))
    return np.where(logit >= 0, 1 / (1 + power), power / (1 + power)).astype(np.float32)


def pool(a: RankArguments) -> tuple[F32, F32]:
    """See `kernels.pool_and_score`; blocks of targets keep the gathered rows under 16 MB."""
    check_values(a)
    num_targets = len(a.index_NK)
    probability, mass = np.zeros(num_targets, np.float32), np.zeros(num_targets, np.float32)
    block = max(1, _CELLS // max(1, a.index_NK.shape[1] * a.tables.width))
    for first in range(0, num_targets, block):
        rows = slice(first, min(first + block, num_targets))
        x, mass[rows] = features(a, rows)
        x = x @ a.head.w1 + a.head.b1
        x = np.maximum(x, 0) + np.float32(a.head.a1) * np.minimum(x, 0)
        x = x @ a.head.w2 + a.head.b2
        x = np.maximum(x, 0) + np.float32(a.head.a2) * np.minimum(x, 0)
        probability[rows] = sigmoid(x @ a.head.w3 + np.float32(a.head.b3))
    return probability, mass
