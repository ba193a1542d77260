"""A model: search -> encoder? -> pooling -> head over two embedding spaces (docs/model.md; DARE, arXiv 2410.02604, by default)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.batch import UserBatch
from model.config import ModelConfig
from model.feature_encoding import PiecewiseLinear
from model.head import TargetAwareHead
from model.stages.pooling.target_attention import attention_mass
from model.stages.pooling_content import kept_content
from model.stages.protocols import Content, Encoder, Kept, Pooling, Ranked, Search, View
from model.stages.registry import Parts, configured
from model.stages.scores import DareScore
from model.tables import Rows, build_spaces


class TwoStageModel(nn.Module):
    """Logits of many users' targets.

    Args: `config` the mathematics; `num_items`, `num_categories` table rows including padding and unknown; `num_features` E of the batches.
    Raises: ValueError for a stage or an option that does not exist.
    """

    def __init__(self, config: ModelConfig, num_items: int, num_categories: int, num_features: int) -> None:
        super().__init__()
        self.config = config
        self.tables, attn, representation = build_spaces(config, num_items, num_categories)
        self.spaces = (attn, representation)
        self.score = DareScore(attn, config)
        parts = Parts(config, attn, representation, self.score)
        self.search = cast(Search, configured("search", config.search).build(parts))
        parts = replace(parts, search=cast(nn.Module, self.search))
        self.encoder = None if config.encoder is None else cast(Encoder, configured("encoder", config.encoder).build(parts))
        self.pooling = cast(Pooling, configured("pooling", config.pooling).build(parts))
        self.num_features = num_features
        self.encoding = PiecewiseLinear(num_features, config.feature_bins) if config.feature_bins else None
        given = num_features * (1 + config.feature_bins)
        self.head = TargetAwareHead(parts.width, self.pooling.parts, int(config.mass), given, config.hidden, config.target_aware)
        self.objectives = nn.ModuleList(configured("objective", spec).build(parts) for spec in config.objectives)

    @property
    def attn(self) -> Any:
        """Attention space."""
        return self.spaces[0]

    @property
    def repr(self) -> Any:
        """Representation space."""
        return self.spaces[1]

    def views(self, batches: Sequence[UserBatch]) -> list[View]:
        """Each batch with its rows in both spaces."""
        attn_space, space = self.spaces
        rows = space.rows(batches)
        attn = rows if attn_space is space else attn_space.rows(batches)
        return [self.view(batch, a, r) for batch, a, r in zip(batches, attn, rows, strict=True)]

    def view(self, batch: UserBatch, attn: Rows, rows: Rows) -> View:
        """A batch with the given rows; u = r(t, 0)."""
        time = self.repr.target_time_D().expand(rows.target_MD.shape[0], -1)
        return View(batch, attn, Content(rows, self.repr.recency_PD(), torch.cat([rows.target_MD, time], dim=1), None))

    def interest(self, view: View) -> tuple[Kept, Tensor]:
        """Search, encode and pool one batch: what was kept, and the interest [M, parts * R]."""
        kept, content = self.search(view.batch, view.attn), view.content
        if self.encoder is not None:
            content = replace(content, encoded_MKR=self.encoder(kept_content(kept, content), content.target_MR, kept))
        return kept, self.pooling(view.batch, kept, content)

    def mass(self, kept: Kept) -> Tensor:
        """The mass over the kept, where it joins the head: [M, 1], else [M, 0]."""
        mass_M1 = attention_mass(kept)[:, None]
        return mass_M1 if self.config.mass else mass_M1[:, :0]

    def features(self, batch: UserBatch) -> Tensor:
        """The features as the head reads them: [M, G]."""
        return self.encoded(batch.extra_TCE.flatten(0, 1))

    def encoded(self, extra_ME: Tensor) -> Tensor:
        """Features [M, E] as the head reads them: [M, G]."""
        return extra_ME if self.encoding is None else self.encoding(extra_ME)

    def ranked(self, views: Sequence[View]) -> tuple[list[View], Tensor]:
        """The views with what ranking made of each, and the logits of all targets of all users, in order: [sum of T * C]."""
        kept, interest = zip(*(self.interest(view) for view in views), strict=True)
        target = torch.cat([view.content.target_MR for view in views])
        mass, features = (torch.cat(parts) for parts in ([self.mass(one) for one in kept], [self.features(view.batch) for view in views]))
        logit: Tensor = self.head(target, torch.cat(interest), mass, features)
        parts = zip(views, interest, torch.split(logit, [len(one) for one in interest]), strict=True)
        return [replace(view, ranked=Ranked(one, of_view)) for view, one, of_view in parts], logit

    def logits(self, views: Sequence[View]) -> Tensor:
        """Logits of all targets of all users, in order: [sum of T * C]."""
        return self.ranked(views)[1]

    def forward(self, batches: Sequence[UserBatch]) -> Tensor:
        """Logits of all targets of all users, in order: [sum of T * C]."""
        return self.logits(self.views(batches))

    def loss(self, batches: Sequence[UserBatch], label_M: Tensor) -> Tensor:
        """Mean binary cross-entropy, plus that of every objective."""
        return self.loss_of(self.views(batches), label_M)

    def feature_loss(self, extra_ME: Tensor, label_M: Tensor) -> Tensor:
        """Mean binary cross-entropy where the head reads the features [M, E] alone."""
        return functional.binary_cross_entropy_with_logits(self.head.of_given(self.encoded(extra_ME)), label_M)

    def loss_of(self, views: Sequence[View], label_M: Tensor) -> Tensor:
        """The same of batches that were viewed already."""
        ranked, logit = self.ranked(views)
        loss = functional.binary_cross_entropy_with_logits(logit, label_M)
        for objective in self.objectives:
            loss = loss + objective(ranked, label_M)
        return loss
