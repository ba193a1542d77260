"""Training: one pass over users and their targets after another, resumable, the same bits for the same seed and thread count."""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType

import numpy as np
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from model.averaging import average
from model.calibration import rescale, scale_and_shift
from model.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from model.config import TrainConfig
from model.data.log import InteractionLog
from model.data_parallel import Chunk, Ranks
from model.dataset import Dataset, Examples, Vocabulary
from model.decorrelation import decorrelating_basis, train_along
from model.feature_encoding import quantile_bins
from model.metrics import auc, evaluate
from model.schedule import Schedule
from model.two_stage import TwoStageModel

_CHECKPOINT_S = 20.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands, reported after every step: `loss` of the step, `rows_per_s` since this process began."""

    step: int
    total: int
    loss: float
    rows_per_s: float
    best_auc: float | None


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

    After the feature epochs, at constant rates and along the features' eigenvectors, the head goes on from the mean of its latest weights,
    and the learning rates fall linearly to zero, over all epochs or within each; validation happens `evaluations_per_epoch` times an epoch
    and the best state is kept.
    With several `ranks` each calls this with the same arguments and gets the same model: a step's chunks are shared out, and statistics and
    gradients are those of the whole step. All read `checkpoint`, the first writes it; another number of ranks may continue from it.

    Raises: CheckpointError when the checkpoint is of another configuration, data set or targets; DivergedError; ValueError where ranks
    were given different data or found different checkpoints; KeyboardInterrupt after the step under way is whole and the checkpoint
    is written (a second Ctrl-C does not wait).
    """
    ranks = ranks or Ranks()
    _make_deterministic(config.num_threads)
    model = build(config, data)
    ranks.synchronise(model)
    optimizer = optimizer_of(model, config)
    state = TrainingState()
    fingerprint: dict[str, object] = {"config": asdict(config), "data": data.log.digest(), "targets": data.train.targets.digest()}
    if checkpoint is not None and checkpoint.exists():
        load_checkpoint(checkpoint, model, optimizer, state, fingerprint)
    ranks.check_same("the data, the configuration and the step to continue from", (fingerprint, state.step, state.best_auc))
    schedule = Schedule.of(config, data.train)
    total = len(schedule.steps)
    turned = _turned(model, optimizer, data.train, config, ranks) if state.step < schedule.alone else []
    started = saved = time.monotonic()
    rows = 0
    model.train()
    with _Interrupts() as interrupts:
        while state.step < total and not state.finished:
            loss = _advance(model, optimizer, data, schedule, state, turned, ranks, config)
            if not math.isfinite(loss):
                raise DivergedError(f"training diverged: the loss is {loss} at step {state.step} of {total}; lower the learning rates")
            rows += sum(len(chunk) for chunk in schedule.steps[state.step - 1]) * data.train.targets.candidate.shape[1]
            if state.step in schedule.validate_after:
                _validate(model, data, config, state, loss, ranks)
            report(Progress(state.step, total, loss, rows / (time.monotonic() - started), state.best_auc))
            interrupted = ranks.any(interrupts.heard)
            if checkpoint is not None and ranks.first and (interrupted or time.monotonic() - saved > _CHECKPOINT_S):
                save_checkpoint(checkpoint, model, optimizer, state, fingerprint)
                saved = time.monotonic()
            if interrupted:
                raise KeyboardInterrupt
    model.load_state_dict(state.best)
    model.eval()
    if config.calibrate:
        _calibrate(model, data, ranks)
    seconds = time.monotonic() - started
    return Trained(model, state.curve, seconds, rows / max(seconds, 1e-9))


def _advance(
    model: TwoStageModel,
    optimizer: torch.optim.Adam,
    data: Dataset,
    schedule: Schedule,
    state: TrainingState,
    turned: list[RemovableHandle],
    ranks: Ranks,
    config: TrainConfig,
) -> float:
    """Do the next step of the schedule; returns its loss."""
    at, given = state.step, (data.log, data.vocabulary, data.train)
    set_rates(optimizer, config, schedule.fallen[at])
    state.step += 1
    if at < schedule.alone:
        loss = feature_step(model, optimizer, given, schedule.steps[at], ranks)
        average(state.mean, model.head.state_dict(), state.step)
        if state.step == schedule.alone:
            model.head.load_state_dict(state.mean, strict=False)
        return loss
    if at == schedule.alone:
        optimizer.state.clear()  # moments of weights that had no gradient until now would make their first steps too long
        for hook in turned:
            hook.remove()
    return step(model, optimizer, given, schedule.steps[at], ranks)


def _make_deterministic(num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory is an aid for debugging that costs a tenth of a step; nothing here reads such memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def optimizer_of(model: TwoStageModel, config: TrainConfig) -> torch.optim.Adam:
    """Adam with two groups, the tables and all else, each at its own rate."""
    embedding = list(model.tables.parameters())
    known = {id(parameter) for parameter in embedding}
    other = [parameter for parameter in model.parameters() if id(parameter) not in known]
    return torch.optim.Adam(
        [{"params": embedding, "lr": config.embedding_learning_rate}, {"params": other, "lr": config.learning_rate}], fused=False
    )


def set_rates(optimizer: torch.optim.Adam, config: TrainConfig, share: float) -> None:
    """The learning rates where they have fallen by `share`."""
    for group, rate in zip(optimizer.param_groups, (config.embedding_learning_rate, config.learning_rate), strict=True):
        group["lr"] = rate * (1 - share)


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


def _turned(
    model: TwoStageModel, optimizer: torch.optim.Adam, examples: Examples, config: TrainConfig, ranks: Ranks
) -> list[RemovableHandle]:
    """Steps along the decorrelating basis, until the hooks are removed."""
    basis_GG = decorrelating_basis(model, examples.extra.reshape(-1, model.num_features), config.seed)
    ranks.from_first_tensor(basis_GG)
    return train_along(basis_GG, optimizer, model.head)


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


def _validate(model: TwoStageModel, data: Dataset, config: TrainConfig, state: TrainingState, loss: float, ranks: Ranks) -> None:
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
