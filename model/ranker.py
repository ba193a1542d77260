"""Stage 2 of an artifact: the fused kernel over the tables, or ONNX Runtime over the portable graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kernels import BehaviorRows, FeatureBins, HeadWeights, PreparedHead, RankTables, TargetRows, pool_and_score, ranking_backends
from model.artifact import Artifact
from model.features import FEATURE_RUNS
from model.onnx_session import open_session

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
_CELLS = 4_000_000


class Ranker:
    """Ranks kept behaviors.

    Args: `backend` "auto" (the native kernel where it runs, else ONNX Runtime, else NumPy), "onnxruntime", or a name of
    `ranking_backends()`.
    Raises: ValueError for an unknown name, RuntimeError with the reason when the named backend cannot run.
    """

    def __init__(self, artifact: Artifact, tables: RankTables, backend: str, num_threads: int) -> None:
        self.tables = tables
        a, b3 = artifact.array("head_slope"), artifact.array("head_b3")
        w1, b1, w2, b2, w3 = (artifact.array(f"head_{name}") for name in ("w1", "b1", "w2", "b2", "w3"))
        bins = None
        if artifact.config["model"]["feature_bins"]:
            bins = FeatureBins(artifact.array("feature_low"), artifact.array("feature_width"))
        center = artifact.array("head_center") if artifact.schema > 2 else None
        self.head = HeadWeights(w1, b1, float(a[0]), w2, b2, float(a[1]), w3, float(b3[0]), bins, center)
        self._prepared = PreparedHead(self.head, self.tables, () if bins is None else FEATURE_RUNS)
        self._session: Any = None
        self._backend, self._reason = self._choose(backend)
        if self._backend == "onnxruntime":
            self._session = open_session(artifact.path / "rank.onnx", num_threads)

    def _choose(self, asked: str) -> tuple[str, str]:
        known = ranking_backends() | {"onnxruntime": _onnxruntime_can_run()}
        if asked == "auto":
            order = [name for name in ("native", "onnxruntime", "numpy") if name in known]
            refused = [f"{name}: {known[name][1]}" for name in order if not known[name][0]]
            chosen = next(name for name in order if known[name][0])
            return chosen, "; ".join([known[chosen][1], *refused])
        if asked not in known:
            raise ValueError(f"ranking backend must be auto or one of {', '.join(known)}, got {asked!r}")
        if not known[asked][0]:
            raise RuntimeError(f"ranking backend {asked!r} cannot run: {known[asked][1]}")
        return asked, known[asked][1]

    def describe(self) -> dict[str, str]:
        """The backend in use and why."""
        return {"backend": self._backend, "reason": self._reason}

    def rank(self, index_NK: I32, score_NK: F32, behavior: BehaviorRows, target: TargetRows, extra_NE: F32, num_threads: int) -> F32:
        """Click probability of each target: f32 [N] (see `kernels.pool_and_score`).

        Args: `num_threads` of the kernel; ONNX Runtime takes those given at the start.
        """
        if self._session is None:
            given = (index_NK, score_NK, self.tables, behavior, target, extra_NE, self._prepared)
            return pool_and_score(*given, backend=self._backend, num_threads=num_threads)[0]
        parts = []
        block = max(1, _CELLS // (index_NK.shape[1] * self.tables.width))
        for first in range(0, len(index_NK), block):
            rows = slice(first, first + block)
            parts.append(
                self._session.run(["click_probability_N"], self._inputs(index_NK[rows], score_NK[rows], behavior, target, extra_NE, rows))[
                    0
                ]
            )
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)

    def _inputs(
        self, index: I32, score: F32, behavior: BehaviorRows, target: TargetRows, extra: F32, rows: slice
    ) -> dict[str, npt.NDArray[Any]]:
        valid = index >= 0
        size, kept = index.shape
        gathered = np.zeros((size, kept, self.tables.width), dtype=np.float32)
        item, category = self.tables.item.shape[1], self.tables.category.shape[1]
        if len(behavior.item_L):
            safe = np.maximum(index, 0)
            gathered[:, :, :item] = self.tables.item[behavior.item_L[safe]]
            gathered[:, :, item : item + category] = self.tables.category[behavior.category_L[safe]]
            gathered[:, :, item + category :] = self.tables.recency[behavior.recency_L[safe]]
        time = np.broadcast_to(self.tables.recency[0], (size, self.tables.recency.shape[1]))
        own = np.concatenate([self.tables.item[target.item_N[rows]], self.tables.category[target.category_N[rows]], time], axis=1)
        return {
            "target_NR": own,
            "behavior_NKR": gathered,
            "score_NK": np.where(valid, score, 0.0).astype(np.float32),
            "valid_NK": valid,
            "extra_NE": extra[rows],
        }


def _onnxruntime_can_run() -> tuple[bool, str]:
    try:
        import onnxruntime
    except ImportError as error:
        return False, f"onnxruntime cannot be imported: {error}"
    return True, f"onnxruntime {onnxruntime.__version__}"
