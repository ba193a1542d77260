"""The catalogue of an artifact: item hashes to places, and what is known about each item.

Arrays about items have one row more than there are items, for an item nobody knows; place -1 reaches it.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels import HashIndex, ItemFacts, lookup_rows
from model.artifact import Artifact, ArtifactError
from model.features import DECAY_DAYS, ITEM_STATISTICS, POPULARITY_DAYS
from model.popularity import PRIOR, PopularityClock
from model.taste import TasteTable


class Catalogue:
    """I items. `item_hash` u64 [I] ascending; `item_row`, `category` i32 [I + 1] table row and category code; `category_row` i32 [C + 1]
    table
    row of each category code; `statistic` f32 [I + 1, S]; `taste` vectors [I + 1, T]; `facts`, the latter two and `popularity`, for the
    compiled features."""

    def __init__(self, artifact: Artifact) -> None:
        self.item_hash: npt.NDArray[np.uint64] = artifact.array("item_hash")
        try:
            self.index = HashIndex(self.item_hash)
        except ValueError as error:
            raise ArtifactError(f"{artifact.path}/item_hash.npy: {error}") from error
        self.item_row: npt.NDArray[np.int32] = artifact.array("item_row")
        self.category: npt.NDArray[np.int32] = artifact.array("item_category")
        self.category_row: npt.NDArray[np.int32] = artifact.array("category_row")
        self.statistic: npt.NDArray[np.float32] = artifact.array("item_statistic")
        self.taste = TasteTable(artifact.array("taste_vector"), artifact.array("taste_weight"))
        clock = (artifact.array(f"popularity_{name}") for name in ("key", "count", "decayed", "first_day", "total"))
        self.popularity = PopularityClock(len(self.item_hash), *clock)
        self._id, self._id_start = artifact.array("item_id"), artifact.array("item_id_start")
        self._text, self._text_start = artifact.array("item_text"), artifact.array("item_text_start")
        size = len(self.item_hash)
        rows = (self.item_row, self.category, self.statistic, self.taste.vector, self.taste.weight)
        if any(len(rows_of) != size + 1 for rows_of in rows) or len(self._id_start) != size + 1:
            raise ArtifactError(f"{artifact.path}: the arrays about items disagree")
        self.facts = self._facts(artifact)

    def __len__(self) -> int:
        return len(self.item_hash)

    def _facts(self, artifact: Artifact) -> ItemFacts:
        clock = self.popularity
        typical = (ITEM_STATISTICS.index("log_interval_days"), ITEM_STATISTICS.index("category_log_interval_days"))
        days = np.array(POPULARITY_DAYS, dtype=np.float64)
        try:
            return ItemFacts(
                statistic=self.statistic,
                interval_columns=typical,
                taste=self.taste.vector,
                popularity_key=clock.key,
                popularity_count=clock.count,
                popularity_decayed=clock.decayed,
                popularity_total=clock.total,
                first_day=int(clock.first_day[0]),
                popularity_days=days,
                decay_days=DECAY_DAYS,
                prior=PRIOR,
            )
        except ValueError as error:
            raise ArtifactError(f"{artifact.path}: {error}") from error

    def places(self, item_hash_M: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        """Place of each item, int32 [M]; -1, the item nobody knows, when unknown."""
        return lookup_rows(item_hash_M, self.index)

    def id_at(self, place: int) -> str:
        """Id of the item at a place 0..I-1."""
        return bytes(self._id[self._id_start[place] : self._id_start[place + 1]]).decode()

    def item_id(self, item_hash: int) -> str | None:
        """Id of the item with this hash, None when unknown."""
        place = self._place(item_hash)
        return None if place < 0 else self.id_at(place)

    def item_text(self, item_hash: int) -> dict[str, str]:
        """Descriptive texts of the item with this hash, empty when unknown."""
        place = self._place(item_hash)
        if place < 0:
            return {}
        text: dict[str, Any] = json.loads(bytes(self._text[self._text_start[place] : self._text_start[place + 1]]))
        return text

    def _place(self, item_hash: int) -> int:
        return int(self.places(np.array([item_hash], dtype=np.uint64))[0])
