"""Scoring without torch: an artifact, one user's history, candidates in; click probabilities out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels import HistoryRows, SearchKeys, attention_weight, candidate_rows, candidates_backends, features_backends, lookup_backends
from model.artifact import Artifact
from model.artifact_layout import check_layout
from model.candidates import Candidates
from model.catalogue import Catalogue
from model.embedding_rows import EmbeddingRows
from model.graph_scoring import GraphScoring
from model.growing_rows import GrowingRows
from model.kernel_scoring import KernelScoring
from model.occurrences import Occurrences
from model.recency import MAX_LENGTH
from model.record_table import Occurring, RecordTable
from model.request_features import request_features
from model.retrieval import Retrieval
from model.tables_layout import UNKNOWN_ROW
from model.user_state import UserState, activity_extended, activity_of

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]
_REBUILD = 256
"""Appends of more behaviors than this prepare the user anew: the incremental path costs a Python step per behavior."""
_BEHIND = 512
"""So many behaviors may come or leave before a user's indexes are made anew: 3 ms at 100,000 behaviors, a few microseconds each."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Which behaviors search kept, heaviest first, E per candidate: `index_NE` i32 positions in the user's sequence (-1: none), `score_NE`
    and `weight_NE` f32 before and after softmax."""

    index_NE: I32
    score_NE: F32
    weight_NE: F32


@dataclass(frozen=True, slots=True)
class Scored:
    """`click_probability_N` f32; `unknown_N` bool: scored with the unknown row; stage times; `kept` when asked for."""

    click_probability_N: F32
    unknown_N: npt.NDArray[np.bool_]
    search_ms: float
    rank_ms: float
    kept: Kept | None


class ScoringRuntime:
    """A loaded model version. Thread safe: everything it holds is read-only.

    Use `ScoringRuntime.load`.
    """

    def __init__(self, artifact: Artifact, num_threads: int, search: str, ranking: str, rest: Callable[[], None]) -> None:
        if not artifact.verified:
            check_layout(artifact)
        config = self.config = artifact.config
        self.version = artifact.version
        self.metrics: dict[str, Any] = artifact.metrics
        self.as_of = int(config["as_of"])
        self._model, self._threads = config["model"], num_threads
        self.max_kept = int(self._model["kept"])
        self.longest = min(int(self._model["longest"] or MAX_LENGTH), MAX_LENGTH)
        self.catalogue = Catalogue(artifact)
        rest()
        self._embedding = EmbeddingRows(artifact)
        self._scoring: KernelScoring | GraphScoring
        self._keys_with_categories = False
        if config["scoring"] == "kernels":
            self._scoring = KernelScoring(artifact, self._embedding, num_threads, search, ranking)
            self._keys_with_categories = self._scoring.of_category
        elif (search, ranking) != ("auto", "auto"):
            raise ValueError(f"{artifact.version} is scored by its own graph: backends cannot be chosen, got {search!r} and {ranking!r}")
        else:
            self._scoring = GraphScoring(artifact, self._embedding, num_threads)
        rest()
        self._rows = self._embedding.of_targets(self.catalogue, self._scoring.attn_scale)
        self._retrieval = Retrieval(self.catalogue, self._embedding.tables, rest)

    @classmethod
    def load(
        cls,
        artifacts: Path,
        version: str | None = None,
        *,
        num_threads: int = 1,
        search: str = "auto",
        ranking: str = "auto",
        verified: str | None = None,
        rest: Callable[[], None] = lambda: None,
    ) -> ScoringRuntime:
        """Load and verify a version (None: `CURRENT`).

        Args: `num_threads` per request, unless it says otherwise; `search` and `ranking` backends by name, or "auto"; `verified` as that of
        `Artifact`: for a version that was verified before; `rest` is called between the parts of the work, a few ms each.
        Raises: ArtifactError; ValueError or RuntimeError for a backend that is unknown or cannot run.
        """
        return cls(Artifact(artifacts, version, verified=verified), num_threads, search, ranking, rest)

    def prepare(self, item_hash_L: U64, timestamp_L: I64) -> UserState:
        """Prepare a user's history, oldest first: u64 [L] and i64 [L]. Only the newest behaviors the model reads are kept."""
        cut = slice(max(0, len(item_hash_L) - self.longest), None)
        item_hash, timestamp = np.ascontiguousarray(item_hash_L[cut]), np.ascontiguousarray(timestamp_L[cut])
        catalogue, category, item_row, category_row = self._places(item_hash)
        found = Occurring.of(item_hash)
        occurrences, categories = Occurrences.build(found), RecordTable.build(Occurring.of(category), timestamp)
        return UserState(
            rows=GrowingRows.of([item_hash, timestamp, catalogue, item_row, category_row]),
            keys=SearchKeys.joined(self._embedding.attn_parts(item_row, category_row), self._category_of_keys(category_row)),
            items=RecordTable.build(found, timestamp, occurrences.index),
            categories=categories,
            occurrences=occurrences,
            record_rows=self._record_rows(occurrences, categories),
            activity=activity_of(timestamp),
            profile=self.catalogue.taste.profile(catalogue),
        )

    def extend(self, state: UserState, item_hash_M: U64, timestamp_M: I64, keep: int = MAX_LENGTH) -> UserState:
        """The state after M newer behaviors, none older than the newest known; the old state stays valid.

        Args: `keep` newest behaviors, no more than the model reads.
        """
        length, new = state.length, len(item_hash_M)
        drop = max(0, length + new - min(keep, self.longest))
        if drop >= length or max(new, drop) > _REBUILD:
            item_hash, timestamp = np.concatenate([state.item_hash_L, item_hash_M]), np.concatenate([state.timestamp_L, timestamp_M])
            return self.prepare(item_hash[drop:], timestamp[drop:])
        item_hash_M = np.ascontiguousarray(item_hash_M)
        catalogue, category_M, item_row, category_row = self._places(item_hash_M)
        category, taste, before = self.catalogue.category, self.catalogue.taste, state.catalogue_L
        item_hash_L, timestamp_L = state.item_hash_L, state.timestamp_L
        items = state.items.extended(lambda rows: item_hash_L[rows], timestamp_L, item_hash_M, timestamp_M, drop)
        categories = state.categories.extended(lambda rows: category[before[rows]], timestamp_L, category_M, timestamp_M, drop)
        occurrences = state.occurrences.extended(item_hash_M, length, item_hash_L[:drop])
        if occurrences.behind >= _BEHIND:
            occurrences = occurrences.rebuilt()
            items, categories = items.rebuilt(occurrences.index), categories.rebuilt()
        return UserState(
            rows=state.rows.appended([item_hash_M, timestamp_M, catalogue, item_row, category_row], drop),
            keys=state.keys.append(self._embedding.attn(item_row, category_row), self._category_of_keys(category_row), drop),
            items=items,
            categories=categories,
            occurrences=occurrences,
            record_rows=self._record_rows(occurrences, categories),
            activity=activity_extended(state.activity, timestamp_L, timestamp_M, drop),
            profile=state.profile + taste.profile(catalogue) - taste.profile(before[:drop]),
        )

    def score(self, state: UserState, candidate_hash_N: U64, timestamp: int, explain: int = 0, num_threads: int | None = None) -> Scored:
        """Score N candidates for a prepared user.

        Args: `candidate_hash_N` u64 [N]; `timestamp` unix seconds of the request; `explain` behaviors to return per candidate, 0..K;
        `num_threads` of the kernels, None for those given to `load`.
        """
        started, threads = time.perf_counter(), self._threads if num_threads is None else num_threads
        rows = candidate_rows(candidate_hash_N, self._rows, state.record_rows)
        candidates = Candidates(candidate_hash_N, rows)
        extra = self._features(state, candidates, timestamp)
        ranked = self._scoring.score(state, candidates, timestamp, extra, threads)
        kept = self._kept(ranked.index_NK, ranked.score_NK, explain) if explain else None
        rank_ms = (time.perf_counter() - started) * 1e3 - ranked.search_ms
        return Scored(ranked.click_probability_N, rows.item_row_N == UNKNOWN_ROW, ranked.search_ms, rank_ms, kept)

    def retrieve(self, state: UserState, pool: int, exclude_seen: bool = False) -> U64:
        """Hashes of up to `pool` distinct candidates for the user, for ranking: u64."""
        return self._retrieval.candidates(state, pool, exclude_seen)

    def item_id(self, item_hash: int) -> str | None:
        """The item's id, None for a hash the artifact does not know."""
        return self.catalogue.item_id(item_hash)

    def item_text(self, item_hash: int) -> dict[str, str]:
        """Descriptive texts of the item, empty for a hash the artifact does not know."""
        return self.catalogue.item_text(item_hash)

    def describe(self) -> dict[str, Any]:
        """Sizes, and which backends run and why."""
        return {
            "version": self.version,
            "items": len(self.catalogue),
            "attention_width": self._embedding.attn_width,
            "representation_width": self._embedding.width,
            "kept": self.max_kept,
            "longest": self.longest,
            "as_of": self.as_of,
            "scoring": self.config["scoring"],
            **self._scoring.describe(),
            "retrieval": self._retrieval.describe(),
            "lookup": {name: list(why) for name, why in lookup_backends().items()},
            "candidates": {name: list(why) for name, why in candidates_backends().items()},
            "features": {name: list(why) for name, why in features_backends().items()},
        }

    def _record_rows(self, occurrences: Occurrences, categories: RecordTable) -> HistoryRows:
        return HistoryRows(occurrences.index, categories.by_code(len(self.catalogue.category_row)))

    def _places(self, item_hash: U64) -> tuple[I32, I32, I32, I32]:
        """Places in the catalogue, category codes, table rows of items and of categories."""
        place = self.catalogue.places(item_hash)
        category = self.catalogue.category[place]
        return place, category, self.catalogue.item_row[place], self.catalogue.category_row[category]

    def _category_of_keys(self, category_row: I32) -> I32 | None:
        return category_row if self._keys_with_categories else None

    def _features(self, state: UserState, candidates: Candidates, timestamp: int) -> F32:
        if not self._model["features"]:
            return np.zeros((len(candidates.item_hash_N), 0), dtype=np.float32)
        return request_features(state, self.catalogue, candidates, timestamp)

    def _kept(self, index_NK: I32, score_NK: F32, explain: int) -> Kept:
        # Search answers best first, so the heaviest weights come first as they are.
        weight = attention_weight(index_NK, score_NK)
        return Kept(index_NK[:, :explain], score_NK[:, :explain], weight[:, :explain])
