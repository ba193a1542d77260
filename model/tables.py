"""Decoupled embedding tables: two sets that share no weight, each shared between target and behaviors (DARE, section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.batch import UserBatch
from model.recency import NUM_BUCKETS
from model.tables_layout import PADDING_ROW


@dataclass(frozen=True, slots=True)
class Rows:
    """What one set of tables says about a batch: `behavior_LD` [L, 2d] and `target_MD` [T * C, 2d], each [item ; category]."""

    behavior_LD: Tensor
    target_MD: Tensor


class Tables(nn.Module):
    """One set of tables: item [V, d], category [C, d], recency [P, d].

    Args:
        num_items, num_categories: rows including padding and unknown.
        width: d, per field.
        std: of the normal initialisation.
    """

    def __init__(self, num_items: int, num_categories: int, width: int, std: float) -> None:
        super().__init__()
        self.width = width
        self.item = nn.Embedding(num_items, width, padding_idx=PADDING_ROW)
        self.category = nn.Embedding(num_categories, width, padding_idx=PADDING_ROW)
        self.recency = nn.Embedding(NUM_BUCKETS, width)
        with torch.no_grad():
            for table in (self.item, self.category, self.recency):
                table.weight.normal_(0.0, std)
            self.item.weight[PADDING_ROW] = 0.0
            self.category.weight[PADDING_ROW] = 0.0

    def content(self, item: Tensor, category: Tensor) -> Tensor:
        """[item ; category] rows: [..., 2d]."""
        return torch.cat([self.item(item), self.category(category)], dim=-1)

    def rows(self, batches: Sequence[UserBatch]) -> list[Rows]:
        """Rows of every batch. All batches share one lookup, so that the backward pass adds to each table once."""
        item = torch.cat([part for batch in batches for part in (batch.item_L, batch.target_item_TC.flatten())])
        category = torch.cat([part for batch in batches for part in (batch.category_L, batch.target_category_TC.flatten())])
        sizes = [size for batch in batches for size in (len(batch.item_L), batch.target_item_TC.numel())]
        parts = torch.split(self.content(item, category), sizes)
        return [Rows(behavior, target) for behavior, target in zip(parts[::2], parts[1::2], strict=True)]
