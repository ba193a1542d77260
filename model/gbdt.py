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
    from lightgbm import LGBMClassifier, early_stopping

    if data.train.extra.shape[2] == 0:
        raise ValueError("gbdt needs the hand-made features: prepare the data with features=True")
    model = LGBMClassifier(
        n_estimators=_ROUNDS,
        learning_rate=0.05,
        num_leaves=63,
        min_child_samples=100,
        subsample=0.8,
        subsample_freq=1,
        colsample_bytree=0.8,
        random_state=seed,
        n_jobs=num_threads,
        deterministic=True,
        force_row_wise=True,
        verbose=-1,
    )
    inputs, label = _rows(data.train)
    validation = _rows(data.validation)
    model.fit(inputs, label, eval_set=[validation], eval_metric="auc", callbacks=[early_stopping(_PATIENCE, verbose=False)])
    tested, label = _rows(data.test)
    probability = np.asarray(model.booster_.predict(tested, num_iteration=model.best_iteration_), dtype=np.float32)
    figures = evaluate_examples(probability, data.test, data.vocabulary)
    user = np.repeat(data.test.targets.user[data.test.chosen], data.test.never_seen.shape[1])
    return Outcome({**figures, "rounds": int(model.best_iteration_)}, probability, label, user)


def _rows(examples: Examples) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    return examples.extra.reshape(-1, len(FEATURE_NAMES)), examples.labels(np.arange(len(examples.chosen)))
