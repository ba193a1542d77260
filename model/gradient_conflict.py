"""Whether attention and content pull a shared embedding table apart: the two parts of its gradient, step by step of a training.

DARE (arXiv 2410.02604) gives this as its reason for two sets of tables; equations in docs/model.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.batch import UserBatch
from model.config import TrainConfig
from model.dataset import Dataset
from model.schedule import epoch_steps
from model.tables import Tables
from model.train import build, optimizer_of, set_rates
from model.two_stage import TwoStageModel

F32 = npt.NDArray[np.float32]
FIELDS = ("item", "category")
_BINS = 20


@dataclass(slots=True)
class _Field:
    """What one table's rows have shown so far."""

    cosine: list[F32] = field(default_factory=list)
    log_ratio: list[F32] = field(default_factory=list)
    row: list[npt.NDArray[np.int32]] = field(default_factory=list)
    whole_cosine: list[float] = field(default_factory=list)
    whole_ratio: list[float] = field(default_factory=list)

    def add(self, attention_VD: Tensor, content_VD: Tensor) -> None:
        norms = [grad.norm(dim=1) for grad in (attention_VD, content_VD)]
        row = torch.nonzero((norms[0] > 0) & (norms[1] > 0)).squeeze(1)
        if len(row) == 0:
            return
        size = [norm[row].double().numpy() for norm in norms]
        dot = (attention_VD[row].double() * content_VD[row].double()).sum(dim=1).numpy()
        self.row.append(row.numpy().astype(np.int32))
        self.cosine.append((dot / (size[0] * size[1])).astype(np.float32))
        self.log_ratio.append(np.log(size[0] / size[1]).astype(np.float32))
        whole = [float(grad.double().norm()) for grad in (attention_VD, content_VD)]
        self.whole_cosine.append(float((attention_VD.double() * content_VD.double()).sum()) / (whole[0] * whole[1]))
        self.whole_ratio.append(whole[0] / whole[1])

    def figures(self) -> dict[str, Any]:
        cosine, ratio, row = (np.concatenate(part) for part in (self.cosine, self.log_ratio, self.row))
        _, place, count = np.unique(row, return_inverse=True, return_counts=True)
        mean_of_row = np.bincount(place, cosine) / count
        return {
            "row_steps": len(cosine),
            "rows": len(count),
            "share_of_row_steps_below_0": float((cosine < 0).mean()),
            "share_of_rows_with_mean_below_0": float((mean_of_row < 0).mean()),
            "share_of_steps_below_0": float((np.array(self.whole_cosine) < 0).mean()),
            "mean_cosine": float(cosine.mean()),
            "mean_cosine_of_step": float(np.mean(self.whole_cosine)),
            "attention_over_content_of_row": float(np.exp(np.median(ratio))),
            "attention_over_content_of_step": float(np.median(self.whole_ratio)),
            "histogram": np.histogram(cosine, bins=_BINS, range=(-1, 1))[0].tolist(),
        }


def gradient_conflict(config: TrainConfig, data: Dataset, report: Callable[[int, int], None] = lambda done, of: None) -> dict[str, Any]:
    """Train a model with one shared set of tables as `config` says, and compare at every step what the loss asks of each table through
    attention scores with what it asks through content (the pooled behaviors and the target's own vector). Their sum is the step's gradient.

    Args: `report` is called with (steps done, of all).
    Returns: figures of "item" and "category" for the whole training, and under "item_by_fifth" and "category_by_fifth" for each fifth of
    it. A row counts in a step where both parts reach it. `attention_over_content`: norms, medians over rows and steps or over steps.
    Raises: ValueError for a model whose tables are not shared: nothing meets there.
    """
    if config.model.tables != "shared":
        raise ValueError(f"gradients meet only in shared tables, this model's are {config.model.tables!r}")
    torch.set_num_threads(config.num_threads)
    model = build(config, data)
    shared = model.attn
    assert isinstance(shared, Tables)
    optimizer = optimizer_of(model, config)
    schedule = [step for epoch in range(config.epochs) for step in epoch_steps(config, data.train, epoch)]
    fifths = [{name: _Field() for name in FIELDS} for _ in range(5)]
    model.train()
    for step, chunks in enumerate(schedule):
        set_rates(optimizer, config, step / len(schedule))
        optimizer.zero_grad()
        label = torch.from_numpy(np.concatenate([data.train.labels(rows) for rows in chunks]))
        parts = split_gradient(model, [data.train.batch(data.log, data.vocabulary, rows) for rows in chunks], label)
        for name, (attention, content) in parts.items():
            fifths[step * 5 // len(schedule)][name].add(attention, content)
        optimizer.step()
        report(step + 1, len(schedule))
    return _summary(fifths)


def split_gradient(model: TwoStageModel, batches: list[UserBatch], label_M: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """The gradient of the loss by table ("item", "category"), [rows, d] each: through attention scores, and through content.

    Leaves the whole gradient, their sum, in the model's parameters. Scores are read from a copy of the table, so autograd keeps them apart.
    """
    shared = model.attn
    copied = copy.deepcopy(shared)
    copied.zero_grad()
    pairs = zip(batches, copied.rows(batches), shared.rows(batches), strict=True)
    views = [model.view(batch, attn, rows) for batch, attn, rows in pairs]
    loss = model.loss_of(views, label_M)
    loss.backward()  # type: ignore[no-untyped-call]
    parts = {}
    for name in FIELDS:
        weight, attention = getattr(shared, name).weight, getattr(copied, name).weight.grad
        content = weight.grad.clone()
        weight.grad += attention
        parts[name] = (attention, content)
    return parts


def _summary(fifths: list[dict[str, _Field]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in FIELDS:
        whole = _Field()
        for fifth in fifths:
            for part in ("cosine", "log_ratio", "row", "whole_cosine", "whole_ratio"):
                getattr(whole, part).extend(getattr(fifth[name], part))
        if not whole.cosine:
            raise ValueError(f"no {name} row was reached through attention and content in one step")
        found[name] = whole.figures()
        found[f"{name}_by_fifth"] = [fifth[name].figures() if fifth[name].cosine else None for fifth in fifths]
    return found
