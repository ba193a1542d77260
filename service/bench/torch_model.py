"""The model in plain torch: what the services that `dare bench serve` compares with score with.

It is what a competent engineer writes in a day. It is given more than that: each user's history is mapped to rows and the records behind
the candidate features are built when it starts, so that a request pays for the model alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from model.artifact import Artifact
from model.item_hash import hash_item_ids
from model.recency import NUM_AGES, bucket_of_hours, bucket_of_recency
from model.request_features import numpy_features
from model.runtime import ScoringRuntime
from model.user_state import UserState


class ScoreRequest(BaseModel):
    """Candidates to score for one user at one time."""

    user_id: str
    candidates: list[str]
    timestamp: int


class TorchModel:
    """The artifact's tables as tensors, and the equations of docs/model.md on them."""

    def __init__(self, artifacts: Path) -> None:
        self.runtime = ScoringRuntime.load(artifacts)
        artifact = Artifact(artifacts, self.runtime.version)
        self.kept = self.runtime.max_kept
        self._attn = [self._tensor(artifact, f"attn_{name}") for name in ("item", "category")]
        self._repr = [self._tensor(artifact, f"repr_{name}") for name in ("item", "category", "recency")]
        recency = self._tensor(artifact, "attn_recency").double()
        self._bucket = torch.from_numpy(bucket_of_recency().astype(np.int64))
        self._hours = torch.from_numpy(bucket_of_hours().astype(np.int64)) if artifact.config["model"]["ages"] else None
        self._bias = (recency @ recency[0] / recency.shape[1] ** 0.5).float()
        self._scale = (2 * recency.shape[1]) ** -0.5
        self._bonus = float(artifact.array("same_item_bonus")[0])
        self._head = {name: self._tensor(artifact, f"head_{name}") for name in ("w1", "b1", "w2", "b2", "w3", "b3", "slope")}
        self._center: Tensor | float = self._tensor(artifact, "head_center") if artifact.schema > 2 else 0.0
        binned = bool(artifact.config["model"]["feature_bins"])
        self._bins = (self._tensor(artifact, "feature_low"), self._tensor(artifact, "feature_width")) if binned else None

    @staticmethod
    def _tensor(artifact: Artifact, name: str) -> Tensor:
        return torch.from_numpy(np.array(artifact.array(name), dtype=np.float32))

    def rows(self, item_hash: np.ndarray) -> tuple[np.ndarray, Tensor, Tensor]:
        """Places in the catalogue, item rows and category rows."""
        catalogue = self.runtime.catalogue
        place = catalogue.places(item_hash)
        item, category = catalogue.item_row[place], catalogue.category_row[catalogue.category[place]]
        return place, torch.from_numpy(item.astype(np.int64)), torch.from_numpy(category.astype(np.int64))

    @torch.inference_mode()
    def score(self, user: UserState, request: ScoreRequest) -> list[float]:
        """Click probability of each candidate."""
        item_L, category_L = torch.from_numpy(user.item_row_L).long(), torch.from_numpy(user.category_row_L).long()
        hash_L = torch.from_numpy(user.item_hash_L.view(np.int64))
        candidate_hash = hash_item_ids(request.candidates)
        place, item_N, category_N = self.rows(candidate_hash)
        bucket_L = self._bucket[torch.arange(len(item_L), 0, -1)]
        if self._hours is not None:
            hours_L = torch.div(request.timestamp - torch.from_numpy(user.timestamp_L), 3600, rounding_mode="floor")
            bucket_L = bucket_L * NUM_AGES + self._hours[hours_L.clamp(0, len(self._hours) - 1)]
        key_LA = torch.cat([self._attn[0][item_L], self._attn[1][category_L]], dim=1)
        query_NA = torch.cat([self._attn[0][item_N], self._attn[1][category_N]], dim=1)
        score_NL = query_NA @ key_LA.T * self._scale + self._bias[bucket_L]
        score_NL += self._bonus * (torch.from_numpy(candidate_hash.view(np.int64))[:, None] == hash_L)
        score_NK, index_NK = score_NL.topk(min(self.kept, len(item_L)), dim=1)
        kept_NKR = torch.cat(
            [self._repr[0][item_L[index_NK]], self._repr[1][category_L[index_NK]], self._repr[2][bucket_L[index_NK]]], dim=2
        )
        interest_NR = (score_NK.softmax(dim=1)[:, :, None] * kept_NKR).sum(dim=1)
        mass_N1 = torch.log1p(score_NK.exp().sum(dim=1, keepdim=True))
        target_NR = torch.cat([self._repr[0][item_N], self._repr[1][category_N], self._repr[2][0].expand(len(item_N), -1)], dim=1)
        # The candidate features are the NumPy code that training uses.
        extra_NE = torch.from_numpy(numpy_features(user, self.runtime.catalogue, candidate_hash, place, request.timestamp))
        if self._bins is not None:
            low, width = self._bins
            extra_NE = torch.cat([extra_NE, ((extra_NE[:, :, None] - low) / width).clamp(0, 1).flatten(1)], dim=1)
        head = self._head
        rest_NX = torch.cat([mass_N1, extra_NE], dim=1) - self._center
        x = torch.cat([target_NR, interest_NR, target_NR * interest_NR, rest_NX], dim=1)
        x = torch.nn.functional.prelu(x @ head["w1"] + head["b1"], head["slope"][0])
        x = torch.nn.functional.prelu(x @ head["w2"] + head["b2"], head["slope"][1])
        probability: list[float] = torch.sigmoid(x @ head["w3"] + head["b3"]).reshape(-1).tolist()
        return probability


def users_of(model: TorchModel, histories: Path) -> dict[str, UserState]:
    """The users u0, u1, ... of an .npz with `item_hash` u64 [U, L] and `timestamp` i64 [U, L], prepared."""
    with np.load(histories) as held:
        prepared = [model.runtime.prepare(*history) for history in zip(held["item_hash"], held["timestamp"], strict=True)]
    return {f"u{place}": user for place, user in enumerate(prepared)}
