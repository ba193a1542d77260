"""The slow obvious truth of stage 2: loops in float64."""

from __future__ import annotations

import math

import numpy as np

from kernels.ranking.arguments import F32, RankArguments, check_values
from kernels.ranking.bfloat16 import as_float32


def can_run() -> tuple[bool, str]:
    """Always."""
    return True, "plain NumPy in float64"


def pool(a: RankArguments) -> tuple[F32, F32]:
    """See `kernels.pool_and_score`."""
    check_values(a)
    num_targets = len(a.index_NK)
    item, category, recency = (as_float32(table) for table in (a.tables.item, a.tables.category, a.tables.recency))
    probability, mass = np.zeros(num_targets, np.float32), np.zeros(num_targets, np.float32)
    for n in range(num_targets):
        kept = [(int(j), float(s)) for j, s in zip(a.index_NK[n], a.score_NK[n], strict=True) if j >= 0]
        h = np.zeros(a.tables.width)
        log_mass = 0.0
        if kept:
            best = max(s for _, s in kept)
            total = sum(math.exp(s - best) for _, s in kept)
            log_mass = np.logaddexp(0.0, best + math.log(total))
            for j, s in kept:
                parts = (
                    item[a.behavior.item_L[j]],
                    category[a.behavior.category_L[j]],
                    recency[a.behavior.recency_L[j]],
                )
                h += math.exp(s - best) / total * np.concatenate(parts).astype(np.float64)
        u = np.concatenate([item[a.target.item_N[n]], category[a.target.category_N[n]], recency[0]])
        rest = a.head.rest(np.array([log_mass]), a.extra_NE[n : n + 1].astype(np.float64))[0]
        x = np.concatenate([u.astype(np.float64), h, u * h, rest])
        x = x @ a.head.w1 + a.head.b1
        x = np.where(x >= 0, x, a.head.a1 * x)
        x = x @ a.head.w2 + a.head.b2
        x = np.where(x >= 0, x, a.head.a2 * x)
        logit = float(x @ a.head.w3) + a.head.b3
        probability[n] = 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
        mass[n] = log_mass
    return probability, mass
