"""Both stages of an artifact through ONNX Runtime: models that the compiled kernels do not compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from model.artifact import Artifact
from model.candidates import Candidates, Ranked
from model.embedding_rows import EmbeddingRows
from model.onnx_session import open_session
from model.user_state import UserState

F32 = npt.NDArray[np.float32]
_CELLS = 4_000_000
"""Values of one [N, L, R] intermediate, a bound on a request's memory: larger requests are scored in several runs."""


class GraphScoring:
    """Scores with `score.onnx`. Raises: RuntimeError when onnxruntime is not installed."""

    attn_scale = 1.0
    """Of targets in attention space: the graph scales them."""

    def __init__(self, artifact: Artifact, rows: EmbeddingRows, num_threads: int) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise RuntimeError(f"{artifact.version} is scored by ONNX Runtime, which is not installed (extra: cpu): {error}") from error
        self._session = open_session(artifact.path / "score.onnx", num_threads)
        self._rows = rows
        self._least = int(artifact.config["model"]["kept"])
        self._version = onnxruntime.__version__

    def describe(self) -> dict[str, Any]:
        """What scores, and why."""
        why = f"onnxruntime {self._version}: the compiled kernels do not compute this model's stages"
        return {"search": {"asked": "score.onnx"}, "ranking": {"backend": "onnxruntime", "reason": why}}

    def score(self, state: UserState, candidates: Candidates, timestamp: int, extra_NE: F32, num_threads: int) -> Ranked:
        """Score every candidate, by the threads given at the start. The graph does not tell its stages apart: all of its time counts as
        ranking."""
        length, of = state.length, candidates.rows
        padded = max(length, self._least)
        item, category = _padded(state.item_row_L, padded), _padded(state.category_row_L, padded)
        inputs: dict[str, npt.NDArray[Any]] = {
            "attn_behavior_LA": _padded(state.keys.key_LA, padded),
            "repr_behavior_LR": self._rows.content(item, category),
            "behavior_category_L": category.astype(np.int64),
            "behavior_key_L": _padded(state.item_hash_L.view(np.int64), padded),
            "length": np.array([length], dtype=np.int64),
        }
        target: dict[str, npt.NDArray[Any]] = {
            "attn_target_NA": of.attn_NA,
            "repr_target_NR": self._rows.content(of.item_row_N, of.category_row_N, target=True),
            "target_category_N": of.category_row_N.astype(np.int64),
            "target_key_N": candidates.item_hash_N.view(np.int64),
            "extra_NE": extra_NE,
        }
        block = max(1, _CELLS // (padded * self._rows.width))
        parts = [
            self._session.run(None, inputs | {name: value[first : first + block] for name, value in target.items()})
            for first in range(0, len(candidates.item_hash_N), block)
        ]
        if not parts:
            return Ranked(np.zeros(0, np.float32), np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32), 0.0)
        probability, index, score = (np.concatenate(values) for values in zip(*parts, strict=True))
        return Ranked(probability, *_best_first(index.astype(np.int32), score), 0.0)


def _padded(value: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    """At least `length` rows, zeros after the newest behavior: no target sees them."""
    missing = length - len(value)
    return np.concatenate([value, np.zeros((missing, *value.shape[1:]), value.dtype)]) if missing > 0 else value


def _best_first(index_NK: npt.NDArray[np.int32], score_NK: F32) -> tuple[npt.NDArray[np.int32], F32]:
    """Highest score first, newer first among equals, what is not kept last."""
    order = np.lexsort((-index_NK, -score_NK), axis=1)
    return np.take_along_axis(index_NK, order, axis=1), np.take_along_axis(score_NK, order, axis=1)
