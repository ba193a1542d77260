"""Exact search with faiss (flat inner product); the bias travels as one more dimension of the keys."""

from __future__ import annotations

import functools
import importlib.util
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.search.arguments import F32, I32, SearchArguments

_MOST_ON_A_GPU = 2048
_gpu_lock = threading.Lock()


def can_run(arguments: SearchArguments | None = None) -> tuple[bool, str]:
    """Whether faiss is installed and the search is a plain inner product with bias."""
    if importlib.util.find_spec("faiss") is None:
        return False, "faiss is not installed (extra: cpu or gpu)"
    if arguments is not None and (arguments.category_score_NC is not None or arguments.bonus is not None):
        return False, "faiss has no category scores and no item bonus; widen the keys instead"
    return True, "faiss flat inner product; equal scores come in any order before the final sort"


def search(a: SearchArguments) -> tuple[I32, F32]:
    """See `kernels.search_topk`. Among equal scores at the K-th place faiss may keep an older behavior than the other backends."""
    import faiss

    num_targets, length = len(a.target_NA), a.keys.length
    index_NK = np.full((num_targets, a.k), -1, dtype=np.int32)
    score_NK = np.full((num_targets, a.k), -np.inf, dtype=np.float32)
    column = np.arange(length) if a.valid_L is None else np.flatnonzero(a.valid_L)
    if len(column) == 0 or num_targets == 0:
        return index_NK, score_NK
    key, target = a.keys.key_LA[column], a.target_NA
    if a.bias_L is not None:
        key = np.concatenate([key, a.bias_L[column, None]], axis=1)
        target = np.concatenate([target, np.ones((num_targets, 1), dtype=np.float32)], axis=1)
    k = min(a.k, len(column))
    faiss.omp_set_num_threads(a.num_threads)
    score, found = _knn(target, key, k)
    order = np.lexsort((-found, -score), axis=1)
    index_NK[:, :k] = column[np.take_along_axis(found, order, axis=1)]
    score_NK[:, :k] = np.take_along_axis(score, order, axis=1)
    return index_NK, score_NK


def _knn(target: F32, key: F32, k: int) -> tuple[F32, npt.NDArray[np.int64]]:
    import faiss

    if k <= _MOST_ON_A_GPU and (memory := _gpu_memory()) is not None:
        with _gpu_lock:
            found: tuple[F32, npt.NDArray[np.int64]] = faiss.knn_gpu(memory, target, key, k, metric=faiss.METRIC_INNER_PRODUCT)
    else:
        found = faiss.knn(target, key, k, metric=faiss.METRIC_INNER_PRODUCT)
    return found


@functools.lru_cache(maxsize=1)
def _gpu_memory() -> Any:
    """What faiss needs to search on a GPU, for one search at a time; None where faiss is built for CPUs or finds no GPU."""
    import faiss

    return faiss.StandardGpuResources() if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0 else None
