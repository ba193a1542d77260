"""A loss that teaches search what ranking found useful: of all behaviors, those towards which the interest should have turned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.stages.protocols import View
from model.stages.registry import Parts, register
from model.stages.scores import DareScore


class PosteriorOverAll(nn.Module):
    """-log sum over all visible j of p_j exp(l_j), with p = softmax(s) and l without gradient.

    l_j = <d log p(y) / dh, r(j, p_j) - h> is what the label's likelihood would gain, to first order, if behavior j alone were the interest
    h. The gradient by s_j is p_j - q_j, where q_j ~ p_j exp(l_j) is the posterior of j once the label is known: where ranking cannot tell
    behaviors apart, nothing is learned.

    Args: `score` that of search; `most` bound of l_j either way; `weight` of the loss beside the click's.
    """

    def __init__(self, score: DareScore, most: float, weight: float) -> None:
        super().__init__()
        self._score = (score,)  # the model owns it
        self.most, self.weight = most, weight

    def slopes(self, views: Sequence[View], label_M: Tensor) -> tuple[Tensor, ...]:
        """d log p(y) / dh of every target, without gradient: [T * C, R] of each view.

        In training BatchNorm ties the rows of a step together, so this is the gradient of the likelihood of all labels, not of one logit:
        what moves all interests alike moves none.
        """
        ranked = [view.ranked for view in views if view.ranked is not None]
        assert len(ranked) == len(views), "this objective reads what ranking made of the views"
        logit_M = torch.cat([one.logit_M for one in ranked])
        short_M = label_M - torch.sigmoid(logit_M.detach())
        return torch.autograd.grad(logit_M, [one.interest_MH for one in ranked], short_M, retain_graph=True)

    def gain(self, view: View, slope_MR: Tensor) -> Tensor:
        """l of every behavior for every target, hidden ones included: [T * C, L]."""
        assert view.ranked is not None
        rows_LD, recency_PD = view.content.rows.behavior_LD.detach(), view.content.recency_PD.detach()
        num_targets, num_candidates = view.batch.target_item_TC.shape
        width = rows_LD.shape[1]
        bucket_TL = self._score[0].buckets(view.batch)
        of_time_TCP = (slope_MR[:, width:] @ recency_PD.T).view(num_targets, num_candidates, -1)
        of_time_ML = of_time_TCP.gather(2, bucket_TL[:, None].expand(-1, num_candidates, -1)).flatten(0, 1)
        of_interest_M1 = (slope_MR * view.ranked.interest_MH.detach()).sum(dim=1, keepdim=True)
        return (slope_MR[:, :width] @ rows_LD.T + of_time_ML - of_interest_M1).clamp(-self.most, self.most)

    def forward(self, views: Sequence[View], label_M: Tensor) -> Tensor:
        loss = [self._loss(view, self.gain(view, slope)) for view, slope in zip(views, self.slopes(views, label_M), strict=True)]
        return self.weight * torch.cat(loss).mean()

    def _loss(self, view: View, gain_ML: Tensor) -> Tensor:
        """The loss of every target, 0 of one without behaviors: [T * C]."""
        batch = view.batch
        score_ML = self._score[0].over_all(batch, view.attn)
        loss_M = torch.logsumexp(score_ML, dim=1) - torch.logsumexp(score_ML + gain_ML, dim=1)
        return loss_M * (batch.length_T > 0).repeat_interleave(batch.target_item_TC.shape[1])


@register(
    "objective",
    "posterior_over_all",
    "ours, after EMDR2 (arXiv 2106.05346), whose retriever learns from the posterior of documents; here of behaviors, to first order",
)
@dataclass(frozen=True, slots=True)
class PosteriorOverAllConfig:
    """`weight` of the loss beside the click's; `most` bound of what one behavior may gain, in logarithms. Needs target attention."""

    weight: float = 1.0
    most: float = 5.0

    def __post_init__(self) -> None:
        for name in ("weight", "most"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)!r}")

    def build(self, parts: Parts) -> PosteriorOverAll:
        """The stage. Raises: ValueError where the interest is not the mean that search's scores weigh."""
        config = parts.config
        if config.search.name not in ("exact", "everything") or config.pooling.name != "target_attention" or config.encoder is not None:
            raise ValueError(
                "objective stage 'posterior_over_all' needs search 'exact' or 'everything', no encoder and pooling 'target_attention', got "
                f"{config.search.name!r}, {None if config.encoder is None else config.encoder.name!r} and {config.pooling.name!r}"
            )
        return PosteriorOverAll(parts.score, self.most, self.weight)
