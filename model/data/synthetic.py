"""Synthetic lifelong data with known relevance: real logs cannot say which behaviors should have been found (docs/data.md)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from model.data.synthetic_world import Life, SyntheticConfig, World, live

PILOT_USERS = 200
"""Labels need the mean and spread of log(1 + relevance) before the first user is written: those of the first users' targets."""
_BATCH_BEHAVIORS = 400_000
_BATCH_ITEMS = 1_000_000
_MODEL_FILES = ("interactions", "items", "impressions")


def write_synthetic(
    config: SyntheticConfig, out: Path, progress: Callable[[int, int], None] = lambda done, of: None
) -> dict[str, int | float]:
    """Write a synthetic world, the same for the same config, a batch of users at a time.

    The folder is tidy (`interactions.parquet`, `items.parquet`) with `impressions.parquet` beside: what was offered, when, and the label.
    `truth/` holds what a model must not see: `targets` (probability, sum of relevance), `relevance` (where it is not 0), `items` (topic),
    `topics` (category, complement, half-life) and `parameters.json`.

    Args: `progress` is called with (users done, of all).
    Returns: numbers of users, behaviors, impressions and relevances written, and the share of label 1.
    Raises: OSError.
    """
    world = World.make(config)
    mean, spread = standard(world)
    staging = out / ".partial"
    shutil.rmtree(staging, ignore_errors=True)
    (staging / "truth").mkdir(parents=True)
    try:
        written = _write_users(world, mean, spread, staging, progress)
        _write_world(world, staging)
        parameters = asdict(config) | {"half_lives": [str(half) for half in config.half_lives]}
        parameters |= {"log_relevance_mean": mean, "log_relevance_spread": spread}
        (staging / "truth/parameters.json").write_text(json.dumps(parameters, indent=1) + "\n")
        shutil.rmtree(out / "truth", ignore_errors=True)
        (staging / "truth").replace(out / "truth")
        for name in reversed(_MODEL_FILES):
            (staging / f"{name}.parquet").replace(out / f"{name}.parquet")
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return written


def standard(world: World) -> tuple[float, float]:
    """Mean and standard deviation of log(1 + relevance) over the targets of the first users (at most 200)."""
    total = np.concatenate([live(world, user)[0].total for user in range(min(PILOT_USERS, world.config.users))])
    strength = np.log1p(total)
    return float(strength.mean()), max(float(strength.std()), 1e-9)


def probability(total: npt.NDArray[np.float64], slope: float, mean: float, spread: float) -> npt.NDArray[np.float64]:
    """Probability of label 1: the logistic function of slope * standardised log(1 + total relevance)."""
    return np.asarray(1 / (1 + np.exp(-slope * (np.log1p(total) - mean) / spread)), dtype=np.float64)


def _write_users(world: World, mean: float, spread: float, staging: Path, progress: Callable[[int, int], None]) -> dict[str, int | float]:
    config = world.config
    per_batch = max(1, _BATCH_BEHAVIORS // config.length)
    written: dict[str, int | float] = {"users": config.users, "behaviors": 0, "impressions": 0, "relevances": 0}
    positive = 0.0
    with ExitStack() as stack:
        sink = _Sink(staging, stack)
        for first in range(0, config.users, per_batch):
            rows: dict[str, list[dict[str, Any]]] = {}
            for user in range(first, min(first + per_batch, config.users)):
                life, rng = live(world, user)
                chance = probability(life.total, config.slope, mean, spread)
                label = rng.random(len(chance)) < chance
                positive += float(label.sum())
                for name, columns in _tables(world, user, life, chance, label):
                    rows.setdefault(name, []).append(columns)
            for name, parts in rows.items():
                count = sink.write(name, {column: np.concatenate([part[column] for part in parts]) for column in parts[0]})
                if name in ("interactions", "impressions", "truth/relevance"):
                    written[{"interactions": "behaviors", "truth/relevance": "relevances"}.get(name, name)] += count
            progress(min(first + per_batch, config.users), config.users)
    written["share_of_label_1"] = positive / max(1, written["impressions"])
    return written


class _Sink:
    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._open: dict[str, pq.ParquetWriter] = {}

    def write(self, name: str, columns: dict[str, npt.NDArray[Any]]) -> int:
        table = pa.table(columns)
        if name not in self._open:
            path = self._folder / f"{name}.parquet"
            self._open[name] = self._stack.enter_context(pq.ParquetWriter(path, table.schema, compression="zstd"))
        self._open[name].write_table(table)
        return len(table)


def _tables(
    world: World, user: int, life: Life, chance: npt.NDArray[np.float64], label: npt.NDArray[np.bool_]
) -> Iterator[tuple[str, dict[str, npt.NDArray[Any]]]]:
    behaviors, targets = len(life.item), len(life.position)
    target = user * targets + np.arange(targets)
    offered = {
        "user_id": np.full(targets, user),
        "item_id": world.item_id[life.target_item],
        "timestamp": life.target_time,
        "label": label.astype(np.int8),
    }
    yield (
        "interactions",
        {
            "user_id": np.full(behaviors, user),
            "item_id": world.item_id[life.item],
            "timestamp": life.timestamp,
            "session_id": life.burst,
        },
    )
    yield "impressions", offered
    yield (
        "truth/targets",
        {
            "target": target,
            "user_id": offered["user_id"],
            "position": life.position.astype(np.int32),
            "item_id": offered["item_id"],
            "timestamp": life.target_time,
            "label": offered["label"],
            "probability": chance,
            "relevance_sum": life.total,
        },
    )
    yield (
        "truth/relevance",
        {
            "target": target[life.of_target],
            "position": life.of_position.astype(np.int32),
            "relevance": life.relevance.astype(np.float32),
        },
    )


def _write_world(world: World, staging: Path) -> None:
    config = world.config
    item_of_id = np.argsort(world.item_id)  # in the order of ids: the order of items would tell their topics
    with ExitStack() as stack:
        sink = _Sink(staging, stack)
        for first in range(0, config.items, _BATCH_ITEMS):
            item = item_of_id[first : first + _BATCH_ITEMS]
            topic = (item // config.items_per_topic).astype(np.int32)
            sink.write("items", {"item_id": world.item_id[item], "category_id": world.category[topic]})
            sink.write("truth/items", {"item_id": world.item_id[item], "topic": topic})
        topics: dict[str, npt.NDArray[Any]] = {"topic": np.arange(config.topics), "category_id": world.category}
        sink.write("truth/topics", topics | {"complement": world.complement, "half_life": world.half_life})
