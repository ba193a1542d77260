"""Taste vectors: who buys this also buys that, as a truncated SVD of the user-item matrix of the training period.

A user's profile is the weighted sum of the vectors of the behaviors; its cosine with a candidate's vector is an input of the head. It is
collaborative evidence about items the user has never touched, where attention over few matching behaviors has little to say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.features import TASTE_SPANS

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
_MIN_USERS = 5


@dataclass(frozen=True, slots=True)
class TasteTable:
    """`vector` f32 [I, T] and `weight` f32 [I]; a profile is sum_j weight[j] * vector[j]."""

    vector: F32
    weight: F32

    def profile(self, item: npt.NDArray[np.integer]) -> F64:
        """Profile of the behaviors `item` [L]: f64 [T]."""
        total: F64 = np.einsum("l,lt->t", self.weight[item].astype(np.float64), self.vector[item])
        return total

    def profiles(self, item: npt.NDArray[np.integer], whole: F64) -> F64:
        """Profiles of the newest `TASTE_SPANS` of the behaviors `item` [L], oldest first; `whole` is that of all: f64 [S, T]."""
        return np.stack([whole if span is None else self.profile(item[-span:]) for span in TASTE_SPANS])


def fit_taste(user: npt.NDArray[np.int64], item: npt.NDArray[np.int64], num_items: int, width: int, seed: int) -> TasteTable:
    """Fit taste vectors on the given behaviors.

    Args:
        user, item: int64 [E] codes of each behavior.
        num_items: I.
        width: T; fewer when the matrix is smaller (the remaining columns are zero).
        seed: of the solver's starting vector.
    """
    import scipy.sparse as sp
    from scipy.sparse.linalg import svds

    vector = np.zeros((num_items, width), dtype=np.float32)
    weight = np.zeros(num_items, dtype=np.float32)
    if len(item) == 0:
        return TasteTable(vector, weight)
    num_users = int(user.max()) + 1
    matrix = sp.csr_matrix((np.ones(len(item)), (user, item)), shape=(num_users, num_items))
    matrix.sum_duplicates()
    matrix.data = np.log1p(matrix.data)
    users = np.bincount(matrix.indices, minlength=num_items)
    kept = np.flatnonzero(users >= _MIN_USERS)
    rank = min(width, len(kept) - 1, num_users - 1)
    if rank < 1:
        return TasteTable(vector, weight)
    idf = np.log((num_users + 1) / (users[kept] + 1))
    matrix = matrix[:, kept] @ sp.diags(idf)
    norm = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    matrix = sp.diags(1.0 / np.maximum(norm, 1e-9)) @ matrix
    _, singular, right = svds(matrix, k=rank, rng=np.random.default_rng(seed))
    scale = np.sqrt(np.maximum(singular, 1e-12))
    vector[kept, :rank] = right.T * (scale / max(float(scale[-1]), 1e-9))
    weight[kept] = idf
    return TasteTable(vector, weight)
