"""What every array of an artifact must be: type, shape and range, checked at load, so that no request finds out."""

from __future__ import annotations

from typing import Any

import numpy as np

from model.artifact import Artifact, ArtifactError
from model.config import ModelConfig, from_dict
from model.features import FEATURE_NAMES, ITEM_STATISTICS, POPULARITY_DAYS
from model.popularity import DAYS
from model.recency import NUM_AGES, NUM_BUCKETS
from model.tables_layout import TWO_SIDED

_CONFIG_KEYS = ("model", "scoring", "train", "feature_names", "data", "as_of")
_MODEL_KEYS = ("attn_width", "repr_width", "kept", "longest", "hidden", "features", "feature_bins", "ages", "tables")


def check_layout(artifact: Artifact) -> ModelConfig:
    """Check an artifact against its own configuration and this program's features.

    Returns: the model's configuration.
    Raises: ArtifactError naming the file and what was found instead.
    """
    config = _config(artifact)
    features = list(FEATURE_NAMES) if config.features else []
    if artifact.config["feature_names"] != features:
        odd = sorted(set(artifact.config["feature_names"]) ^ set(features)) or ["their order"]
        raise ArtifactError(
            f"{artifact.path}/config.json: trained with other features than this program computes ({odd[0]}); train it again"
        )
    sides = 2 if config.tables in TWO_SIDED else 1
    items = len(artifact.array("item_hash"))
    rows, categories = (len(artifact.array(name)) // sides for name in ("repr_item", "repr_category"))
    kinds, days = len(artifact.array("category_row")), len(artifact.array("popularity_key"))
    scoring = artifact.config["scoring"]
    if scoring not in ("kernels", "graph"):
        raise ArtifactError(f"{artifact.path}/config.json: scoring must be kernels or graph, is {scoring!r}")
    graph = "rank.onnx" if scoring == "kernels" else "score.onnx"
    if graph not in artifact.files:
        raise ArtifactError(f"{artifact.path}/manifest.json: does not list {graph}")
    shapes: dict[str, tuple[str, tuple[int | None, ...]]] = {
        "item_hash": ("uint64", (items,)),
        "item_row": ("int32", (items + 1,)),
        "item_category": ("int32", (items + 1,)),
        "category_row": ("int32", (kinds,)),
        "item_statistic": ("float32", (items + 1, len(ITEM_STATISTICS))),
        "taste_vector": ("float32", (items + 1, None)),
        "taste_weight": ("float32", (items + 1,)),
        "popularity_key": ("int64", (days,)),
        "popularity_count": ("float32", (days,)),
        "popularity_decayed": ("float32", (days, len(POPULARITY_DAYS))),
        "popularity_first_day": ("int64", (1,)),
        "popularity_total": ("float32", (None, len(POPULARITY_DAYS))),
    }
    if scoring == "kernels":
        shapes |= _head_shapes(config, len(features), artifact.schema)
    times = NUM_BUCKETS * NUM_AGES if config.ages else NUM_BUCKETS
    for space, width in (("attn", config.attn_width), ("repr", config.repr_width)):
        if space == "attn" and config.tables == "shared":
            continue
        for name, size in (("item", sides * rows), ("category", sides * categories), ("recency", times)):
            shapes[f"{space}_{name}"] = ("float32", (size, width))
    for name in ("item_id", "item_text"):
        shapes[name], shapes[f"{name}_start"] = ("uint8", (None,)), ("int64", (items + 1,))
    for name, (kind, shape) in shapes.items():
        _check_array(artifact, name, kind, shape)
    for name, size in (("item_row", rows), ("item_category", kinds), ("category_row", categories)):
        _check_range(artifact, name, 0, size - 1)
    for name in ("item_id", "item_text"):
        start = artifact.array(f"{name}_start")
        if start[0] != 0 or start[-1] != len(artifact.array(name)) or (start[1:] < start[:-1]).any():
            raise ArtifactError(f"{artifact.path}/{name}_start.npy: does not ascend from 0 to the size of {name}.npy")
    _check_popularity(artifact)
    return config


def _head_shapes(config: ModelConfig, features: int, schema: int) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    rest = 1 + features * (1 + config.feature_bins)
    first, second = config.hidden
    shapes: dict[str, tuple[str, tuple[int | None, ...]]] = {
        name: ("float32", (features, config.feature_bins)) for name in ("feature_low", "feature_width") if config.feature_bins
    }
    if schema > 2:
        shapes["head_center"] = ("float32", (rest,))
    if config.same_category_bonus:
        shapes["same_category_bonus"] = ("float32", (1,))
    return shapes | {
        "same_item_bonus": ("float32", (1,)),
        "head_w1": ("float32", (3 * 3 * config.repr_width + rest, first)),
        "head_b1": ("float32", (first,)),
        "head_w2": ("float32", (first, second)),
        "head_b2": ("float32", (second,)),
        "head_w3": ("float32", (second,)),
        "head_b3": ("float32", (1,)),
        "head_slope": ("float32", (2,)),
    }


def _check_popularity(artifact: Artifact) -> None:
    """Items and days ascend, and the totals cover every day from the first to the last."""
    key, first = artifact.array("popularity_key"), int(artifact.array("popularity_first_day")[0])
    if (key[1:] <= key[:-1]).any():
        raise ArtifactError(f"{artifact.path}/popularity_key.npy: does not ascend")
    day = key % DAYS
    found, days = len(artifact.array("popularity_total")), int(day.max()) + 1 - int(day.min()) if len(day) else 0
    if found != days or first != (int(day.min()) if len(day) else 0):
        raise ArtifactError(f"{artifact.path}/popularity_total.npy: must hold {days} days, holds {found} from day {first} on")


def _config(artifact: Artifact) -> ModelConfig:
    missing = [name for name in _CONFIG_KEYS if name not in artifact.config]
    missing += [] if missing else [f"model.{name}" for name in _MODEL_KEYS if name not in artifact.config["model"]]
    if missing:
        raise ArtifactError(f"{artifact.path}/config.json: {missing[0]!r} is missing")
    try:
        config: ModelConfig = from_dict(ModelConfig, artifact.config["model"])
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{artifact.path}/config.json: {error}") from error
    return config


def _check_array(artifact: Artifact, name: str, kind: str, shape: tuple[int | None, ...]) -> None:
    value: np.ndarray[Any, Any] = artifact.array(name)
    same = value.ndim == len(shape) and all(wanted in (None, size) for wanted, size in zip(shape, value.shape, strict=True))
    if value.dtype != kind or not same:
        wanted = ["any" if size is None else size for size in shape]
        raise ArtifactError(f"{artifact.path}/{name}.npy: must be {kind} {wanted}, is {value.dtype} {list(value.shape)}")


def _check_range(artifact: Artifact, name: str, low: int, high: int) -> None:
    value: np.ndarray[Any, Any] = artifact.array(name)
    if len(value) and not low <= value.min() <= value.max() <= high:
        raise ArtifactError(f"{artifact.path}/{name}.npy: must lie in {low}..{high}, holds {value.min()}..{value.max()}")
