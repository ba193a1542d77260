"""DARE: search -> interest -> head on two decoupled sets of tables (arXiv 2410.02604, section 1 of docs/model.md)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.batch import UserBatch
from model.config import ModelConfig
from model.head import Head, TargetAwareHead
from model.interest import Pooling, TargetAttention
from model.search import ExactSearch, Search
from model.tables import Tables


class DARE(nn.Module):
    """Logits of many users' targets.

    Args: `config` the mathematics; `num_items`, `num_categories` table rows including padding and unknown.
    """

    search: Search
    pooling: Pooling
    head: Head

    def __init__(self, config: ModelConfig, num_items: int, num_categories: int, num_features: int) -> None:
        super().__init__()
        self.config = config
        self.attn = Tables(num_items, num_categories, config.attn_width, config.init_std)
        self.repr = Tables(num_items, num_categories, config.repr_width, config.init_std)
        self.search = ExactSearch(self.attn, config.kept, config.longest, config.same_item_bonus)
        self.pooling = TargetAttention(self.repr)
        num_extra = config.mass + num_features + (2 * config.repr_width if config.profile else 0)
        self.head = TargetAwareHead(3 * config.repr_width, num_extra, config.hidden)

    def features(self, batch: UserBatch) -> tuple[Tensor, Tensor, Tensor]:
        """u, h and the extra inputs of one user's M = T * C targets: [M, R], [M, R], [M, E]."""
        kept = self.search(batch)
        interest_MR, mass_M = self.pooling(batch, kept)
        content = self.repr.content(batch.target_item_TC, batch.target_category_TC).flatten(0, 1)
        target_MR = torch.cat([content, self.repr.recency.weight[0].expand(len(content), -1)], dim=1)
        extra = [mass_M[:, None]] if self.config.mass else []
        extra.append(batch.extra_TCE.flatten(0, 1))
        if self.config.profile:
            extra.append(content * self.profile(batch))
        return target_MR, interest_MR, torch.cat(extra, dim=1)

    def profile(self, batch: UserBatch) -> Tensor:
        """Mean content of all behaviors before each target, [M, 2d]: the user's taste, whatever the target."""
        content_LR = self.repr.content(batch.item_L, batch.category_L)
        total_LR = torch.cat([torch.zeros_like(content_LR[:1]), content_LR.cumsum(0)])
        mean_TR = total_LR[batch.length_T] / batch.length_T.clamp_min(1)[:, None]
        return mean_TR.repeat_interleave(batch.target_item_TC.shape[1], dim=0)

    def forward(self, batches: Sequence[UserBatch]) -> Tensor:
        """Logits of all targets of all users, in order: [sum of T * C]."""
        parts = [self.features(batch) for batch in batches]
        target, interest, extra = (torch.cat([part[i] for part in parts]) for i in range(3))
        return self.head(target, interest, extra)
