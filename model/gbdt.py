"""The `gbdt` baseline: LightGBM on the hand-made features of `model.features`, on the very rows of the model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model.dataset import Dataset, Examples
from model.features import FEATURE_NAMES
from model.outcome import Outcome
from model.train import evaluate_examples

_ROUNDS = 2000
_PATIENCE = 50


def gbdt_baseline(data: Dataset, seed: int = 0, num_threads: int = 1) -> Outcome:
    """Gradient boosting with early stopping on the validation rows' AUC.

    Args: `data` prepared with features.
    Raises: ValueError when it was prepared without.
    """
    import lightgbm

    if data.train.extra.shape[2] == 0:
        raise ValueError("gbdt needs the hand-made features: prepare the data with features=True")
    inputs, label = _rows(data.train)
    options = {
        "objective": "binary",
        "metric": "auc",
        "learning_rate": 0.05,
        "num_leaves": 63,
        "min_data_in_leaf": min(100, max(5, len(label) // 50)),  # with 100 of a few hundred rows there would be no tree
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "feature_fraction": 0.8,
        "seed": seed,
        "num_threads": num_threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
    }
    train = lightgbm.Dataset(inputs, label)
    validation = lightgbm.Dataset(*_rows(data.validation), reference=train)
    patience = [lightgbm.early_stopping(_PATIENCE, verbose=False)]
    booster = lightgbm.train(options, train, _ROUNDS, valid_sets=[validation], callbacks=patience)
    tested, label = _rows(data.test)
    probability = np.asarray(booster.predict(tested, num_iteration=booster.best_iteration), dtype=np.float32)
    figures = evaluate_examples(probability, data.test, data.vocabulary)
    user = np.repeat(data.test.targets.user[data.test.chosen], data.test.never_seen.shape[1])
    return Outcome({**figures, "rounds": booster.best_iteration}, probability, label, user)


def _rows(examples: Examples) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    return examples.extra.reshape(-1, len(FEATURE_NAMES)), examples.labels(np.arange(len(examples.chosen)))
