"""Cells of a study: one model trained and tested, kept in a file, so that a study that was interrupted goes on where it stood."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from model.config import ModelConfig, TrainConfig, from_dict
from model.counts import counts_baseline
from model.data.log import InteractionLog
from model.data.protocol import Targets
from model.dataset import Dataset, prepare
from model.export import check_served, export
from model.gbdt import gbdt_baseline
from model.metrics import without_nan
from model.outcome import Outcome
from model.train import Progress, evaluate_examples, predict, train

Report = Callable[[str, Progress | None], None]
Judge = Callable[[TrainConfig, str], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Cell:
    """One model of a study. `name` is also the name of its files; `kind` "two_stage" (a model of stages), "counts" or "gbdt" (baselines on
    the same rows, of whose `config` the protocol, the seed and what makes the data set matter)."""

    name: str
    config: TrainConfig
    kind: str = "two_stage"


class Study:
    """Runs cells over one log, or reads them from `folder` where they are finished.

    A finished cell is `NAME.json` (configuration, data, figures) and `NAME.npz` (the test rows' probabilities); an interrupted training
    leaves a checkpoint and resumes from it. Cells that follow one another share a data set where their configurations allow.

    Args: `report` is called with what is being done, and the training's progress while it trains; `targets` makes the targets of a
    configuration (None: the protocol draws them); `artifacts` where models of frozen statistics are exported to, their `version` among the
    figures; `judge` figures that are added, of an exported version.
    """

    def __init__(
        self,
        log: InteractionLog,
        folder: Path,
        report: Report,
        targets: Callable[[TrainConfig], Targets] | None = None,
        artifacts: Path | None = None,
        judge: Judge | None = None,
    ) -> None:
        self._log, self._folder, self._report, self._targets, self._artifacts, self._judge = log, folder, report, targets, artifacts, judge
        self._described, self._digest = log.describe(), log.digest()
        self._prepared: tuple[TrainConfig, Dataset] | None = None

    def check(self, cell: Cell) -> dict[str, Any] | None:
        """What the cell's file says, where it is finished: known before hours are spent on others.

        Raises: ValueError when a file of this name is of another configuration or other data, or the model cannot be exported as asked.
        """
        if self._exported_to(cell) is not None:
            check_served(cell.config)
        path = self._folder / f"{cell.name}.json"
        if not path.exists() or not path.with_suffix(".npz").exists():
            return None
        known: dict[str, Any] = json.loads(path.read_text())
        self._check(path, cell, known["identity"])
        return known

    def run(self, cell: Cell) -> Outcome:
        """The cell's figures and probabilities. Raises: as `check`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path, rows, checkpoint = (self._folder / f"{cell.name}.{suffix}" for suffix in ("json", "npz", "checkpoint"))
        if (known := self.check(cell)) is not None:
            missing = {name: float("nan") for name, value in known["figures"].items() if value is None}
            with np.load(rows, allow_pickle=False) as content:
                return Outcome(known["figures"] | missing, content["probability"], content["label"], content["user"])
        done = self._baseline(cell) if cell.kind != "two_stage" else self._trained(cell, checkpoint)
        np.savez(rows, probability=done.probability, label=done.label, user=done.user)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"identity": self._identity(cell), "figures": without_nan(done.figures)}, indent=1))
        partial.replace(path)  # whole or not there, whenever it is stopped
        checkpoint.unlink(missing_ok=True)
        return done

    def _check(self, path: Path, cell: Cell, known: dict[str, Any]) -> None:
        own = self._identity(cell)
        # What identities did not say before: whose the data are beyond their sizes, and that targets were drawn.
        known = {"digest": own["digest"], "targets": "drawn", **known}
        try:  # options that came into being since have their default
            config = from_dict(TrainConfig, known["config"])
        except ValueError as error:
            raise ValueError(f"{path} is of another configuration ({error}); give another --out, or delete it") from error
        of_kind = (lambda one: one) if cell.kind == "two_stage" else _of_data  # a baseline reads the data set alone
        there, here = _flat(known | {"config": asdict(of_kind(config))}), _flat(own | {"config": asdict(of_kind(cell.config))})
        for name in {**here, **there}:
            if there.get(name) != here.get(name):
                differs = f"{name} is {there.get(name)!r} there, {here.get(name)!r} here"
                raise ValueError(f"{path} is of another configuration or other data ({differs}); give another --out, or delete it")

    def _exported_to(self, cell: Cell) -> Path | None:
        """Where the cell's model goes: a baseline has no artifact, and none holds statistics that live on."""
        return self._artifacts if cell.kind == "two_stage" and cell.config.statistics == "frozen" else None

    def _identity(self, cell: Cell) -> dict[str, Any]:
        return {
            "kind": cell.kind,
            "config": asdict(cell.config),
            "data": self._described,
            "digest": self._digest,
            "targets": "drawn" if self._targets is None else "given",
        }

    def _dataset(self, cell: Cell) -> Dataset:
        shared = _of_data(cell.config)
        if self._prepared is None or self._prepared[0] != shared:
            targets = None if self._targets is None else self._targets(cell.config)
            self._prepared = None  # two of them need not fit into memory
            self._prepared = shared, prepare(self._log, cell.config, lambda text: self._report(f"{cell.name}: {text}", None), targets)
        return self._prepared[1]

    def _baseline(self, cell: Cell) -> Outcome:
        started = time.monotonic()
        self._report(f"{cell.name}: fitting", None)
        if cell.kind == "counts":
            targets = None if self._targets is None else self._targets(cell.config)
            seed, least = cell.config.seed, cell.config.min_item_count
            done = counts_baseline(self._log, cell.config.protocol, cell.config.model.longest, seed, least, targets)
        else:
            done = gbdt_baseline(self._dataset(cell), cell.config.seed)
        return replace(done, figures={**done.figures, "train_s": round(time.monotonic() - started, 1)})

    def _trained(self, cell: Cell, checkpoint: Path) -> Outcome:
        started = time.monotonic()
        dataset = self._dataset(cell)
        prepared = time.monotonic()
        trained = train(cell.config, dataset, checkpoint, lambda progress: self._report(f"{cell.name}: training", progress))
        self._report(f"{cell.name}: testing", None)
        before = time.monotonic()
        probability = predict(trained.model, self._log, dataset.vocabulary, dataset.test)
        figures: dict[str, Any] = {
            **evaluate_examples(probability, dataset.test, dataset.vocabulary),
            "prepare_s": round(prepared - started, 1),
            "train_s": round(trained.seconds, 1),
            "test_s": round(time.monotonic() - before, 1),
            "rows_per_s": round(trained.rows_per_s),
        }
        if (artifacts := self._exported_to(cell)) is not None:
            figures["version"] = export(trained.model, dataset, cell.config, {"test": figures}, artifacts)
            if self._judge is not None:
                self._report(f"{cell.name}: judging", None)
                figures |= self._judge(cell.config, figures["version"])
        test = dataset.test
        user = np.repeat(test.targets.user[test.chosen], probability.shape[1])
        return Outcome(figures, probability.reshape(-1), test.labels(np.arange(len(test.chosen))), user)


def _flat(values: dict[str, Any], outer: str = "") -> dict[str, Any]:
    """Nested values by dotted names, as plain JSON values."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{outer}{name}.") if isinstance(value, dict) else {outer + name: json.loads(json.dumps(value))}
    return found


_NOT_OF_DATA: dict[str, Any] = {
    "feature_epochs": 0,
    "epochs": 1,
    "enough_steps": None,
    "evaluations_per_epoch": 1,
    "patience": 1,
    "rates_restart": False,
    "calibrate": False,
    "rows_per_step": 1,
    "least_steps": 1,
    "targets_per_chunk": 1,
    "learning_rate": 0.5,
    "embedding_learning_rate": 0.5,
    "num_threads": 1,
}
"""Training's own fields, set to one value: they do not shape the data set."""


def _of_data(config: TrainConfig) -> TrainConfig:
    """The configuration with everything that does not shape the data set set to one value."""
    model = ModelConfig(longest=config.model.longest, features=config.model.features)
    return replace(config, name="data", model=model, **_NOT_OF_DATA)
