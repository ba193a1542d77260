"""Training: one pass over users and their targets after another, resumable, the same bits for the same seed and thread count."""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType

import numpy as np
import torch
from torch import Tensor

from model.calibration import rescale, scale_and_shift
from model.config import TrainConfig
from model.data.log import InteractionLog
from model.data_parallel import Chunk, Ranks
from model.dataset import Dataset, Examples, Vocabulary, steps
from model.feature_encoding import quantile_bins
from model.metrics import auc, evaluate
from model.two_stage import TwoStageModel

_CHECKPOINT_S = 20.0
_LEAST_ROWS = 128
"""Smallest step: BatchNorm estimates mean and variance from the rows of a step."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands, reported after every step: `loss` of the step, `rows_per_s` since this process began."""

    step: int
    total: int
    loss: float
    rows_per_s: float
    best_auc: float | None


@dataclass(slots=True)
class _State:
    step: int = 0
    best_auc: float | None = None
    worse: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    finished: bool = False


class CheckpointError(ValueError):
    """A checkpoint belongs to another configuration, other data, or cannot be read."""


class DivergedError(ValueError):
    """The loss is no longer a number; the message says at which step."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model in evaluation mode and how it came about: `curve` has one entry per validation."""

    model: TwoStageModel
    curve: list[dict[str, float]]
    seconds: float
    rows_per_s: float


def build(config: TrainConfig, data: Dataset) -> TwoStageModel:
    """A freshly initialised model for the data."""
    torch.manual_seed(config.seed)
    vocabulary = data.vocabulary
    num_features = data.train.extra.shape[2]
    model = TwoStageModel(config.model, vocabulary.num_items, vocabulary.num_categories, num_features)
    if model.encoding is not None:
        model.encoding.fit(quantile_bins(data.train.extra.reshape(-1, num_features), config.model.feature_bins, config.seed))
    return model


def train(
    config: TrainConfig,
    data: Dataset,
    checkpoint: Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    ranks: Ranks | None = None,
) -> Trained:
    """Train a model; with `checkpoint`, continue from it where it exists and write it every 20 seconds and on interruption.

    After the feature epochs, at constant rates, the learning rates fall linearly to zero; validation happens `evaluations_per_epoch` times
    an epoch and the best state is kept.
    With several `ranks` each calls this with the same arguments and gets the same model: a step's chunks are shared out, and statistics and
    gradients are those of the whole step. All read `checkpoint`, the first writes it; another number of ranks may continue from it.

    Raises: CheckpointError when the checkpoint is of another configuration, data set or targets; DivergedError; ValueError where ranks
    were given different data or found different checkpoints; KeyboardInterrupt after the step under way is whole and the checkpoint
    is written (a second Ctrl-C does not wait).
    """
    ranks = ranks or Ranks()
    torch.set_num_threads(config.num_threads)
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory is an aid for debugging that costs a tenth of a step; nothing here reads such memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    model = build(config, data)
    ranks.synchronise(model)
    optimizer = optimizer_of(model, config)
    state = _State()
    fingerprint: dict[str, object] = {"config": asdict(config), "data": data.log.digest(), "targets": data.train.targets.digest()}
    if checkpoint is not None and checkpoint.exists():
        _load(checkpoint, model, optimizer, state, fingerprint)
    ranks.check_same("the data, the configuration and the step to continue from", (fingerprint, state.step, state.best_auc))
    feature_epochs = config.feature_epochs if config.model.features else 0
    alone = [step for i in range(feature_epochs) for step in feature_steps(config, data.train, i)]
    epochs = [epoch_steps(config, data.train, i) for i in range(config.epochs)]
    schedule = alone + [step for epoch in epochs for step in epoch]
    total = len(schedule)
    first = len(alone) + np.cumsum([0, *(len(epoch) for epoch in epochs)])
    parts = config.evaluations_per_epoch
    evaluate_at = {int(first[i]) + round(len(epoch) * (j + 1) / parts) for i, epoch in enumerate(epochs) for j in range(parts)}
    started = saved = time.monotonic()
    rows = 0
    model.train()
    with _Interrupts() as interrupts:
        while state.step < total and not state.finished:
            chunks = schedule[state.step]
            if state.step == len(alone):
                optimizer.state.clear()  # moments of weights that had no gradient until now would make their first steps too long
            share = max(0, state.step - len(alone)) / (total - len(alone))
            for group, rate in zip(optimizer.param_groups, (config.embedding_learning_rate, config.learning_rate), strict=True):
                group["lr"] = rate * (1 - share)
            take = step if state.step >= len(alone) else feature_step
            loss = take(model, optimizer, (data.log, data.vocabulary, data.train), chunks, ranks)
            state.step += 1
            if not math.isfinite(loss):
                raise DivergedError(f"training diverged: the loss is {loss} at step {state.step} of {total}; lower the learning rates")
            rows += sum(len(chunk) for chunk in chunks) * data.train.targets.candidate.shape[1]
            if state.step in evaluate_at:
                _validate(model, data, config, state, loss, ranks)
            report(Progress(state.step, total, loss, rows / (time.monotonic() - started), state.best_auc))
            interrupted = ranks.any(interrupts.heard)
            if checkpoint is not None and ranks.first and (interrupted or time.monotonic() - saved > _CHECKPOINT_S):
                _save(checkpoint, model, optimizer, state, fingerprint)
                saved = time.monotonic()
            if interrupted:
                raise KeyboardInterrupt
    model.load_state_dict(state.best)
    model.eval()
    if config.calibrate:
        _calibrate(model, data, ranks)
    seconds = time.monotonic() - started
    return Trained(model, state.curve, seconds, rows / max(seconds, 1e-9))


