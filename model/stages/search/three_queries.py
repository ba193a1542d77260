"""Three searches for each target, by what it is, what the user took last and what he takes at large (MIRRN)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.batch import UserBatch
from model.stages.hashing import Hyperplanes, equal_bits
from model.stages.options import integer
from model.stages.protocols import Kept
from model.stages.registry import Parts, register
from model.stages.scores import DareScore
from model.stages.selection import newest_best
from model.tables import Rows


class ThreeQueries(nn.Module):
    """K behaviors by SimHash for each of a(t), the mean of the newest S and the mean of all visible: 3 K slots in that order.

    Within each K the newest comes first and what is not valid last, wherever padding lies. A behavior may be kept by several queries.
    Args: `score`; `hashes`; `kept` K; `newest` S.
    """

    def __init__(self, score: DareScore, hashes: Hyperplanes, kept: int, newest: int) -> None:
        super().__init__()
        self.score, self.hashes, self.kept, self.newest = score, hashes, kept, newest

    def forward(self, batch: UserBatch, attn: Rows) -> Kept:
        candidates = batch.target_item_TC.shape[1]
        visible_TL, code_LB = self.score.visible(batch), self.hashes(attn.behavior_LD)
        of_target = newest_best(equal_bits(self.hashes(attn.target_MD), code_LB), batch, visible_TL, self.kept)
        found = [_newest_first(of_target, visible_TL.repeat_interleave(candidates, dim=0))]
        for seen_TL in (visible_TL & (batch.recency_TL() <= self.newest), visible_TL):
            mean_TD = _mean(seen_TL, attn.behavior_LD)
            of_user = newest_best(equal_bits(self.hashes(mean_TD), code_LB), batch, visible_TL, self.kept)
            found.append(_newest_first(of_user, visible_TL).repeat_interleave(candidates, dim=0))
        return self.score.of(batch, attn, torch.cat(found, dim=1))


def _mean(seen_TL: Tensor, behavior_LD: Tensor) -> Tensor:
    """Mean row of the behaviors seen, float64 [T, D]: its hash must not hang on an order of summation. Zeros where none is."""
    seen = seen_TL.double()
    return seen @ behavior_LD.detach().double() / seen.sum(dim=1, keepdim=True).clamp_min(1)


def _newest_first(index_XK: Tensor, visible_XL: Tensor) -> Tensor:
    place_XK = torch.where(visible_XL.gather(1, index_XK), index_XK, -1)
    order_XK = torch.topk(place_XK, place_XK.shape[1], dim=1).indices
    return index_XK.gather(1, order_XK)


@register("search", "three_queries", "MIRRN (arXiv 2411.15005)")
@dataclass(frozen=True, slots=True)
class ThreeQueriesConfig:
    """`bits` of a fingerprint; `newest` behaviors that the recent query is the mean of; `seed` of the hyperplanes."""

    bits: int = 64
    newest: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        integer("bits", self.bits, 1, 127)  # newest_best counts them exactly in float32
        integer("newest", self.newest, 1, 100_000)
        integer("seed", self.seed, 0, 2**31)

    def build(self, parts: Parts) -> ThreeQueries:
        """The stage."""
        return ThreeQueries(parts.score, Hyperplanes(2 * parts.attn.width, self.bits, self.seed), parts.config.kept, self.newest)
