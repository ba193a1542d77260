"""The search trained by a loss of its own (SIM's soft search): the click predicted from all behaviors, weighted by the search's scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn import functional

from model.batch import UserBatch
from model.head import TargetAwareHead
from model.stages.click_head import ClickHeadConfig, click_logits
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

    def __init__(self, search: ScoresAll, head: TargetAwareHead) -> None:
        super().__init__()
        self._search = (search,)  # the model owns it
        self.head = head

    def logits(self, views: Sequence[View]) -> Tensor:
        """[sum of T * C]."""
        interest = []
        for view in views:
            every = self._search[0].over_all(view.batch, view.attn)
            interest.append(weighted_content(every.score_MK.masked_fill(~every.valid_MK, 0.0), every, view.content))
        return click_logits(self.head, views, interest)

    def forward(self, views: Sequence[View], label_M: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(self.logits(views), label_M)


@register("objective", "search_over_all", "SIM (arXiv 2006.05639), the loss of the general search unit")
@dataclass(frozen=True, slots=True)
class SearchOverAllConfig(ClickHeadConfig):
    """`first`, `second` hidden widths of the head. Needs a search that scores every behavior (`projected`)."""

    def build(self, parts: Parts) -> SearchOverAll:
        """The stage."""
        if not isinstance(parts.search, ScoresAll):
            raise ValueError(
                f"objective stage 'search_over_all' needs a search that scores every behavior, not {parts.config.search.name!r}"
            )
        return SearchOverAll(parts.search, self.head(parts))