def epoch_steps(config: TrainConfig, examples: Examples, epoch: int) -> list[list[Chunk]]:
    """The optimiser steps of an epoch, each a list of chunks; their order is drawn from the seed and the epoch."""
    return list(steps(examples.chunks(config.targets_per_chunk, _epoch_rng(config, epoch)), _targets_per_step(config, examples)))


def feature_steps(config: TrainConfig, examples: Examples, epoch: int) -> list[list[Chunk]]:
    """The optimiser steps of an epoch on features alone, each a list of chunks: rows in an order drawn from the seed and the epoch."""
    order = np.random.default_rng([config.seed, epoch, 1]).permutation(len(examples.chosen))
    groups = np.array_split(order, -(-len(order) // config.targets_per_chunk))
    return list(steps(groups, _targets_per_step(config, examples)))


def optimizer_of(model: TwoStageModel, config: TrainConfig) -> torch.optim.Adam:
    """Adam with two groups, the tables and all else, each at its own rate."""
    embedding = list(model.tables.parameters())
    known = {id(parameter) for parameter in embedding}
    other = [parameter for parameter in model.parameters() if id(parameter) not in known]
    return torch.optim.Adam(
        [{"params": embedding, "lr": config.embedding_learning_rate}, {"params": other, "lr": config.learning_rate}], fused=False
    )


def step(
    model: TwoStageModel,
    optimizer: torch.optim.Adam,
    data: tuple[InteractionLog, Vocabulary, Examples],
    chunks: list[Chunk],
    ranks: Ranks,
) -> float:
    """One optimiser step on the chunks' rows; returns the loss before it, of the rows of all ranks."""
    log, vocabulary, examples = data
    own = ranks.take(chunks, lambda rows: examples.work(log, rows))
    label = torch.from_numpy(np.concatenate([examples.labels(rows) for rows in own]))
    batches = [examples.batch(log, vocabulary, rows) for rows in own]
    return _descend(model, optimizer, lambda: model.loss(batches, label), ranks)


def feature_step(
    model: TwoStageModel,
    optimizer: torch.optim.Adam,
    data: tuple[InteractionLog, Vocabulary, Examples],
    chunks: list[Chunk],
    ranks: Ranks,
) -> float:
    """One optimiser step of the head on the features of the chunks' rows; returns the loss before it, of the rows of all ranks."""
    examples = data[2]
    own = np.concatenate(ranks.take(chunks, len))
    extra, label = torch.from_numpy(examples.extra[own]).flatten(0, 1), torch.from_numpy(examples.labels(own))
    return _descend(model, optimizer, lambda: model.feature_loss(extra, label), ranks)


def _descend(model: TwoStageModel, optimizer: torch.optim.Adam, loss_of: Callable[[], Tensor], ranks: Ranks) -> float:
    optimizer.zero_grad()
    loss = ranks.share * loss_of()
    loss.backward()  # type: ignore[no-untyped-call]
    total = ranks.sum_gradients(model.parameters(), loss)
    optimizer.step()
    return total


def predict(
    model: TwoStageModel, log: InteractionLog, vocabulary: Vocabulary, examples: Examples
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Click probabilities f32 [T, C] of the examples, in evaluation mode: the score of a row does not depend on the rows beside it."""
    was_training = model.training
    model.eval()
    probability = np.zeros(examples.never_seen.shape, dtype=np.float32)
    with torch.no_grad():
        for rows in examples.chunks(256, None):
            logit = model([examples.batch(log, vocabulary, rows)])
            probability[rows] = torch.sigmoid(logit).numpy().reshape(len(rows), -1)
    model.train(was_training)
    return probability


def evaluate_examples(
    probability: np.ndarray[tuple[int, ...], np.dtype[np.float32]], examples: Examples, vocabulary: Vocabulary
) -> dict[str, float | int]:
    """Figures of `model.metrics.evaluate` for the examples' rows."""
    candidate = examples.targets.candidate[examples.chosen]
    user = np.repeat(examples.targets.user[examples.chosen], candidate.shape[1])
    label = examples.labels(np.arange(len(examples.chosen)))
    warm = vocabulary.item_row[candidate.reshape(-1)] > 1
    return evaluate(label, probability.reshape(-1), user, examples.never_seen.reshape(-1), warm)


class _Interrupts:
    """Hears Ctrl-C between steps: half a step in a checkpoint would make the resumed training another one. The second is not held back."""

    def __init__(self) -> None:
        self.heard = False
        # Elsewhere than in the main thread, or where the host handles Ctrl-C itself, nothing changes.
        self._ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def __enter__(self) -> _Interrupts:
        if self._ours:
            signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.heard:
            raise KeyboardInterrupt
        self.heard = True


def _targets_per_step(config: TrainConfig, examples: Examples) -> int:
    candidates = examples.targets.candidate.shape[1]
    rows = max(_LEAST_ROWS, len(examples.chosen) * candidates // config.least_steps)
    return int(max(1, min(config.rows_per_step, rows) // candidates))


def _epoch_rng(config: TrainConfig, epoch: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, epoch])


def _validate(model: TwoStageModel, data: Dataset, config: TrainConfig, state: _State, loss: float, ranks: Ranks) -> None:
    def measured() -> float:
        probability = predict(model, data.log, data.vocabulary, data.validation).reshape(-1)
        return auc(data.validation.labels(np.arange(len(data.validation.chosen))), probability)

    value = ranks.from_first(measured)
    state.curve.append({"step": state.step, "loss": loss, "validation_auc": value})
    if state.best_auc is None or value > state.best_auc:
        state.best_auc, state.worse = value, 0
        state.best = copy.deepcopy(model.state_dict())
    else:
        state.worse += 1
        state.finished = state.worse >= config.patience


def _calibrate(model: TwoStageModel, data: Dataset, ranks: Ranks) -> None:
    fitted = (1.0, 0.0)
    if ranks.first:
        probability = predict(model, data.log, data.vocabulary, data.validation).reshape(-1).astype(np.float64).clip(1e-7, 1 - 1e-7)
        label = data.validation.labels(np.arange(len(data.validation.chosen)))
        fitted = scale_and_shift(np.log(probability / (1 - probability)), label)
    scale, shift = (ranks.from_first(partial(float, value)) for value in fitted)
    rescale(model.head, scale, shift)


def _save(path: Path, model: TwoStageModel, optimizer: torch.optim.Adam, state: _State, fingerprint: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    content = {
        "fingerprint": fingerprint,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state": {
            "step": state.step,
            "best_auc": state.best_auc,
            "worse": state.worse,
            "best": state.best,
            "curve": state.curve,
            "finished": state.finished,
        },
    }
    torch.save(content, partial)
    partial.replace(path)


def _load(path: Path, model: TwoStageModel, optimizer: torch.optim.Adam, state: _State, fingerprint: dict[str, object]) -> None:
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
