"""The model's configuration: frozen, strict, stored inside the artifact."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

SEARCHES = ("dare", "none")
HEADS = ("mlp",)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """DARE's mathematics: widths, search, and what reaches the head.

    Widths are per field (item, category). `attn_width` d_a and `repr_width` d_r in the paper; `kept` is K.
    `longest` cuts a history to its newest behaviors (None: the whole history).
    `mass` gives the head the log mass of the kept scores, `same_item_bonus` a learned score bonus for behaviors of the target's own item,
    `features` the counts, ages and item statistics of `model.features`; all three are what plain softmax attention discards. `profile` adds the
    plain mean of the whole history's representations. `auxiliary_loss` is equation 7: a second head on attention over all behaviors.
    """

    attn_width: int = 16
    repr_width: int = 16
    kept: int = 50
    longest: int | None = None
    hidden: tuple[int, int] = (200, 80)
    init_std: float = 0.1
    mass: bool = True
    same_item_bonus: bool = True
    features: bool = True
    profile: bool = False
    auxiliary_loss: bool = False

    def __post_init__(self) -> None:
        for name in ("attn_width", "repr_width", "kept"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= 1024:
                raise ValueError(f"{name} must be an integer in 1..1024, got {value!r}")
        if self.longest is not None and self.longest < 1:
            raise ValueError(f"longest must be at least 1 or None, got {self.longest!r}")
        if len(self.hidden) != 2 or min(self.hidden) < 1:
            raise ValueError(f"hidden must be two positive widths, got {self.hidden!r}")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How a model is trained. `train_targets` None means every target of the training period; `rows_per_step` counts (user, candidate) rows."""

    model: ModelConfig = field(default_factory=ModelConfig)
    seed: int = 0
    train_targets: int | None = None
    negatives: int = 2
    epochs: int = 2
    rows_per_step: int = 4096
    targets_per_chunk: int = 128
    learning_rate: float = 0.002
    embedding_learning_rate: float = 0.002
    min_item_count: int = 5
    statistic_windows: int = 5
    num_threads: int = 2


def from_dict(kind: type[Any], values: dict[str, Any]) -> Any:
    """Build a frozen config from plain JSON values; unknown keys are refused by name.

    Raises: ValueError naming the unknown key or the bad value.
    """
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{kind.__name__}: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}")
    values = dict(values)
    if isinstance(values.get("model"), dict):
        values["model"] = from_dict(ModelConfig, values["model"])
    if "hidden" in values:
        values["hidden"] = tuple(values["hidden"])
    return kind(**values)
