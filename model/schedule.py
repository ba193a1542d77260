"""The steps of a training: which rows share each, drawn from the seed and the epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.config import TrainConfig
from model.data_parallel import Chunk
from model.dataset import Examples, steps

_LEAST_ROWS = 128
"""Smallest step: BatchNorm estimates mean and variance from the rows of a step."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Every step of a training, each a list of chunks, the first `alone` of them on features alone; it is validated after those of
    `validate_after`. `fallen` [steps]: the share by which each step's learning rates have fallen."""

    steps: list[list[Chunk]]
    alone: int
    validate_after: frozenset[int]
    fallen: list[float]

    @classmethod
    def of(cls, config: TrainConfig, examples: Examples) -> Schedule:
        """The whole training of a configuration on the examples."""
        feature_epochs = config.feature_epochs if config.model.features else 0
        every = [step for i in range(feature_epochs) for step in feature_steps(config, examples, i)]
        alone, parts = len(every), config.evaluations_per_epoch
        epochs = _epochs(config, examples)
        falls = [len(epoch) for epoch in epochs] if config.rates_restart else [sum(len(epoch) for epoch in epochs)]
        fallen = [0.0] * alone + [i / steps for steps in falls for i in range(steps)]
        validate_after: set[int] = set()
        for epoch in epochs:
            validate_after |= {len(every) + round(len(epoch) * (j + 1) / parts) for j in range(parts)}
            every += epoch
        return cls(every, alone, frozenset(validate_after), fallen)


def _epochs(config: TrainConfig, examples: Examples) -> list[list[list[Chunk]]]:
    """The epochs of everything: none begins once there are `enough_steps`."""
    epochs: list[list[list[Chunk]]] = []
    while len(epochs) < config.epochs and (config.enough_steps is None or sum(map(len, epochs)) < config.enough_steps):
        epochs.append(epoch_steps(config, examples, len(epochs)))
    return epochs


def epoch_steps(config: TrainConfig, examples: Examples, epoch: int) -> list[list[Chunk]]:
    """The optimiser steps of an epoch, each a list of chunks; their order is drawn from the seed and the epoch."""
    return list(steps(examples.chunks(config.targets_per_chunk, epoch_rng(config, epoch)), _targets_per_step(config, examples)))


def feature_steps(config: TrainConfig, examples: Examples, epoch: int) -> list[list[Chunk]]:
    """The optimiser steps of an epoch on features alone, each a list of chunks: rows in an order drawn from the seed and the epoch."""
    order = np.random.default_rng([config.seed, epoch, 1]).permutation(len(examples.chosen))
    groups = np.array_split(order, -(-len(order) // config.targets_per_chunk))
    return list(steps(groups, _targets_per_step(config, examples)))


def _targets_per_step(config: TrainConfig, examples: Examples) -> int:
    candidates = examples.targets.candidate.shape[1]
    rows = max(_LEAST_ROWS, len(examples.chosen) * candidates // config.least_steps)
    return int(max(1, min(config.rows_per_step, rows) // candidates))


def epoch_rng(config: TrainConfig, epoch: int) -> np.random.Generator:
    """What an epoch's order is drawn from."""
    return np.random.default_rng([config.seed, epoch])
