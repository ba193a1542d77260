"""The paper in float64, one target and one behavior at a time: what `model/dare.py` must equal.

Written from the equations of DARE (arXiv 2410.02604), restated in docs/model.md; shares no code with `model/`. Slow on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
Parameters = Mapping[str, F64]
"""Every parameter and running statistic by its name, for example `attn.item.weight`."""
_BATCH_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Moment:
    """One target at one moment: the (item row, category row, item identity) of each behavior before it, oldest first, and of the target."""

    behaviors: Sequence[tuple[int, int, int]]
    target: tuple[int, int, int]
    extra: Sequence[float] = ()


@dataclass(frozen=True)
class Attended:
    """What search kept of one moment: places in the history, scores, softmax weights; interest h; mass."""

    kept: list[int]
    score: list[float]
    weight: list[float]
    interest: F64
    mass: float


def bucket(recency: int) -> int:
    """Recency bucket in integers alone: exact up to 32, then 33 + the number of quarter doublings of 32 that the recency has reached."""
    if recency <= 32:
        return recency
    return 33 + (recency**4).bit_length() - 1 - 20  # 2**20 = 32**4, and 2**(m / 4) <= p / 32 where 2**m <= (p / 32)**4


def scores(parameters: Parameters, moment: Moment) -> list[float]:
    """Equation 1 for every behavior of the history: content, plus recency, plus the learned bonus on the target's own item, and on its own
    category where that is known (row 2 on)."""
    item, category, recency = (parameters[f"attn.{name}.weight"] for name in ("item", "category", "recency"))
    width = item.shape[1]
    bonus, of_category = (float(parameters.get(f"search.{name}", np.zeros(()))) for name in ("bonus", "category_bonus"))
    target_item, target_category, target_key = moment.target
    found = []
    for place, (item_row, category_row, key) in enumerate(moment.behaviors):
        newest_is_one = len(moment.behaviors) - place
        content = _dot(item[target_item], item[item_row]) + _dot(category[target_category], category[category_row])
        time = _dot(recency[0], recency[bucket(newest_is_one)])
        added = (bonus if key == target_key else 0.0) + (of_category if category_row == target_category >= 2 else 0.0)
        found.append(content / math.sqrt(2 * width) + time / math.sqrt(width) + added)
    return found


def attend(parameters: Parameters, moment: Moment, kept: int | None, longest: int | None = None) -> Attended:
    """Equations 2 to 4: keep the K best (all with `kept` None), softmax over them, weighted sum of representations, and the mass.

    Ties go to the newer behavior. With `longest` only the newest that many behaviors compete.
    """
    item, category, recency = (parameters[f"repr.{name}.weight"] for name in ("item", "category", "recency"))
    score = scores(parameters, moment)
    length = len(score)
    competing = [place for place in range(length) if longest is None or length - place <= longest]
    order = sorted(competing, key=lambda place: (-score[place], -place))[:kept]
    interest = np.zeros(item.shape[1] + category.shape[1] + recency.shape[1])
    if not order:
        return Attended([], [], [], interest, 0.0)
    best = score[order[0]]
    power = [math.exp(score[place] - best) for place in order]
    weight = [value / sum(power) for value in power]
    for place, share in zip(order, weight, strict=True):
        item_row, category_row, _ = moment.behaviors[place]
        interest += share * np.concatenate([item[item_row], category[category_row], recency[bucket(length - place)]])
    mass = math.log1p(sum(math.exp(score[place]) for place in order))
    return Attended(order, [score[place] for place in order], weight, interest, mass)


def features(parameters: Parameters, moment: Moment, attended: Attended, with_mass: bool, with_extra: bool) -> F64:
    """Equation 5: x = [u ; h ; u * h], then the mass and the extra inputs where they are used."""
    item_row, category_row, _ = moment.target
    u = np.concatenate(
        [
            parameters["repr.item.weight"][item_row],
            parameters["repr.category.weight"][category_row],
            parameters["repr.recency.weight"][0],
        ]
    )
    extra = ([attended.mass] if with_mass else []) + (list(moment.extra) if with_extra else [])
    return np.concatenate([u, attended.interest, u * attended.interest, np.array(extra, dtype=np.float64)])


def head(parameters: Parameters, name: str, x_MF: F64, training: bool) -> F64:
    """Equation 6 up to the logit, for M rows: statistics of the batch in training, running ones in evaluation."""
    p = {key.removeprefix(f"{name}."): value for key, value in parameters.items() if key.startswith(f"{name}.")}
    mean, variance = x_MF.mean(axis=0), x_MF.var(axis=0)
    if not training:  # what is data has statistics of its own, and neither scale nor shift
        mean, variance = (np.append(p[f"norm.{key}"], p.get(f"given_norm.{key}", [])) for key in ("running_mean", "running_var"))
    learned = len(p["norm.weight"])
    logits = []
    for x in x_MF:
        y = (x - mean) / np.sqrt(variance + _BATCH_NORM_EPS)
        y[:learned] = y[:learned] * p["norm.weight"] + p["norm.bias"]
        for layer in ("first", "second"):
            y = p[f"{layer}.weight"] @ y + p[f"{layer}.bias"]
            y = np.where(y > 0, y, p[f"{layer}_slope.weight"] * y)
        logits.append(float((p["last.weight"] @ y + p["last.bias"])[0]))
    return np.array(logits)


def logits(parameters: Parameters, moments: Sequence[Moment], kept: int, longest: int | None, mass: bool, training: bool = False) -> F64:
    """The whole model on M moments."""
    x = [features(parameters, moment, attend(parameters, moment, kept, longest), mass, True) for moment in moments]
    return head(parameters, "head", np.array(x), training)


def auxiliary_logits(parameters: Parameters, moments: Sequence[Moment], longest: int | None, training: bool = False) -> F64:
    """Equation 7's second head: the same features from attention over the whole history, no search."""
    x = [features(parameters, moment, attend(parameters, moment, None, longest), False, False) for moment in moments]
    return head(parameters, "auxiliary_head", np.array(x), training)


def cross_entropy(logit_M: F64, label_M: Sequence[float]) -> float:
    """Mean binary cross-entropy: -log sigmoid(logit) where the label is 1, -log(1 - sigmoid(logit)) where it is 0."""
    against = [-logit if label else logit for logit, label in zip(logit_M, label_M, strict=True)]
    return sum(max(z, 0.0) + math.log1p(math.exp(-abs(z))) for z in against) / len(against)


def _dot(a: F64, b: F64) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
