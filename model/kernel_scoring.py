"""Both stages of an artifact through the kernels: exact search, then fused pooling and ranking."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels import BehaviorRows, TargetRows, search_backends, search_topk
from model.artifact import Artifact
from model.candidates import Candidates, Ranked
from model.embedding_rows import EmbeddingRows
from model.ranker import Ranker
from model.recency import NUM_AGES, bucket_of_hours, bucket_of_recency
from model.user_state import UserState

F32 = npt.NDArray[np.float32]


class KernelScoring:
    """Scores with `kernels.search_topk` and `kernels.pool_and_score` (or `rank.onnx`).

    Args: `search`, `ranking` backends by name, or "auto".
    Raises: ValueError or RuntimeError for a backend that is unknown or cannot run.
    """

    def __init__(self, artifact: Artifact, rows: EmbeddingRows, num_threads: int, search: str, ranking: str) -> None:
        self._search, self._rows = search, rows
        self._kept = int(artifact.config["model"]["kept"])
        width = rows.attn_width // 2
        self._scale = np.float32(1 / math.sqrt(2 * width))
        recency = rows.attn_recency.astype(np.float64)
        bias_P = (recency @ recency[0] / math.sqrt(width)).astype(np.float32)
        self._bias = bias_P
        self._ages = bool(artifact.config["model"]["ages"])
        self._recency, self._hours = bucket_of_recency(), bucket_of_hours()
        self._bias_of_recency = None if self._ages else bias_P[self._recency]
        self._bonus = float(artifact.array("same_item_bonus")[0])
        self._ranker = Ranker(artifact, rows.tables, ranking, num_threads)

    def describe(self) -> dict[str, Any]:
        """Which backends run, and why."""
        backends = {name: list(why) for name, why in search_backends().items()}
        return {"search": {"asked": self._search, "backends": backends}, "ranking": self._ranker.describe()}

    def score(self, state: UserState, candidates: Candidates, timestamp: int, extra_NE: F32, num_threads: int) -> Ranked:
        """Score every candidate; `timestamp` unix seconds of the request."""
        started = time.perf_counter()
        length = state.length
        recency = np.ascontiguousarray(self._recency[length:0:-1])
        if self._bias_of_recency is None:
            hours = np.clip((timestamp - state.timestamp_L) // 3600, 0, len(self._hours) - 1)
            recency = recency * np.int32(NUM_AGES) + self._hours[hours]
            bias = self._bias[recency]
        else:
            bias = np.ascontiguousarray(self._bias_of_recency[length:0:-1])
        index, score = search_topk(
            candidates.attn_NA * self._scale,  # 1/sqrt(2d) of equation 1
            state.keys,
            min(self._kept, max(length, 1)),
            bias_L=bias,
            bonus=state.occurrences.bonus(candidates.item_hash_N, self._bonus) if self._bonus else None,
            backend=self._search,
            num_threads=num_threads,
        )
        search_ms = (time.perf_counter() - started) * 1e3
        target = TargetRows(self._rows.target_item(candidates.item_row_N), self._rows.target_category(candidates.category_row_N))
        behavior = BehaviorRows(state.item_row_L, state.category_row_L, recency)
        return Ranked(self._ranker.rank(index, score, behavior, target, extra_NE, num_threads), index, score, search_ms)
