"""DARE as a reader of the paper writes it down in torch, to train against: every row brings its own padded history."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from model.data.log import InteractionLog
from model.data_parallel import Chunk
from model.dataset import Examples, Vocabulary
from model.recency import NUM_BUCKETS, bucket_of_recency
from model.two_stage import TwoStageModel

_HIDDEN_SCORE = -1e9


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """B rows, each with its newest L behaviors, padding (row 0) first: int64 [B, L], int64 [B], `label_B` f32."""

    item_BL: Tensor
    category_BL: Tensor
    recency_BL: Tensor
    valid_BL: Tensor
    target_item_B: Tensor
    target_category_B: Tensor
    label_B: Tensor


def padded(log: InteractionLog, vocabulary: Vocabulary, examples: Examples, chunks: list[Chunk], length: int) -> PaddedBatch:
    """The rows of a step, one for each candidate of each target."""
    rows = np.concatenate(chunks)
    picked = examples.chosen[rows]
    targets = examples.targets
    place_TL = targets.history_end[picked][:, None] - np.arange(length, 0, -1)
    valid_TL = place_TL >= log.user_start[targets.user[picked]][:, None]
    item_TL = log.item[np.where(valid_TL, place_TL, 0)]
    candidates = targets.candidate.shape[1]
    candidate_B = targets.candidate[picked].reshape(-1)
    bucket_L = bucket_of_recency()[np.arange(length, 0, -1)].astype(np.int64)

    def each(values_TL: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Tensor:
        return torch.from_numpy(np.repeat(np.where(valid_TL, values_TL, 0), candidates, axis=0))

    return PaddedBatch(
        item_BL=each(vocabulary.item_row[item_TL]),
        category_BL=each(vocabulary.category_row[item_TL]),
        recency_BL=each(np.broadcast_to(bucket_L, place_TL.shape)),
        valid_BL=torch.from_numpy(np.repeat(valid_TL, candidates, axis=0)),
        target_item_B=torch.from_numpy(vocabulary.item_row[candidate_B]),
        target_category_B=torch.from_numpy(vocabulary.category_row[candidate_B]),
        label_B=torch.from_numpy(examples.labels(rows)),
    )


class _Tables(nn.Module):
    def __init__(self, items: int, categories: int, width: int) -> None:
        super().__init__()
        self.item = nn.Embedding(items, width, padding_idx=0)
        self.category = nn.Embedding(categories, width, padding_idx=0)
        self.recency = nn.Embedding(NUM_BUCKETS, width)


class _Head(nn.Module):
    def __init__(self, width: int, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.first, self.first_slope = nn.Linear(width, hidden[0]), nn.PReLU()
        self.second, self.second_slope = nn.Linear(*hidden), nn.PReLU()
        self.last = nn.Linear(hidden[1], 1)

    def forward(self, target_BR: Tensor, interest_BR: Tensor) -> Tensor:
        x = self.norm(torch.cat([target_BR, interest_BR, target_BR * interest_BR], dim=1))
        x = self.first_slope(self.first(x))
        x = self.second_slope(self.second(x))
        logit: Tensor = self.last(x).squeeze(1)
        return logit


class PlainDare(nn.Module):
    """Equations 1 to 7 with the published settings (docs/model.md), starting from the weights of `model`, which must be that of `paper`."""

    def __init__(self, model: TwoStageModel) -> None:
        super().__init__()
        config = model.config
        items, categories = (model.attn.table(field, of_target=False).shape[0] for field in ("item", "category"))
        self.kept = config.kept
        self.attn, self.repr = _Tables(items, categories, config.attn_width), _Tables(items, categories, config.repr_width)
        self.head, self.auxiliary = _Head(9 * config.repr_width, config.hidden), _Head(9 * config.repr_width, (80, 40))
        renamed = {"tables.0.": "attn.", "tables.1.": "repr.", "head.": "head.", "objectives.0.head.": "auxiliary."}
        state = {
            new + name[len(old) :]: value
            for name, value in model.state_dict().items()
            for old, new in renamed.items()
            if name.startswith(old)
        }
        self.load_state_dict(state)

    def forward(self, batch: PaddedBatch) -> tuple[Tensor, Tensor]:
        """Logits [B] of the head over the kept, and of the auxiliary head over all."""
        width = self.attn.item.embedding_dim
        key_BLA = torch.cat([self.attn.item(batch.item_BL), self.attn.category(batch.category_BL)], dim=2)
        query_BA = torch.cat([self.attn.item(batch.target_item_B), self.attn.category(batch.target_category_B)], dim=1)
        zero = torch.zeros_like(batch.target_item_B)
        time_BL = torch.einsum("bld,bd->bl", self.attn.recency(batch.recency_BL), self.attn.recency(zero)) / math.sqrt(width)
        score_BL = torch.einsum("bla,ba->bl", key_BLA, query_BA) / math.sqrt(2 * width) + time_BL
        score_BL = score_BL.masked_fill(~batch.valid_BL, _HIDDEN_SCORE)
        content = [self.repr.item(batch.item_BL), self.repr.category(batch.category_BL), self.repr.recency(batch.recency_BL)]
        content_BLR = torch.cat(content, dim=2)
        target = [self.repr.item(batch.target_item_B), self.repr.category(batch.target_category_B), self.repr.recency(zero)]
        target_BR = torch.cat(target, dim=1)
        kept_BK, index_BK = torch.topk(score_BL, self.kept, dim=1)
        kept_BKR = content_BLR.gather(1, index_BK[:, :, None].expand(-1, -1, content_BLR.shape[2]))
        interest_BR = torch.einsum("bk,bkr->br", torch.softmax(kept_BK, dim=1), kept_BKR)
        over_all_BR = torch.einsum("bl,blr->br", torch.softmax(score_BL, dim=1), content_BLR)
        return self.head(target_BR, interest_BR), self.auxiliary(target_BR, over_all_BR)

    def loss(self, batch: PaddedBatch) -> Tensor:
        """Both binary cross-entropies."""
        logit, auxiliary = self(batch)
        cross_entropy = functional.binary_cross_entropy_with_logits
        return cross_entropy(logit, batch.label_B) + cross_entropy(auxiliary, batch.label_B)
