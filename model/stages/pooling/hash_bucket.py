"""Pooling by hash buckets (SDIM): the behaviors that share the target's signature, summed; no score, no search."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.batch import UserBatch
from model.stages.hashing import Hyperplanes
from model.stages.options import integer
from model.stages.protocols import Content, Kept
from model.stages.registry import Parts, register
from model.stages.scores import DareScore


class HashBucket(nn.Module):
    """h = (1 / g) sum over g hashes of l2(sum of r(j, p_j) over the visible behaviors with the target's signature in that hash).

    A signature is b bits of [item ; category] in representation space. The sums are made once per bucket, not per candidate.
    Args: `score` whose visibility holds; `hashes` of g * b bits; `bits` b.
    """

    parts = 1

    def __init__(self, score: DareScore, hashes: Hyperplanes, bits: int) -> None:
        super().__init__()
        self.score, self.hashes = score, hashes
        self.num_hashes, self.buckets = hashes.planes.shape[1] // bits, 2**bits
        self.power: Tensor
        self.register_buffer("power", 2 ** torch.arange(bits), persistent=False)

    def signatures(self, rows_XD: Tensor) -> Tensor:
        """The bucket of every row in every hash: int64 [X, g], 0..2^b - 1."""
        bits_XGB = self.hashes(rows_XD).view(-1, self.num_hashes, len(self.power))
        bucket_XG: Tensor = (bits_XGB * self.power).sum(dim=2)
        return bucket_XG

    def forward(self, batch: UserBatch, kept: Kept, content: Content) -> Tensor:
        num_targets, candidates = batch.target_item_TC.shape
        rows = content.rows
        recency_TLD = content.recency_PD[self.score.buckets(batch)]
        item_category_TLD = rows.behavior_LD.expand(num_targets, -1, -1)
        content_TLR = torch.cat([item_category_TLD, recency_TLD], dim=2) * self.score.visible(batch)[:, :, None]
        in_bucket_GLX = self.signatures(rows.behavior_LD).T[:, :, None] == torch.arange(self.buckets)
        in_bucket_YL = in_bucket_GLX.to(content_TLR.dtype).transpose(1, 2).reshape(self.num_hashes * self.buckets, -1)
        sum_TYR = functional.normalize(torch.matmul(in_bucket_YL, content_TLR), dim=2)
        first_G = torch.arange(self.num_hashes) * self.buckets
        bucket_TX = (self.signatures(rows.target_MD) + first_G).view(num_targets, candidates * self.num_hashes)
        found_TXR = sum_TYR.gather(1, bucket_TX[:, :, None].expand(-1, -1, sum_TYR.shape[2]))
        return found_TXR.reshape(num_targets * candidates, self.num_hashes, -1).mean(dim=1)


@register("pooling", "hash_bucket", "SDIM (arXiv 2205.10249)")
@dataclass(frozen=True, slots=True)
class HashBucketConfig:
    """`hashes` g of `bits` b each; `seed` of the hyperplanes. Reads the whole history, whatever search kept."""

    hashes: int = 16
    bits: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        integer("hashes", self.hashes, 1, 256)
        integer("bits", self.bits, 1, 10)
        integer("seed", self.seed, 0, 2**31)

    def build(self, parts: Parts) -> HashBucket:
        """The stage."""
        return HashBucket(parts.score, Hyperplanes(2 * parts.repr.width, self.hashes * self.bits, self.seed), self.bits)
