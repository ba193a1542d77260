"""From a trained model and its data set to an artifact."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kernels import FeatureBins, HeadWeights
from model.artifact import activate, pack_texts, write_artifact
from model.config import TrainConfig
from model.data.protocol import training_period_mask
from model.dataset import Dataset
from model.features import FEATURE_NAMES
from model.head import TargetAwareHead
from model.item_hash import hash_item_ids
from model.rank_graph import rank_graph
from model.score_graph import score_graph
from model.stages.registry import scoring_path
from model.tables_layout import TWO_SIDED
from model.two_stage import TwoStageModel

Arrays = dict[str, npt.NDArray[Any]]


def check_served(config: TrainConfig) -> None:
    """Raises: ValueError, before anything is trained, for what cannot be served: live statistics, or stages that no path computes."""
    if config.statistics != "frozen":
        raise ValueError(
            "a model with live statistics cannot be served: the service keeps no counters of items; train with statistics='frozen'"
        )
    scoring_path(config.model)


def export(model: TwoStageModel, data: Dataset, config: TrainConfig, metrics: dict[str, Any], artifacts: Path) -> str:
    """Write the trained model as a new version and make it current.

    The version's name is the model's and the first 12 hex digits of a hash over configuration and weights: the same training gives the same
    name.

    Returns: the version. Raises: ValueError when two item ids share a hash, or as `check_served`; ArtifactError when the version exists.
    """
    check_served(config)
    scoring = scoring_path(config.model)
    arrays = {**_catalogue(data), **_tables(model)}
    if scoring == "kernels":
        head, of_head = _head(model)
        arrays |= of_head
        graph = "rank.onnx", rank_graph(head, 3 * config.model.repr_width)
    else:
        graph = "score.onnx", score_graph(model)
    version = f"{config.name}-{_digest(config, arrays, None if scoring == 'kernels' else model)[:12]}"
    if (artifacts / version / "manifest.json").is_file():
        activate(artifacts, version)
        return version
    described = asdict(config)
    content = {
        "model": described["model"],
        "scoring": scoring,
        "train": described,
        "feature_names": list(FEATURE_NAMES) if config.model.features else [],
        "data": data.log.describe(),
        "as_of": int(data.log.timestamp[training_period_mask(data.log, config.protocol)].max()),
    }
    write_artifact(artifacts, version, arrays, content, metrics, graph)
    return version


def _catalogue(data: Dataset) -> Arrays:
    """What is known of items and categories, in the order of item hashes. Raises: ValueError when two item ids share a hash."""
    log, vocabulary, taste = data.log, data.vocabulary, data.world.taste
    item_hash = hash_item_ids(log.item_id)
    order = np.argsort(item_hash)
    item_hash = item_hash[order]
    twins = np.flatnonzero(item_hash[1:] == item_hash[:-1])
    if len(twins):
        pair = (log.item_id[order[twins[0]]], log.item_id[order[twins[0] + 1]])
        raise ValueError(f"item ids {pair[0]!r} and {pair[1]!r} have the same 64-bit hash; rename one")
    unknown = len(order)  # the row for an item nobody knows
    category = np.where(log.item_category >= 0, log.item_category, len(log.category_id))
    category_row = np.ones(len(log.category_id) + 1, dtype=np.int32)
    category_row[category] = vocabulary.category_row
    popularity = data.world.popularity.reordered(order)
    texts = [json.dumps({name: column[i] for name, column in log.item_text.items() if column[i]}, ensure_ascii=False) for i in order]
    item_id, item_id_start = pack_texts([log.item_id[i] for i in order])
    item_text, item_text_start = pack_texts(texts)
    return {
        "item_hash": item_hash,
        "item_row": np.append(vocabulary.item_row[order], 1).astype(np.int32),
        "item_category": np.append(category[order], len(log.category_id)).astype(np.int32),
        "category_row": category_row,
        "item_statistic": data.world.statistic[np.append(order, unknown)],
        "taste_vector": np.concatenate([taste.vector[order], np.zeros((1, taste.vector.shape[1]), np.float32)]),
        "taste_weight": np.append(taste.weight[order], 0).astype(np.float32),
        **{f"popularity_{name}": getattr(popularity, name) for name in ("key", "count", "decayed", "first_day", "total")},
        "item_id": item_id,
        "item_id_start": item_id_start,
        "item_text": item_text,
        "item_text_start": item_text_start,
    }


def _head(model: TwoStageModel) -> tuple[HeadWeights, Arrays]:
    """The folded head with its bins, and what the kernels read of it and of the scores."""
    head = fold_head(model.head, 3 * model.config.repr_width, model.config.mass)
    assert head.center is not None
    if model.encoding is not None:
        head = replace(head, bins=FeatureBins(model.encoding.low.numpy().copy(), model.encoding.width.numpy().copy()))
    arrays: Arrays = {f"head_{name}": getattr(head, name) for name in ("center", "w1", "b1", "w2", "b2", "w3")}
    arrays["head_slope"] = np.array([head.a1, head.a2], dtype=np.float32)
    arrays["head_b3"] = np.array([head.b3], dtype=np.float32)
    arrays["same_item_bonus"] = np.array([0.0 if model.score.bonus is None else model.score.bonus.item()], dtype=np.float32)
    if model.score.category_bonus is not None:
        arrays["same_category_bonus"] = np.array([model.score.category_bonus.item()], dtype=np.float32)
    if head.bins is not None:
        arrays["feature_low"], arrays["feature_width"] = head.bins.low_EB, head.bins.width_EB
    return head, arrays


def _digest(config: TrainConfig, arrays: Arrays, model: TwoStageModel | None) -> str:
    """Hash of configuration and weights, hex; of `model` what is in no array, because a graph holds it."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    for name, value in sorted(() if model is None else model.state_dict().items()):
        if not name.startswith("tables."):
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def fold_head(head: TargetAwareHead, width: int, mass: bool) -> HeadWeights:
    """The head with BatchNorm's running statistics folded into the first layer, in float64; the rows of what it does not read (product,
    mass) are zero. The means of mass and features are the center, the others are in b1."""
    parameters = {name: value.detach().double().numpy() for name, value in head.state_dict().items() if value.dtype.is_floating_point}
    scale, mean = parameters["norm.weight"] / np.sqrt(parameters["norm.running_var"] + head.norm.eps), parameters["norm.running_mean"]
    if head.given_norm is not None:
        scale = np.append(scale, 1 / np.sqrt(parameters["given_norm.running_var"] + head.given_norm.eps))
        mean = np.append(mean, parameters["given_norm.running_mean"])
    w1 = parameters["first.weight"].T * scale[:, None]
    vectors = width * (3 if head.product else 2)
    center = mean[vectors:].astype(np.float32)
    left = np.append(mean[:vectors], mean[vectors:] - center)
    b1 = parameters["first.bias"] + parameters["norm.bias"] @ parameters["first.weight"].T[: head.learned] - left @ w1
    if not head.product:
        w1 = np.insert(w1, [2 * width] * width, 0.0, axis=0)
    if not mass:
        w1, center = np.insert(w1, 3 * width, 0.0, axis=0), np.insert(center, 0, np.float32(0))

    def plain(value: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        return np.ascontiguousarray(value, dtype=np.float32)

    return HeadWeights(
        plain(w1),
        plain(b1),
        float(parameters["first_slope.weight"][0]),
        plain(parameters["second.weight"].T),
        plain(parameters["second.bias"]),
        float(parameters["second_slope.weight"][0]),
        plain(parameters["last.weight"][0]),
        float(parameters["last.bias"][0]),
        center=center,
    )


def _tables(model: TwoStageModel) -> dict[str, npt.NDArray[np.float32]]:
    """Tables of both spaces, linear maps folded in. Where targets have vectors of their own, a table holds the behaviors' and then the
    targets', and row 0 of the recency table is the target's."""
    spaces = {"attn": model.attn, "repr": model.repr}
    if model.config.tables == "shared":
        del spaces["attn"]
    two_sided = model.config.tables in TWO_SIDED
    found = {}
    with torch.no_grad():
        for prefix, space in spaces.items():
            for field in ("item", "category"):
                sides = [space.table(field, of_target) for of_target in ((False, True) if two_sided else (False,))]
                found[f"{prefix}_{field}"] = torch.cat(sides).numpy().copy()
            found[f"{prefix}_recency"] = torch.cat([space.target_time_D()[None], space.recency_PD()[1:]]).numpy().copy()
    return found
