"""No search: every visible behavior is kept, with its score."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from model.batch import UserBatch
from model.stages.protocols import Kept
from model.stages.registry import Parts, register
from model.stages.scores import DareScore
from model.tables import Rows


class Everything(nn.Module):
    """All L behaviors, for full attention and for pooling that never selects."""

    def __init__(self, score: DareScore) -> None:
        super().__init__()
        self.score = score

    def forward(self, batch: UserBatch, attn: Rows) -> Kept:
        return self.score.of_all(batch, attn)


@register("search", "everything", "full target attention, what search approximates")
@dataclass(frozen=True, slots=True)
class EverythingConfig:
    """Keeps the whole history; `kept` of the model has no effect."""

    def build(self, parts: Parts) -> Everything:
        """The stage."""
        return Everything(parts.score)
