"""Decoupled embedding tables: two sets that share no weight, each shared between target and behaviors (DARE, section 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.recency import NUM_BUCKETS
from model.tables_layout import PADDING_ROW


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
