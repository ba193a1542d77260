"""Approximate search with faiss, for studies: inverted lists, a graph, product codes. Declared approximate, never chosen by "auto".

At the lengths of one user an index does not pay (docs/results): it is built anew when the user changes, and loses some of the best.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels.search.arguments import F32, I32, SearchArguments

_FEWEST = 1000
"""Below this many keys nothing can be trained; the index is then a flat one, and exact."""


@dataclass(frozen=True, slots=True)
class IndexKind:
    """A kind of index: what it is, its faiss factory text for (L, width), and how hard a search for k looks."""

    what: str
    factory: Callable[[int, int], str]
    effort: Callable[[Any, int], None]


def _lists(length: int) -> int:
    return max(1, int(math.sqrt(length)))


def _look_in_lists(index: Any, k: int) -> None:
    # An eighth of the lists, and more where k behaviors are spread over many of them.
    index.nprobe = min(index.nlist, max(4, index.nlist // 8, 2 * k * index.nlist // max(1, index.ntotal)))


def _look_in_graph(index: Any, k: int) -> None:
    index.hnsw.efSearch = max(64, 2 * k)


def _look_in_codes(index: Any, k: int) -> None:
    index.k_factor = 8.0


KINDS = {
    "ivf": IndexKind("inverted lists, an eighth of them read", lambda length, width: f"IVF{_lists(length)},Flat", _look_in_lists),
    "hnsw": IndexKind("graph of 32 neighbours", lambda length, width: "HNSW32,Flat", _look_in_graph),
    "pq": IndexKind(
        "product codes of 4 bits, the best 8 k scored again", lambda length, width: f"PQ{width // 2}x4fs,RFlat", _look_in_codes
    ),
}


class FaissIndex:
    """One user's keys in an approximate index, built once for many searches.

    Args: `kind` of KINDS; `attn_behavior_LA` f32 [L, A] finite; `bias_L` f32 [L] is added to every score (it travels as one more dimension
    of the keys); `num_threads` of the build.
    Raises: ValueError for an unknown kind; RuntimeError when faiss is not installed.
    """

    def __init__(self, kind: str, attn_behavior_LA: F32, *, bias_L: F32 | None = None, num_threads: int = 1) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        able, reason = _installed()
        if not able:
            raise RuntimeError(f"search backend 'faiss-{kind}' cannot run: {reason}")
        import faiss

        self._kind = KINDS[kind]
        self._biased = bias_L is not None
        key = _widened(attn_behavior_LA, bias_L)
        length, width = key.shape
        faiss.omp_set_num_threads(num_threads)
        flat = length < _FEWEST
        self._index: Any = faiss.index_factory(width, "Flat" if flat else self._kind.factory(length, width), faiss.METRIC_INNER_PRODUCT)
        self._flat = flat
        if not flat:
            self._index.train(key)
        if length:
            self._index.add(key)

    def search(self, attn_target_NA: F32, k: int, *, num_threads: int = 1) -> tuple[I32, F32]:
        """Index int32 [N, k] and score f32 [N, k], best first, ties newer first; -1 and -inf where fewer than k were found."""
        import faiss

        faiss.omp_set_num_threads(num_threads)
        size = len(attn_target_NA)
        target = _widened(attn_target_NA, np.ones(size, np.float32) if self._biased else None)
        if not self._flat:
            self._kind.effort(self._index, k)
        if size == 0 or self._index.ntotal == 0:
            return np.full((size, k), -1, np.int32), np.full((size, k), -np.inf, np.float32)
        score, found = self._index.search(target, k)
        score = np.where(found >= 0, score, -np.inf).astype(np.float32)
        order = np.lexsort((-found, -score), axis=1)
        return np.take_along_axis(found, order, axis=1).astype(np.int32), np.take_along_axis(score, order, axis=1)


class ApproximateBackend:
    """A kind of index behind the protocol of the search backends: built for the call, then searched."""

    def __init__(self, kind: str) -> None:
        self._name = kind

    def can_run(self, arguments: SearchArguments | None = None) -> tuple[bool, str]:
        """Whether faiss is installed and the search is a plain inner product with bias over all behaviors."""
        able, reason = _installed()
        if not able:
            return False, reason
        if arguments is not None and (arguments.category_score_NC is not None or arguments.bonus is not None):
            return False, "faiss has no category scores and no item bonus; widen the keys instead"
        return True, f"approximate: {KINDS[self._name].what}; built in each call"

    def search(self, a: SearchArguments) -> tuple[I32, F32]:
        """See `kernels.search_topk`; some of the best may be missing."""
        column = np.arange(a.keys.length) if a.valid_L is None else np.flatnonzero(a.valid_L)
        bias = None if a.bias_L is None else a.bias_L[column]
        index = FaissIndex(self._name, a.keys.key_LA[column], bias_L=bias, num_threads=a.num_threads)
        found, score = index.search(a.target_NA, a.k, num_threads=a.num_threads)
        if len(column) == 0:
            return found, score
        return np.where(found >= 0, column[found], -1).astype(np.int32), score


APPROXIMATE = {f"faiss-{kind}": ApproximateBackend(kind) for kind in KINDS}


def recall(index_NK: I32, exact_NK: I32) -> float:
    """Share of the exact kept behaviors that `index_NK` holds too; 1 where nothing is to be kept."""
    wanted = int((exact_NK >= 0).sum())
    found = sum(len(np.intersect1d(row[row >= 0], exact[exact >= 0])) for row, exact in zip(index_NK, exact_NK, strict=True))
    return found / wanted if wanted else 1.0


def _installed() -> tuple[bool, str]:
    if importlib.util.find_spec("faiss") is None:
        return False, "faiss is not installed (extra: cpu or gpu)"
    return True, "faiss"


def _widened(rows: F32, last: F32 | None) -> F32:
    """Rows with one more column; zeros make the width even, as product codes need it."""
    parts = [rows] if last is None else [rows, last[:, None]]
    if sum(part.shape[1] for part in parts) % 2:
        parts.append(np.zeros((len(rows), 1), dtype=np.float32))
    return np.ascontiguousarray(np.concatenate(parts, axis=1))
