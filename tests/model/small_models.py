"""Models far from their initialisation, and one user's random batch, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from model.batch import UserBatch
from model.config import ModelConfig
from model.two_stage import TwoStageModel
from tests.oracles import dare as oracle

ITEMS, CATEGORIES = 30, 7


def made(config: ModelConfig, num_features: int = 0, seed: int = 0, std: float = 0.7) -> TwoStageModel:
    """A float64 model whose every parameter and running statistic is far from its initial value."""
    torch.manual_seed(seed)
    model = TwoStageModel(config, ITEMS, CATEGORIES, num_features).double()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("norm.weight", "slope.weight")):
                value.uniform_(0.3, 1.7)
            else:
                value.normal_(0.0, std)
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0.0
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0.0, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.2, 2.0)
    return model


def batch(length: int, seen: list[int], candidates: int = 3, num_features: int = 0, seed: int = 0) -> UserBatch:
    """One user with `length` behaviors and a target at each moment of `seen`; unknown items differ in identity, not in row."""
    rng = np.random.default_rng([seed, length])
    key = rng.integers(0, 60, length)
    target = rng.integers(0, 60, (len(seen), candidates))
    row = np.concatenate([np.arange(2, ITEMS), np.full(60 - ITEMS + 2, 1)])  # identities beyond the table share the unknown row 1
    category = rng.integers(1, CATEGORIES, 60)
    if length == 0:  # a user without behaviors: one padding behavior that no target sees
        key, items, categories = np.array([-1]), np.array([0]), np.array([0])
    else:
        items, categories = row[key], category[key]
    return UserBatch(
        item_L=torch.from_numpy(items),
        category_L=torch.from_numpy(categories),
        item_key_L=torch.from_numpy(key),
        length_T=torch.tensor(seen),
        target_item_TC=torch.from_numpy(row[target]),
        target_category_TC=torch.from_numpy(category[target]),
        target_key_TC=torch.from_numpy(target),
        extra_TCE=torch.from_numpy(rng.normal(size=(*target.shape, num_features))),
    )


def moments(b: UserBatch) -> list[oracle.Moment]:
    behaviors = list(zip(b.item_L.tolist(), b.category_L.tolist(), b.item_key_L.tolist(), strict=True))
    found = []
    for t, length in enumerate(b.length_T.tolist()):
        for c in range(b.target_item_TC.shape[1]):
            target = (int(b.target_item_TC[t, c]), int(b.target_category_TC[t, c]), int(b.target_key_TC[t, c]))
            found.append(oracle.Moment(behaviors[:length], target, b.extra_TCE[t, c].tolist()))
    return found


def logits(model: TwoStageModel, *batches: UserBatch) -> np.ndarray[Any, np.dtype[np.float64]]:
    with torch.no_grad():
        return np.asarray(model.eval()(list(batches)).numpy())
