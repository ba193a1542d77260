"""A loss that teaches search: the click predicted from the attention mass over all behaviors, so that what is not kept learns as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.stages.protocols import View
from model.stages.registry import Parts, register
from model.stages.scores import DareScore


class MassOverAll(nn.Module):
    """Binary cross-entropy of the logit alpha * log(1 + sum over all visible j of exp(s_j - c)) + <v, u> + b; alpha, c, v, b are learned.

    Args: `score` that of search; `width` R of u; `offset` where c starts: a history of exp(c) indifferent behaviors has mass log 2 then.
    """

    def __init__(self, score: DareScore, width: int, offset: float, weight: float) -> None:
        super().__init__()
        self._score = (score,)  # the model owns it
        self.weight = weight
        self.offset = nn.Parameter(torch.tensor(float(offset)))
        self.scale = nn.Parameter(torch.ones(()))
        self.base = nn.Linear(width, 1)

    def mass(self, view: View) -> Tensor:
        """log(1 + sum_j exp(s_j - c)): [T * C], 0 for a target without behaviors."""
        batch = view.batch
        total_M = torch.logsumexp(self._score[0].over_all(batch, view.attn), dim=1)
        any_M = (batch.length_T > 0).repeat_interleave(batch.target_item_TC.shape[1])
        return functional.softplus(total_M - self.offset) * any_M

    def logits(self, views: Sequence[View]) -> Tensor:
        """[sum of T * C]."""
        mass = torch.cat([self.mass(view) for view in views])
        target = torch.cat([view.content.target_MR for view in views])
        logit: Tensor = self.scale * mass + self.base(target).squeeze(1)
        return logit

    def forward(self, views: Sequence[View], label_M: Tensor) -> Tensor:
        return self.weight * functional.binary_cross_entropy_with_logits(self.logits(views), label_M)


@register("objective", "mass_over_all", "ours: what the published auxiliary loss (equation 7) loses by softmax, given back; docs/model.md")
@dataclass(frozen=True, slots=True)
class MassOverAllConfig:
    """`weight` of the loss beside the click's; `offset` where c starts."""

    weight: float = 1.0
    offset: float = 4.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight must be above 0, got {self.weight!r}")

    def build(self, parts: Parts) -> MassOverAll:
        """The stage."""
        return MassOverAll(parts.score, parts.width, self.offset, self.weight)
