"""What the model reads: one user's history, shared by many targets of that user, each at its own moment."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class UserBatch:
    """One user's behaviors and T targets with C candidates each; target t sees the first `length_T[t]` behaviors, no more.

    `item_L`, `category_L` int64 [L] table rows, oldest first. `length_T` int64 [T], behaviors before the target, 0..L.
    `target_item_TC`, `target_category_TC` int64 [T, C] table rows. `item_key_L`, `target_key_TC` int64: the identity of the item, which
    differs also between items that share the unknown row. `extra_TCE` f32 [T, C, E] candidate features (E may be 0).
    `time_L`, `time_T` int64 unix seconds of behaviors and targets, for a model that reads ages.
    """

    item_L: Tensor
    category_L: Tensor
    item_key_L: Tensor
    length_T: Tensor
    target_item_TC: Tensor
    target_category_TC: Tensor
    target_key_TC: Tensor
    extra_TCE: Tensor
    time_L: Tensor | None = None
    time_T: Tensor | None = None

    def recency_TL(self) -> Tensor:
        """Positions back from each target, newest = 1: int64 [T, L]; values below 1 are behaviors the target must not see."""
        return self.length_T[:, None] - torch.arange(self.item_L.shape[0])
