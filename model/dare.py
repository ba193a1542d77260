"""DARE: search -> interest -> head on two decoupled sets of tables (arXiv 2410.02604; equations in docs/model.md)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.batch import UserBatch
from model.config import ModelConfig
from model.head import Head, TargetAwareHead
from model.interest import Pooling, TargetAttention
from model.search import ExactSearch, NoSearch, Search
from model.tables import Rows, Tables

_AUXILIARY_HIDDEN = (80, 40)


class DARE(nn.Module):
    """Logits of many users' targets.

    Args: `config` the mathematics; `num_items`, `num_categories` table rows including padding and unknown; `num_features` E of the batches.
    """

    search: ExactSearch
    pooling: Pooling
    head: TargetAwareHead

    def __init__(self, config: ModelConfig, num_items: int, num_categories: int, num_features: int) -> None:
        super().__init__()
        self.config = config
        self.attn = Tables(num_items, num_categories, config.attn_width, config.init_std)
        self.repr = Tables(num_items, num_categories, config.repr_width, config.init_std)
        self.search = ExactSearch(self.attn, config.kept, config.longest, config.same_item_bonus)
        self.pooling = TargetAttention(self.repr)
        self.head = TargetAwareHead(3 * config.repr_width, config.mass + num_features, config.hidden)
        if config.auxiliary_loss:
            self.search_all = NoSearch(self.search)
            self.auxiliary_head = TargetAwareHead(3 * config.repr_width, 0, _AUXILIARY_HIDDEN)

    def target(self, batch: UserBatch, rows: Rows | None = None) -> Tensor:
        """u = r(t, 0): [M, R]."""
        content = (rows or self.repr.rows([batch])[0]).target_MD
        return torch.cat([content, self.repr.recency.weight[0].expand(len(content), -1)], dim=1)

    def logits(self, batches: Sequence[UserBatch], search: Search, head: Head, extras: bool) -> Tensor:
        """Search, pool and score every batch with the given parts: [sum of T * C]."""
        target, interest, extra = [], [], []
        for batch, attn, content in zip(batches, self.attn.rows(batches), self.repr.rows(batches), strict=True):
            interest_MR, mass_M = self.pooling(batch, search(batch, attn), content)
            target.append(self.target(batch, content))
            interest.append(interest_MR)
            if extras:
                mass = [mass_M[:, None]] if self.config.mass else []
                extra.append(torch.cat([*mass, batch.extra_TCE.flatten(0, 1)], dim=1))
            else:
                extra.append(interest_MR[:, :0])
        return head(torch.cat(target), torch.cat(interest), torch.cat(extra))

    def forward(self, batches: Sequence[UserBatch]) -> Tensor:
        """Logits of all targets of all users, in order: [sum of T * C]."""
        return self.logits(batches, self.search, self.head, extras=True)

    def loss(self, batches: Sequence[UserBatch], label_M: Tensor) -> Tensor:
        """Mean binary cross-entropy, plus the auxiliary one where configured (equation 7)."""
        loss = functional.binary_cross_entropy_with_logits(self(batches), label_M)
        if self.config.auxiliary_loss:
            over_all = self.logits(batches, self.search_all, self.auxiliary_head, extras=False)
            loss = loss + functional.binary_cross_entropy_with_logits(over_all, label_M)
        return loss
