"""The search trained by a loss of its own (SIM's soft search): the click predicted from all behaviors, weighted by the search's scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.batch import UserBatch
from model.head import TargetAwareHead
from model.stages.pooling_content import weighted_content
from model.stages.protocols import Kept, View
from model.stages.registry import Parts, register
from model.tables import Rows


@runtime_checkable
class ScoresAll(Protocol):
    """A search that can say its score of every behavior."""

    def over_all(self, batch: UserBatch, attn: Rows) -> Kept: ...


class SearchOverAll(nn.Module):
    """Binary cross-entropy of a click from sum_j score_j r(j, p_j) over all visible j, not softmaxed, with a head of its own."""

    def __init__(self, search: ScoresAll, parts: Parts, hidden: tuple[int, int]) -> None:
        super().__init__()
        self._search = (search,)  # the model owns it
        self.head = TargetAwareHead(parts.width, 1, 0, hidden, parts.config.target_aware)

    def logits(self, views: Sequence[View]) -> Tensor:
        """[sum of T * C]."""
        interest = []
        for view in views:
            every = self._search[0].over_all(view.batch, view.attn)
            interest.append(weighted_content(every.score_MK.masked_fill(~every.valid_MK, 0.0), every, view.content))
        target, pooled = torch.cat([view.content.target_MR for view in views]), torch.cat(interest)
        logit: Tensor = self.head(target, pooled, pooled[:, :0])
        return logit

    def forward(self, views: Sequence[View], label_M: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(self.logits(views), label_M)


@register("objective", "search_over_all", "SIM (arXiv 2006.05639), the loss of the general search unit")
@dataclass(frozen=True, slots=True)
class SearchOverAllConfig:
    """`first`, `second` hidden widths of the head. Needs a search that scores every behavior (`projected`)."""

    first: int = 80
    second: int = 40

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}")

    def build(self, parts: Parts) -> SearchOverAll:
        """The stage."""
        if not isinstance(parts.search, ScoresAll):
            raise ValueError(
                f"objective stage 'search_over_all' needs a search that scores every behavior, not {parts.config.search.name!r}"
            )
        return SearchOverAll(parts.search, parts, (self.first, self.second))
