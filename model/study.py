"""Cells of a study: one configuration trained and tested, kept in a file, so that a study that was interrupted goes on where it stood."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.config import TrainConfig
from model.data.log import InteractionLog
from model.dataset import prepare
from model.train import Progress, evaluate_examples, predict, train


@dataclass(frozen=True, slots=True)
class Cell:
    """One model of a study. `name` is also the name of its files."""

    name: str
    config: TrainConfig


@dataclass(frozen=True, slots=True)
class Finished:
    """What a cell found: `figures` of `model.metrics.evaluate` with times, and the test rows' `probability`, `label` f32 and `user` [M]."""

    figures: dict[str, Any]
    probability: npt.NDArray[np.float32]
    label: npt.NDArray[np.float32]
    user: npt.NDArray[np.int64]


def run_cell(log: InteractionLog, cell: Cell, folder: Path, report: Callable[[str, Progress | None], None]) -> Finished:
    """Train and test a cell, or read it from `folder` when it was finished there.

    Writes `NAME.json` (configuration, data, figures) and `NAME.npz` (the test rows' probabilities) when done; an interrupted training
    leaves a checkpoint and resumes from it.

    Args: `report` is called with what is being done, and the training's progress while it trains.
    Raises: ValueError when a finished file of this name is of another configuration or other data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, rows, checkpoint = (folder / f"{cell.name}.{suffix}" for suffix in ("json", "npz", "checkpoint"))
    identity = json.loads(json.dumps({"config": asdict(cell.config), "data": log.describe()}))
    if path.exists() and rows.exists():
        known = json.loads(path.read_text())
        if known["identity"] != identity:
            raise ValueError(f"{path} is of another configuration or other data; give another --out, or delete it")
        with np.load(rows, allow_pickle=False) as content:
            return Finished(known["figures"], content["probability"], content["label"], content["user"])
    started = time.monotonic()
    dataset = prepare(log, cell.config, lambda text: report(f"{cell.name}: {text}", None))
    prepared = time.monotonic()
    trained = train(cell.config, dataset, checkpoint, lambda progress: report(f"{cell.name}: training", progress))
    report(f"{cell.name}: testing", None)
    before = time.monotonic()
    probability = predict(trained.model, log, dataset.vocabulary, dataset.test)
    figures: dict[str, Any] = {
        **evaluate_examples(probability, dataset.test, dataset.vocabulary),
        "prepare_s": round(prepared - started, 1),
        "train_s": round(trained.seconds, 1),
        "test_s": round(time.monotonic() - before, 1),
        "rows_per_s": round(trained.rows_per_s),
    }
    test = dataset.test
    user = np.repeat(test.targets.user[test.chosen], probability.shape[1])
    done = Finished(figures, probability.reshape(-1), test.labels(np.arange(len(test.chosen))), user)
    np.savez(rows, probability=done.probability, label=done.label, user=done.user)
    path.write_text(json.dumps({"identity": identity, "figures": figures}, indent=1))
    checkpoint.unlink(missing_ok=True)
    return done
