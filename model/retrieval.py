"""Catalogue retrieval for `/v1/recommend`: a pool of candidates worth scoring."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

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
_FLAT_ITEMS = 200_000
"""Up to this many items all are compared (13 ms for 50 seeds); beyond, the lists of an inverted file that lie nearest."""
_LISTS_READ = 32


class Retrieval:
    """Items near the user's newest distinct behaviors in the representation table (cosine), those behaviors themselves, and popular items.

    Only items with a row of their own are retrieved. The neighbours come from faiss where it is installed (exact up to 200,000 items,
    approximate beyond: inverted lists), from NumPy otherwise.

    Args: `rest` is called between its parts.
    """

    def __init__(self, catalogue: Catalogue, tables: RankTables, rest: Callable[[], None] = lambda: None) -> None:
        self._catalogue = catalogue
        self._place = np.flatnonzero(catalogue.item_row[:-1] >= FIRST_ROW)
        row = catalogue.item_row[self._place]
        category = catalogue.category_row[catalogue.category[self._place]]
        vector = np.concatenate([tables.item[row], tables.category[category]], axis=1)
        self._vector = (vector / np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), 1e-9)).astype(np.float32)
        self._column = np.full(len(catalogue) + 1, -1, dtype=np.int64)
        self._column[self._place] = np.arange(len(self._place))
        rest()
        popularity = catalogue.statistic[self._place, ITEM_STATISTICS.index("log_share_30d")]
        self._popular = np.argsort(-popularity, kind="stable")
        self._index, self._reason = _index_of(self._vector)

    def describe(self) -> dict[str, str]:
        """What finds the neighbours, and why."""
        return {"backend": "numpy" if self._index is None else "faiss", "reason": self._reason}

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
            import faiss

            # A pool of threads in each request would fight the other requests'.
            faiss.omp_set_num_threads(1)
            found: npt.NDArray[np.int64] = self._index.search(self._vector[seeds], size)[1]
            return found
        similarity = self._vector[seeds] @ self._vector.T
        return np.argsort(-similarity, axis=1, kind="stable")[:, :size]


def _index_of(vector: npt.NDArray[np.float32]) -> tuple[Any, str]:
    """A faiss index over the vectors and what it is, or None and why not."""
    if importlib.util.find_spec("faiss") is None:
        return None, "NumPy, all items compared: faiss is not installed (extra: cpu or gpu)"
    if len(vector) == 0:
        return None, "no item has a row of its own"
    import faiss

    faiss.omp_set_num_threads(1)
    size, width = vector.shape
    index: Any
    if size <= _FLAT_ITEMS:
        index = faiss.IndexFlatIP(width)
        index.add(vector)
        return index, "faiss flat, all items compared"
    lists = int(2 * size**0.5)
    index = faiss.index_factory(width, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(vector[np.random.default_rng(0).choice(size, min(size, 50 * lists), replace=False)])
    index.add(vector)
    index.nprobe = min(_LISTS_READ, lists)
    return index, f"faiss inverted lists, {index.nprobe} of {lists} read: approximate"
