"""The model's configuration: frozen, strict, stored inside the artifact."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from model.data.protocol import ProtocolConfig
from model.field_types import check_fields

_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
TABLES = ("decoupled", "shared", "untied", "projected")


@dataclass(frozen=True, slots=True)
class StageSpec:
    """A stage by name, with its options; `model.stages.registry` knows both, and refuses what it does not know."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model's mathematics: widths, tables, stages, and what reaches the head. DARE unless told otherwise.

    Widths are per field (item, category). `attn_width` d_a and `repr_width` d_r in the paper; `kept` is K.
    `longest` cuts a history to its newest behaviors (None: the whole history).
    `mass` gives the head the log mass of the kept scores, `same_item_bonus` a learned score bonus for behaviors of the target's own item,
    `features` the counts, ages, item statistics and taste of `model.features`; all three are what plain softmax attention discards.
    `feature_bins` reads each feature through up to that many bins (0: as it is), a curve instead of a line.
    `ages` adds how long ago a behavior was, in hours, to how many places back it is, in both stages; `sessions` counts sessions back
    instead of places. `same_category_bonus` is a learned score bonus for behaviors of the target's own category.
    `tables`: "decoupled" an attention and a representation set (DARE), "shared" one set for both (TWIN), "untied" each of the two split
    again between targets and behaviors, "projected" one set seen through linear maps. `search`, `encoder`, `pooling` and `objectives` name
    stages (docs/stages.md); `target_aware` multiplies the interest with the target.
    """

    attn_width: int = 16
    repr_width: int = 16
    kept: int = 50
    longest: int | None = None
    hidden: tuple[int, int] = (200, 80)
    init_std: float = 0.01
    mass: bool = True
    same_item_bonus: bool = True
    features: bool = True
    feature_bins: int = 0
    ages: bool = False
    sessions: bool = False
    same_category_bonus: bool = False
    tables: str = "decoupled"
    search: StageSpec = StageSpec("exact")
    encoder: StageSpec | None = None
    pooling: StageSpec = StageSpec("target_attention")
    target_aware: bool = True
    objectives: tuple[StageSpec, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("attn_width", "repr_width", "kept"):
            value = getattr(self, name)
            if not 1 <= value <= 1024:
                raise ValueError(f"{name} must be an integer in 1..1024, got {value!r}")
        if self.longest is not None and self.longest < 1:
            raise ValueError(f"longest must be at least 1 or None, got {self.longest!r}")
        if not self.init_std > 0:
            raise ValueError(f"init_std must be above 0, got {self.init_std!r}")
        if not 0 <= self.feature_bins <= 64:
            raise ValueError(f"feature_bins must be 0..64, got {self.feature_bins!r}")
        if self.feature_bins and not self.features:
            raise ValueError(f"feature_bins is {self.feature_bins}, but features is False: there is nothing to read through bins")
        if self.tables not in TABLES:
            raise ValueError(f"tables must be one of {', '.join(TABLES)}, got {self.tables!r}")
        if self.tables == "shared" and self.attn_width != self.repr_width:
            raise ValueError(f"shared tables have one width: attn_width is {self.attn_width}, repr_width is {self.repr_width}")
        if min(self.hidden) < 1:
            raise ValueError(f"hidden must be two positive widths, got {self.hidden!r}")


AUXILIARY = StageSpec("attention_over_all")
"""The auxiliary loss of equation 7."""
TEACH_SEARCH = (StageSpec("mass_over_all"), StageSpec("smooth_recency"))
"""The losses from which search learns what it did not keep."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How a model is trained. `name` begins the names of its versions.

    `feature_epochs` passes over the rows come first in which the head learns from the features alone, where the model reads any: it needs
    more of them than the tables bear, whose rows of items overfit after one. `calibrate` fits scale and shift of the logit on the
    validation rows at the end.
    `rows_per_step` counts (target, candidate) rows; steps are smaller, down to 128 rows, where an epoch would have fewer than `least_steps`
    of them: a small data set needs many steps too. `targets_per_chunk` targets share one lookup of their user's history.
    Learning rates fall linearly to zero over all epochs, or with `rates_restart` within each: the model is then as good after every epoch
    as it would be without another, and one more may be tried and left out. No epoch begins once `enough_steps` are done (None: any number).
    `evaluations_per_epoch` validations, of which `patience` without a better AUC end the training. `min_item_count` behaviors earn an item
    its own row; `statistic_windows` slices of the training period (see `model.dataset.prepare`); `taste_width` of the taste vectors.
    `statistics` "frozen", or "live": popularity counts what all users did on the days before the target's, as a service with counters of
    its own would know it; for studies only.
    """

    name: str = "dare"
    model: ModelConfig = field(default_factory=ModelConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    seed: int = 0
    feature_epochs: int = 0
    epochs: int = 2
    enough_steps: int | None = None
    evaluations_per_epoch: int = 2
    patience: int = 3
    rates_restart: bool = False
    calibrate: bool = False
    rows_per_step: int = 2048
    least_steps: int = 100
    targets_per_chunk: int = 32
    learning_rate: float = 0.002
    embedding_learning_rate: float = 0.01
    min_item_count: int = 5
    statistic_windows: int = 5
    taste_width: int = 64
    num_threads: int = 1
    statistics: str = "frozen"

    def __post_init__(self) -> None:
        check_fields(self)
        for name in (
            "epochs",
            "evaluations_per_epoch",
            "patience",
            "rows_per_step",
            "least_steps",
            "targets_per_chunk",
            "min_item_count",
            "statistic_windows",
            "taste_width",
            "num_threads",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if self.enough_steps is not None and self.enough_steps < 1:
            raise ValueError(f"enough_steps must be at least 1 or None, got {self.enough_steps!r}")
        if self.feature_epochs < 0:
            raise ValueError(f"feature_epochs must be at least 0, got {self.feature_epochs!r}")
        if self.statistics not in ("frozen", "live"):
            raise ValueError(f"statistics must be frozen or live, got {self.statistics!r}")
        if not self.name or set(self.name) - _NAME_CHARACTERS:
            raise ValueError(f"name must be lower-case letters, digits, - and _, got {self.name!r}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed!r}")
        for name in ("learning_rate", "embedding_learning_rate"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)!r}")


def default_preset(seed: int = 0) -> TrainConfig:
    """DARE with what softmax discards, on whole histories and all targets; features first, search taught by losses of its own, passes over
    everything until validation is no better."""
    model = ModelConfig(feature_bins=12, ages=True, objectives=TEACH_SEARCH)
    return TrainConfig(
        model=model,
        seed=seed,
        protocol=ProtocolConfig(seed=seed),
        feature_epochs=2,
        epochs=8,
        evaluations_per_epoch=1,
        patience=1,
        rates_restart=True,
        least_steps=300,
        calibrate=True,
    )


def demo_preset(seed: int = 0) -> TrainConfig:
    """The default with one pass over everything where that is a thousand steps, search not taught: what `make serve` trains."""
    config = default_preset(seed)
    return replace(config, model=replace(config.model, objectives=()), enough_steps=1000)


def paper_preset(seed: int = 0) -> TrainConfig:
    """DARE as published: 200 behaviors, 20 kept, softmax alone, auxiliary loss, Adam .01 throughout, 2,048 rows a step, 2 epochs."""
    model = ModelConfig(kept=20, longest=200, mass=False, same_item_bonus=False, features=False, objectives=(AUXILIARY,))
    protocol = ProtocolConfig(seed=seed, train_targets=20)
    return TrainConfig(
        model=model,
        protocol=protocol,
        seed=seed,
        rows_per_step=2048,
        least_steps=1,
        learning_rate=0.01,
        embedding_learning_rate=0.01,
    )


PRESETS: dict[str, Callable[[int], TrainConfig]] = {"default": default_preset, "demo": demo_preset, "paper": paper_preset}


def from_dict(kind: type[Any], values: dict[str, Any]) -> Any:
    """Build a frozen config from plain JSON values; unknown keys are refused by name.

    Raises: ValueError naming the unknown key or the bad value.
    """
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{kind.__name__}: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}")
    values = dict(values)
    for name, part in (("model", ModelConfig), ("protocol", ProtocolConfig)):
        if isinstance(values.get(name), dict):
            values[name] = from_dict(part, values[name])
    if kind is ModelConfig:
        for name in ("search", "encoder", "pooling"):
            if isinstance(values.get(name), dict):
                values[name] = from_dict(StageSpec, values[name])
        if isinstance(values.get("objectives"), list | tuple):
            values["objectives"] = tuple(from_dict(StageSpec, spec) if isinstance(spec, dict) else spec for spec in values["objectives"])
        if isinstance(values.get("hidden"), list):
            values["hidden"] = tuple(values["hidden"])
    return kind(**values)
