"""A training on disk: written between steps, so that an interrupted one goes on to the very same bits."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from model.two_stage import TwoStageModel


class CheckpointError(ValueError):
    """A checkpoint belongs to another configuration, other data, or cannot be read."""


@dataclass(slots=True)
class TrainingState:
    """Where a training stands: steps done, the best validation and its weights, how many validations were not better, one entry of `curve`
    for each; `mean` of the head's weights over the latest steps on features alone."""

    step: int = 0
    best_auc: float | None = None
    worse: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    mean: dict[str, Tensor] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    finished: bool = False


def save_checkpoint(
    path: Path, model: TwoStageModel, optimizer: torch.optim.Adam, state: TrainingState, fingerprint: dict[str, object]
) -> None:
    """Write a training, whole or not at all. `fingerprint` is what it is a training of, in plain values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    content = {
        "fingerprint": fingerprint,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state": {one.name: getattr(state, one.name) for one in fields(state)},
    }
    torch.save(content, partial)
    partial.replace(path)


def load_checkpoint(
    path: Path, model: TwoStageModel, optimizer: torch.optim.Adam, state: TrainingState, fingerprint: dict[str, object]
) -> None:
    """Put a training back where `save_checkpoint` found it. Raises: CheckpointError when it is of another fingerprint or unreadable."""
    try:
        content = torch.load(path, weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: not a readable checkpoint, delete it (`dare train --fresh` does) to start again: {error}"
        ) from error
    if not isinstance(content, dict) or set(content) != {"fingerprint", "model", "optimizer", "state"}:
        raise CheckpointError(f"{path}: not a checkpoint of a training; delete it (`dare train --fresh` does) to start again")
    if content["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{path}: the checkpoint is of another configuration or other data, or its targets are others; "
            "delete it (`dare train --fresh` does) to start again"
        )
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    for name, value in content["state"].items():
        setattr(state, name, value)
