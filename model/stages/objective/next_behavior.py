"""A loss that needs no label: behaviors that follow one another shall score high for one another in attention space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.stages.protocols import View
from model.stages.registry import Parts, register


class NextBehavior(nn.Module):
    """Cross-entropy of finding what follows behavior j among what follows the step's other chosen behaviors, by <a(j), a(i)> / sqrt(2 d).

    Of each history `pairs` behaviors are chosen, evenly spaced among those that every target of the batch may see; where they begin moves
    with the batch's targets, so that a training repeats bit for bit without a generator of its own.
    """

    def __init__(self, width: int, pairs: int, weight: float) -> None:
        super().__init__()
        self.pairs, self.weight = pairs, weight
        self._scale = 1 / math.sqrt(2 * width)

    def chosen(self, view: View) -> Tensor:
        """Positions of the chosen behaviors, none of them the last: int64 [at most pairs]."""
        batch = view.batch
        last = int(batch.length_T.min()) - 1
        if last < 1:
            return torch.zeros(0, dtype=torch.int64)
        start = int(batch.length_T.sum() + batch.target_key_TC.sum()) % last
        step = max(1, last // self.pairs)
        return (start + step * torch.arange(min(self.pairs, last))) % last

    def forward(self, views: Sequence[View], label_M: Tensor) -> Tensor:
        chosen = [self.chosen(view) for view in views]
        first, following = (
            torch.cat([view.attn.behavior_LD[at + shift] for view, at in zip(views, chosen, strict=True)]) for shift in (0, 1)
        )
        if len(first) == 0:
            return label_M.new_zeros(())
        return self.weight * functional.cross_entropy(first @ following.T * self._scale, torch.arange(len(first)))


@register(
    "objective",
    "next_behavior",
    "ours, after DIEN's auxiliary loss (arXiv 1809.03672): the next behavior against others, in attention space",
)
@dataclass(frozen=True, slots=True)
class NextBehaviorConfig:
    """`pairs` behaviors of each user's part of a step; `weight` of the loss beside the click's."""

    pairs: int = 64
    weight: float = 0.1

    def __post_init__(self) -> None:
        if self.pairs < 2:
            raise ValueError(f"pairs must be at least 2, got {self.pairs!r}")
        if not self.weight > 0:
            raise ValueError(f"weight must be above 0, got {self.weight!r}")

    def build(self, parts: Parts) -> NextBehavior:
        """The stage."""
        return NextBehavior(parts.attn.width, self.pairs, self.weight)
