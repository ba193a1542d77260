"""faiss as a rival: exact search by `faiss.knn`, the position bias as one more dimension."""

from __future__ import annotations

import faiss
import numpy as np

from kernels.bench.search_bench import Found, SearchProblem


class FaissSearch:
    """Flat inner product over the user's keys."""

    def __init__(self, num_threads: int) -> None:
        self._threads = num_threads

    def __call__(self, one: SearchProblem) -> Found:
        faiss.omp_set_num_threads(self._threads)
        target, key = one.target_NA, one.key_LA
        if one.bias_L is not None:
            key = np.concatenate([key, one.bias_L[:, None]], axis=1)
            target = np.concatenate([target, np.ones((len(target), 1), np.float32)], axis=1)
        score, index = faiss.knn(target, key, one.shape.kept, metric=faiss.METRIC_INNER_PRODUCT)
        return index.astype(np.int32), score
