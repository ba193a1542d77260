"""Stage 2: weights, interest and head over the kept behaviors, for all targets at once."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from kernels.backends import chosen
from kernels.checks import array
from kernels.ranking import native_backend, numpy_backend, reference
from kernels.ranking.arguments import F32, I32, BehaviorRows, FeatureBins, HeadWeights, RankTables, TargetRows, checked, finite_where_kept
from kernels.ranking.prepared_head import PreparedHead

__all__ = [
    "BehaviorRows",
    "FeatureBins",
    "HeadWeights",
    "PreparedHead",
    "RankTables",
    "TargetRows",
    "attention_weight",
    "pool_and_score",
    "ranking_backends",
]

_BACKENDS: dict[str, ModuleType] = {"native": native_backend, "numpy": numpy_backend, "reference": reference}


def ranking_backends() -> dict[str, tuple[bool, str]]:
    """Every backend, whether it can run here, and why or why not; the first that can is what "auto" uses."""
    return {name: backend.can_run() for name, backend in _BACKENDS.items()}


def attention_weight(index_NK: I32, score_NK: F32) -> F32:
    """Softmax of the kept scores, 0 where the index is -1: f32 [N, K] of int32 and f32 [N, K]. Raises: ValueError naming the value."""
    index = array("index_NK", index_NK, np.int32, (None, None))
    score = array("score_NK", score_NK, np.float32, index.shape)
    finite_where_kept(index, score)
    return numpy_backend.attention(score, index >= 0)[0]


def pool_and_score(
    index_NK: I32,
    score_NK: F32,
    tables: RankTables,
    behavior: BehaviorRows,
    target: TargetRows,
    extra_NE: F32,
    head: HeadWeights | PreparedHead,
    *,
    backend: str = "auto",
    num_threads: int = 1,
) -> tuple[F32, F32]:
    """Click probability of each target from its kept behaviors (DARE equations 3 to 6).

    Softmax over the kept, gather of representation rows, interest h, x = [u ; h ; u * h ; mass ; extra], head, sigmoid.

    Args:
        index_NK: int32 [N, K] positions among the behaviors, -1 for none. score_NK: f32 [N, K], finite where kept.
        extra_NE: f32 [N, E], finite. head: as folded by `model.artifact`; prepared over these very `tables`, it is not checked
            and packed again in each call.
        backend: "auto", the first that can run, or a name of `ranking_backends()`.
    Returns: click probability f32 [N] and mass f32 [N]; with none kept h = 0 and mass = 0.
    Raises: ValueError naming the argument and the value; RuntimeError when the named backend cannot run, with the reason.
    """
    arguments = checked(index_NK, score_NK, tables, behavior, target, extra_NE, head, num_threads)
    return chosen("ranking", _BACKENDS, backend).pool(arguments)  # type: ignore[no-any-return]
