"""Attention of a single query over the kept behaviors, folded so that keys and values never materialise."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model.stages.protocols import Content, Kept


def products(query_MHR: Tensor, kept: Kept, content: Content) -> Tensor:
    """<query_h, content(k)> of every kept behavior: [M, H, K]; finite, whatever is in slots that are not valid."""
    if content.encoded_MKR is not None:
        return query_MHR @ content.encoded_MKR.transpose(1, 2)
    rows_LD = content.rows.behavior_LD
    own_MHD, time_MHD = torch.split(query_MHR, [rows_LD.shape[1], content.recency_PD.shape[1]], dim=2)
    # One product with all rows of the user: gathering numbers is cheaper than gathering vectors.
    product_MHK = own_MHD @ rows_LD.T
    if not kept.whole:
        product_MHK = product_MHK.gather(2, kept.index_MK[:, None].expand(-1, query_MHR.shape[1], -1))
    time_MKD = nn.functional.embedding(kept.recency_MK, content.recency_PD)
    return torch.baddbmm(product_MHK, time_MHD, time_MKD.transpose(1, 2))


def weighted_contents(weight_MHK: Tensor, kept: Kept, content: Content) -> Tensor:
    """sum_k weight_hk * content(k): [M, H, R]; weights of behaviors that are not valid must be zero."""
    if content.encoded_MKR is not None:
        return weight_MHK @ content.encoded_MKR
    rows_LD, (size, heads, _) = content.rows.behavior_LD, weight_MHK.shape

    def spread(index_MK: Tensor, places: int) -> Tensor:
        index_MHK = index_MK[:, None].expand(-1, heads, -1)
        return weight_MHK.new_zeros(size, heads, places).scatter_add(2, index_MHK, weight_MHK)

    weight_MHL = weight_MHK if kept.whole else spread(kept.index_MK, rows_LD.shape[0])
    return torch.cat([weight_MHL @ rows_LD, spread(kept.recency_MK, content.recency_PD.shape[0]) @ content.recency_PD], dim=2)


def masked_softmax(score: Tensor, valid: Tensor) -> Tensor:
    """Softmax over the last dimension where `valid`, exactly zero elsewhere; a row with nothing valid is all zeros, never NaN."""
    any_valid = valid.any(dim=-1, keepdim=True)
    return torch.softmax(score.masked_fill(~valid & any_valid, float("-inf")), dim=-1) * any_valid


class Heads(nn.Module):
    """The maps of H attention heads with one query per target, folded: keys W_k e and values W_v e are never materialised.

    logit_hk = (W_k,h^T W_q,h x) . e_k / sqrt(width), and out = W_o [W_v,h sum_k w_hk e_k]: the same numbers at two products of H vectors
    with the history instead of two of R x R with each behavior.

    Args: `query_width` Q of x; `content_width` R of e; `heads` H of `width` each; without `values` there are no value and output maps.
    """

    def __init__(self, query_width: int, content_width: int, heads: int, width: int, values: bool = True) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.query = nn.Linear(query_width, heads * width, bias=False)
        self.key = nn.Linear(content_width, heads * width, bias=False)
        self.value = nn.Linear(content_width, heads * width, bias=False) if values else None
        self.out = nn.Linear(heads * width, content_width, bias=False) if values else None
        self.parts = 1 if values else heads

    def questions(self, query_MQ: Tensor) -> Tensor:
        """W_k,h^T W_q,h x / sqrt(width): what a behavior's content is multiplied with, [M, H, R]."""
        query_MHW = self.query(query_MQ).view(-1, self.heads, self.width) / math.sqrt(self.width)
        return torch.einsum("mhw,hwr->mhr", query_MHW, self._by_head(self.key))

    def joined(self, pooled_MHR: Tensor) -> Tensor:
        """From each head's weighted sum of contents to `parts` vectors of width R: [M, parts * R]."""
        if self.value is None or self.out is None:
            return pooled_MHR.flatten(1)
        mapped: Tensor = self.out(torch.einsum("mhr,hwr->mhw", pooled_MHR, self._by_head(self.value)).flatten(1))
        return mapped

    def _by_head(self, linear: nn.Linear) -> Tensor:
        return linear.weight.view(self.heads, self.width, -1)


class FoldedAttention(Heads):
    """Multi-head attention over the kept behaviors with one query per target: [M, Q] -> [M, R], zeros where nothing is valid."""

    def forward(self, query_MQ: Tensor, kept: Kept, content: Content) -> Tensor:
        weight_MHK = masked_softmax(products(self.questions(query_MQ), kept, content), kept.valid_MK[:, None])
        return self.joined(weighted_contents(weight_MHK, kept, content))
