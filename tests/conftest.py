"""A small tidy data set and a model really trained on it, shared by the whole suite."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, settings

from model.config import ModelConfig, TrainConfig, default_preset
from model.data.log import InteractionLog
from model.data.tidy import read_tidy
from model.dataset import Dataset, prepare
from model.export import export
from model.train import Trained, train
from tests.patience import LONGEST_S, at_most
from tests.taking_turns import turn

torch.set_num_threads(1)
# Servers of the tests listen on loopback; those that are about keys say so themselves.
os.environ.setdefault("DARE_DEVELOPMENT", "true")
# Tables are checked by their text, whatever terminal the suite runs in.
os.environ["COLUMNS"] = "200"
# A shell starts what it runs in the background deaf to Ctrl-C, and children inherit that; some tests interrupt on purpose.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, however slow the machine: what the suite says depends on the code alone. The long forms draw anew.
settings.register_profile("suite", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("anew", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """No test waits for ever; the long forms of the faults take what they take."""
    if item.get_closest_marker("faults") is not None:
        return (yield)
    with at_most(LONGEST_S):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Tests marked `alone` run while no other process tests anything."""
    with turn(item.get_closest_marker("alone") is not None):
        return (yield)


def write_tidy(folder: Path, users: int = 60, items: int = 300, categories: int = 12, longest: int = 400, seed: int = 0) -> Path:
    """Users who return to a few favourite categories and items; some items have no category, some appear once."""
    rng = np.random.default_rng(seed)
    category_of = rng.integers(0, categories, items)
    rows = []
    for user in range(users):
        length = int(rng.integers(60, longest))
        favourites = rng.choice(categories, 3, replace=False)
        liked = np.flatnonzero(np.isin(category_of, favourites))
        own = rng.choice(liked, min(12, len(liked)), replace=False)
        source = rng.random(length)
        item = np.where(
            source < 0.6, rng.choice(own, length), np.where(source < 0.8, rng.choice(liked, length), rng.integers(0, items, length))
        )
        time = 1_600_000_000 + np.cumsum(rng.integers(0, 40_000, length))
        session = np.cumsum(rng.random(length) < 0.3)
        rows += [(f"user-{user}", f"item-{i}", int(t), f"{user}/{s}") for i, t, s in zip(item, time, session, strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "session_id"], orient="row").write_parquet(
        folder / "interactions.parquet"
    )
    known = [f"category-{c}" if i % 17 else None for i, c in enumerate(category_of)]
    catalogue = {
        "item_id": [f"item-{i}" for i in range(items)],
        "category_id": known,
        "description": [f"Thing {i} é" for i in range(items)],
    }
    pl.DataFrame(catalogue).write_parquet(folder / "items.parquet")
    return folder


def tiny_config(**model: object) -> TrainConfig:
    """The default preset on a small budget."""
    config = replace(
        default_preset(0),
        epochs=1,
        evaluations_per_epoch=1,
        rows_per_step=512,
        least_steps=100,
        patience=3,
        rates_restart=False,
        min_item_count=3,
        taste_width=8,
        num_threads=1,
    )
    return replace(config, model=replace(ModelConfig(kept=20, hidden=(32, 16)), **model))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Tiny:
    """Data, trained model and artifacts directory of the small world."""

    folder: Path
    log: InteractionLog
    config: TrainConfig
    data: Dataset
    trained: Trained
    artifacts: Path
    version: str


def make_tiny(root: Path, **model: object) -> Tiny:
    """Train and export a small model below `root`."""
    folder = write_tidy(root / "data")
    log = read_tidy(folder)
    config = tiny_config(**model)
    data = prepare(log, config)
    trained = train(config, data)
    version = export(trained.model, data, config, {"test": {}}, root / "artifacts")
    return Tiny(folder, log, config, data, trained, root / "artifacts", version)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The small world with the default model."""
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_artifacts(tiny: Tiny) -> Path:
    """Artifacts directory of the small world."""
    return tiny.artifacts
