"""Both stages of an artifact through the kernels: exact search, then fused pooling and ranking."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels import BehaviorRows, ItemBonus, TargetRows, search_backends, search_topk
from model.artifact import Artifact
from model.candidates import Candidates, Ranked
from model.embedding_rows import EmbeddingRows
from model.ranker import Ranker
from model.recency import MAX_LENGTH, NUM_AGES, PairRuns, bucket_of_hours, bucket_of_recency, sessions_back
from model.tables_layout import UNKNOWN_ROW
from model.user_state import UserState

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
_CELLS = 4_000_000
"""Scores of categories at a time, a bound on a request's memory: more candidates are searched in several runs."""


class KernelScoring:
    """Scores with `kernels.search_topk` and `kernels.pool_and_score` (or `rank.onnx`).

    Args: `search`, `ranking` backends by name, or "auto".
    Raises: ValueError or RuntimeError for a backend that is unknown or cannot run.
    """

    def __init__(self, artifact: Artifact, rows: EmbeddingRows, num_threads: int, search: str, ranking: str) -> None:
        self._search, self._rows = search, rows
        model = artifact.config["model"]
        self._kept = int(model["kept"])
        width = rows.attn_width // 2
        self.attn_scale = 1 / math.sqrt(2 * width)
        """Of targets in attention space, by equation 1."""
        recency = rows.attn_recency.astype(np.float64)
        bias_P = (recency @ recency[0] / math.sqrt(width)).astype(np.float32)
        self._bias = bias_P
        # Artifacts older than an option do not name it.
        self._ages, self._sessions = bool(model["ages"]), bool(model.get("sessions", False))
        self._recency, self._hours, self._runs = bucket_of_recency(), bucket_of_hours(), PairRuns()
        # From the oldest place of all to the newest: those of a history are its end, and nothing is copied.
        self._by_place = np.ascontiguousarray(self._recency[:0:-1])
        self._bias_by_place = bias_P[self._by_place]
        self._bonus = float(artifact.array("same_item_bonus")[0])
        self.of_category = bool(model.get("same_category_bonus", False))
        self._category_bonus = artifact.array("same_category_bonus")[0] if self.of_category else np.float32(0)
        self._ranker = Ranker(artifact, rows.tables, ranking, num_threads)

    def describe(self) -> dict[str, Any]:
        """Which backends run, and why."""
        backends = {name: list(why) for name, why in search_backends().items()}
        return {"search": {"asked": self._search, "backends": backends}, "ranking": self._ranker.describe()}

    def score(self, state: UserState, candidates: Candidates, timestamp: int, extra_NE: F32, num_threads: int) -> Ranked:
        """Score every candidate; `timestamp` unix seconds of the request."""
        started = time.perf_counter()
        recency, bias = self._recency_of(state.timestamp_L, timestamp)
        index, score = self._best(state, candidates, bias, num_threads)
        search_ms = (time.perf_counter() - started) * 1e3
        of = candidates.rows
        target = TargetRows(self._rows.target_item(of.item_row_N), self._rows.target_category(of.category_row_N))
        behavior = BehaviorRows(state.item_row_L, state.category_row_L, recency)
        return Ranked(self._ranker.rank(index, score, behavior, target, extra_NE, num_threads), index, score, search_ms)

    def _recency_of(self, timestamp_L: npt.NDArray[np.int64], now: int) -> tuple[I32, F32]:
        """The row of the recency tables of every behavior, and its bias: [L] each."""
        if self._sessions:
            row_L = self._recency[sessions_back(timestamp_L)]
            if self._ages:
                hours = np.clip((now - timestamp_L) // 3600, 0, len(self._hours) - 1)
                row_L = row_L * np.int32(NUM_AGES) + self._hours[hours]
            return row_L, self._bias[row_L]
        if self._ages:
            row_R, count_R = self._runs.of(timestamp_L, now)
            return row_R.repeat(count_R), self._bias[row_R].repeat(count_R)
        newest = slice(MAX_LENGTH - len(timestamp_L), MAX_LENGTH)
        return self._by_place[newest], self._bias_by_place[newest]

    def _best(self, state: UserState, candidates: Candidates, bias_L: F32, num_threads: int) -> tuple[I32, F32]:
        """Positions of the kept of every candidate and their scores, [N, K] each."""
        count = len(candidates.item_hash_N)
        block = max(1, _CELLS // self._rows.num_categories) if self.of_category else max(1, count)
        found = []
        for first in range(0, max(1, count), block):
            rows = slice(first, first + block)
            scored = search_topk(
                candidates.rows.attn_NA[rows],
                state.keys,
                min(self._kept, max(state.length, 1)),
                bias_L=bias_L,
                category_score_NC=self._of_own_category(candidates.rows.category_row_N[rows]) if self.of_category else None,
                bonus=self._bonus_of(state, candidates, rows),
                backend=self._search,
                num_threads=num_threads,
            )
            found.append(scored)
        if len(found) == 1:
            return found[0]
        index, score = zip(*found, strict=True)
        return np.concatenate(index), np.concatenate(score)

    def _bonus_of(self, state: UserState, candidates: Candidates, rows: slice) -> ItemBonus | None:
        if not self._bonus:
            return None
        return state.occurrences.bonus(candidates.item_hash_N[rows], candidates.rows.indexed_N[rows], self._bonus)

    def _of_own_category(self, category_row_N: I32) -> F32:
        """The bonus of behaviors of each candidate's category: f32 [N, C], 0 elsewhere; the unknown category is nobody's own."""
        score_NC = np.zeros((len(category_row_N), self._rows.num_categories), dtype=np.float32)
        known = np.flatnonzero(category_row_N > UNKNOWN_ROW)
        score_NC[known, category_row_N[known]] = self._category_bonus
        return score_NC
