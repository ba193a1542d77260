"""Catalogue retrieval for `/v1/recommend`: a pool of candidates worth scoring."""

from __future__ import annotations

import importlib.util

import numpy as np
import numpy.typing as npt

from kernels import RankTables
from model.catalogue import Catalogue
from model.features import ITEM_STATISTICS
from model.tables_layout import FIRST_ROW
from model.user_state import UserState

U64 = npt.NDArray[np.uint64]
_SEEDS = 50
"""Newest distinct behaviors whose neighbours are looked up."""


class Retrieval:
    """Items near the user's newest distinct behaviors in the representation table (cosine), those behaviors themselves, and popular items.

    Only items with a row of their own are retrieved. faiss searches the neighbours where it is installed, NumPy otherwise.
    """

    def __init__(self, catalogue: Catalogue, tables: RankTables) -> None:
        self._catalogue = catalogue
        self._place = np.flatnonzero(catalogue.item_row[:-1] >= FIRST_ROW)
        row = catalogue.item_row[self._place]
        category = catalogue.category_row[catalogue.category[self._place]]
        vector = np.concatenate([tables.item[row], tables.category[category]], axis=1)
        self._vector = (vector / np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), 1e-9)).astype(np.float32)
        self._column = np.full(len(catalogue) + 1, -1, dtype=np.int64)
        self._column[self._place] = np.arange(len(self._place))
        popularity = catalogue.statistic[self._place, ITEM_STATISTICS.index("log_share_30d")]
        self._popular = np.argsort(-popularity, kind="stable")
        self._index = None
        if importlib.util.find_spec("faiss") is not None and len(self._vector):
            import faiss

            self._index = faiss.IndexFlatIP(self._vector.shape[1])
            self._index.add(self._vector)

    def candidates(self, state: UserState, pool: int, exclude_seen: bool) -> U64:
        """Hashes of at most `pool` distinct items, the most promising sources first: u64."""
        seen = self._column[state.catalogue_L]
        newest, first = np.unique(seen[::-1], return_index=True)
        newest = newest[np.argsort(first)]
        newest = newest[newest >= 0]
        own = newest[: pool // 2]
        seeds = newest[:_SEEDS]
        per_seed = max(1, pool // max(1, len(seeds)))
        near = self._neighbours(seeds, per_seed).T.reshape(-1) if len(seeds) else np.zeros(0, dtype=np.int64)
        share = pool // 4 if len(seeds) else pool
        ordered = np.concatenate([own, self._popular[:share], near, self._popular[share : pool + len(newest)]])
        if exclude_seen:
            ordered = ordered[~np.isin(ordered, seen)]
        _, place = np.unique(ordered, return_index=True)
        chosen = ordered[np.sort(place)][:pool]
        hashes: U64 = self._catalogue.item_hash[self._place[chosen]]
        return hashes

    def _neighbours(self, seeds: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
        size = min(size + 1, len(self._vector))
        if self._index is not None:
            found: npt.NDArray[np.int64] = self._index.search(self._vector[seeds], size)[1]
            return found
        similarity = self._vector[seeds] @ self._vector.T
        return np.argsort(-similarity, axis=1, kind="stable")[:, :size]
