"""Search by Hamming distance of SimHash fingerprints (ETA)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from model.batch import UserBatch
from model.stages.hashing import Hyperplanes, equal_bits
from model.stages.options import integer
from model.stages.protocols import Kept
from model.stages.registry import Parts, register
from model.stages.scores import DareScore
from model.stages.selection import newest_best
from model.tables import Rows


class SimHashSearch(nn.Module):
    """The K behaviors whose fingerprints differ from the target's in the fewest bits, newest first among equals, with their scores.

    A fingerprint is of a(x) = [item ; category]. Args: `score`; `hashes`; `kept` K.
    """

    def __init__(self, score: DareScore, hashes: Hyperplanes, kept: int) -> None:
        super().__init__()
        self.score, self.hashes, self.kept = score, hashes, kept

    def forward(self, batch: UserBatch, attn: Rows) -> Kept:
        index_MK = newest_best(self.equal_bits(attn), batch, self.score.visible(batch), self.kept)
        return self.score.of(batch, attn, index_MK)

    def equal_bits(self, attn: Rows) -> Tensor:
        """Bits in which the fingerprints agree: [M, L]."""
        return equal_bits(self.hashes(attn.target_MD), self.hashes(attn.behavior_LD))


@register("search", "simhash", "ETA (arXiv 2108.04468)")
@dataclass(frozen=True, slots=True)
class SimHashConfig:
    """`bits` m of a fingerprint; `seed` of the hyperplanes."""

    bits: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        integer("bits", self.bits, 1, 127)  # newest_best counts them exactly in float32
        integer("seed", self.seed, 0, 2**31)

    def build(self, parts: Parts) -> SimHashSearch:
        """The stage."""
        return SimHashSearch(parts.score, Hyperplanes(2 * parts.attn.width, self.bits, self.seed), parts.config.kept)
