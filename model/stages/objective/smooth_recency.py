"""A loss that keeps the recency bias smooth, so that rare places borrow from their neighbors and unseen ones continue the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from model.recency import NUM_BUCKETS
from model.stages.protocols import View
from model.stages.registry import Parts, register
from model.stages.scores import DareScore


class SmoothRecency(nn.Module):
    """weight * sum over p >= 1 of (b[p + 1] - b[p])^2, b the recency bias of equation 1; with ages, over neighbors of either kind, each a
    mean over the other.

    A bucket of one place among the newest holds one behavior in a thousand: alone it follows noise, and a bucket beyond the longest
    history of the training data keeps its initial value, 0, which may be far above what the older buckets have learned.
    """

    def __init__(self, score: DareScore, weight: float) -> None:
        super().__init__()
        self._score = (score,)  # the model owns it
        self.weight = weight

    def forward(self, views: Sequence[View], label_M: Tensor) -> Tensor:
        bias_PA = self._score[0].recency_bias().view(NUM_BUCKETS, -1)[1:]  # without the target's own bucket
        loss: Tensor = bias_PA.diff(dim=0).square().mean(dim=1).sum() + bias_PA.diff(dim=1).square().mean(dim=0).sum()
        return self.weight * loss


@register("objective", "smooth_recency", "ours")
@dataclass(frozen=True, slots=True)
class SmoothRecencyConfig:
    """`weight` of the loss beside the click's."""

    weight: float = 0.01

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight must be above 0, got {self.weight!r}")

    def build(self, parts: Parts) -> SmoothRecency:
        """The stage."""
        return SmoothRecency(parts.score, self.weight)
