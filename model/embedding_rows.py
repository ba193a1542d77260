"""The embedding tables of an artifact: rows of behaviors and of targets, memory-mapped."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kernels import CatalogueRows, RankTables
from model.artifact import Artifact
from model.catalogue import Catalogue
from model.tables_layout import TWO_SIDED

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


class EmbeddingRows:
    """Attention and representation tables. A shared set is stored once, as the representation tables."""

    def __init__(self, artifact: Artifact) -> None:
        model = artifact.config["model"]
        attn = "repr" if model["tables"] == "shared" else "attn"
        self._attn_item, self._attn_category = artifact.array(f"{attn}_item"), artifact.array(f"{attn}_category")
        self.attn_recency = artifact.array(f"{attn}_recency")
        self.tables = RankTables(artifact.array("repr_item"), artifact.array("repr_category"), artifact.array("repr_recency"))
        two_sided = model["tables"] in TWO_SIDED
        self._target_item = len(self._attn_item) // 2 if two_sided else 0
        self._target_category = len(self._attn_category) // 2 if two_sided else 0
        self.num_categories = len(self._attn_category) // (2 if two_sided else 1)
        self.attn_width: int = self._attn_item.shape[1] + self._attn_category.shape[1]

    @property
    def width(self) -> int:
        """R, of [item ; category ; recency] in representation space."""
        return self.tables.width

    def target_item(self, item_row: I32) -> I32:
        """Rows of `tables.item` of targets."""
        return item_row + np.int32(self._target_item) if self._target_item else item_row

    def target_category(self, category_row: I32) -> I32:
        """Rows of `tables.category` of targets."""
        return category_row + np.int32(self._target_category) if self._target_category else category_row

    def of_targets(self, catalogue: Catalogue, scale: float) -> CatalogueRows:
        """Where candidates' rows are, those in attention space multiplied by `scale`."""
        item, category = self._attn_item[self._target_item :], self._attn_category[self._target_category :]
        return CatalogueRows(catalogue.index, catalogue.item_row, catalogue.category, catalogue.category_row, item, category, scale)

    def attn(self, item_row: I32, category_row: I32) -> F32:
        """[item ; category] of behaviors in attention space: f32 [X, A]."""
        return np.concatenate(self.attn_parts(item_row, category_row), axis=1)

    def attn_parts(self, item_row: I32, category_row: I32) -> tuple[F32, F32]:
        """Behaviors' items and categories in attention space, the columns of `attn`: f32 [X, A / 2] each."""
        # Three times as fast as an index in brackets.
        return self._attn_item.take(item_row, axis=0), self._attn_category.take(category_row, axis=0)

    def content(self, item_row: I32, category_row: I32, target: bool = False) -> F32:
        """[item ; category] in representation space: f32 [X, 2 d]."""
        if target:
            item_row, category_row = self.target_item(item_row), self.target_category(category_row)
        return np.concatenate([self.tables.item[item_row], self.tables.category[category_row]], axis=1)
