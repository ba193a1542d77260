"""The inputs of stage 2 and their checks, the same for every backend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kernels.checks import array, at_least, finite, within

if TYPE_CHECKING:
    from kernels.ranking.prepared_head import PreparedHead

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
Table = npt.NDArray[np.float32] | npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class RankTables:
    """Representation tables: `item` [V, Ri], `category` [C, Rc], `recency` [P, Rp]; a row is [item ; category ; recency], width R.

    All float32, or all uint16 holding bf16 (see `kernels.ranking.bfloat16`)."""

    item: Table
    category: Table
    recency: Table

    @property
    def width(self) -> int:
        """R = Ri + Rc + Rp."""
        return int(self.item.shape[1] + self.category.shape[1] + self.recency.shape[1])


@dataclass(frozen=True, slots=True)
class BehaviorRows:
    """Table rows of each behavior, int32 [L]."""

    item_L: I32
    category_L: I32
    recency_L: I32


@dataclass(frozen=True, slots=True)
class TargetRows:
    """Table rows of each target, int32 [N]; a target's recency row is 0."""

    item_N: I32
    category_N: I32


NO_BIN = np.float32(3e38)


@dataclass(frozen=True, slots=True)
class FeatureBins:
    """Bins of each extra input, f32 [E, B]: bin b of an input x is clip((x - low) / width, 0, 1) (piecewise-linear encoding, arXiv
    2203.05556). The bins of an input ascend and follow one another; `low` is `NO_BIN` for those that an input does not have."""

    low_EB: F32
    width_EB: F32

    def encoded(self, extra_NE: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[extra ; bins of the first input ; of the second ; ...]: [N, E (1 + B)]."""
        bins = np.clip((extra_NE[:, :, None] - self.low_EB) / self.width_EB, 0.0, 1.0)
        return np.concatenate([extra_NE, bins.reshape(len(extra_NE), self.low_EB.size)], axis=1)


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """The head with BatchNorm folded into its first layer, f32: `w1` [F, H1], `b1` [H1], `w2` [H1, H2], `b2` [H2], `w3` [H2]; the
    PReLU slopes `a1`, `a2` and `b3` are numbers. F = 3R + 1 + E, inputs [u ; h ; u * h ; mass ; extra]; with `bins` extra is encoded by
    them and has E (1 + B) rows. `center` f32 [F - 3R] is taken from mass and encoded extra before `w1` reads them (None: nothing): an input
    that hardly varies has a large weight, and its mean inside `b1` would cancel against it in float32."""

    w1: F32
    b1: F32
    a1: float
    w2: F32
    b2: F32
    a2: float
    w3: F32
    b3: float
    bins: FeatureBins | None = None
    center: F32 | None = None

    def rest(self, mass_N: npt.NDArray[Any], extra_NE: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Mass and extra inputs as `w1` reads them: [N, F - 3R]."""
        encoded = extra_NE if self.bins is None else self.bins.encoded(extra_NE)
        found: npt.NDArray[Any] = np.concatenate([mass_N[:, None], encoded], axis=1)
        return found if self.center is None else found - self.center


@dataclass(frozen=True, slots=True)
class RankArguments:
    """The arguments of `pool_and_score`, checked. `prepared` where the caller prepared the head."""

    index_NK: I32
    score_NK: F32
    tables: RankTables
    behavior: BehaviorRows
    target: TargetRows
    extra_NE: F32
    head: HeadWeights
    prepared: PreparedHead | None
    num_threads: int


def finite_where_kept(index_NK: I32, score_NK: F32) -> None:
    """Raises: ValueError naming the first score of a kept behavior that is NaN or infinite. Scores where nothing is kept are never read."""
    if score_NK.size and not (math.isfinite(score_NK.max()) and math.isfinite(score_NK.min())):
        bad = ~np.isfinite(score_NK) & (index_NK >= 0)
        if bad.any():
            place = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(f"score_NK must be finite where index_NK is not -1, got {score_NK[place]} at {list(place)}")


def checked_tables(tables: RankTables) -> RankTables:
    """The tables, contiguous. Raises: ValueError naming the table and the value."""
    kind = np.uint16 if isinstance(tables.item, np.ndarray) and tables.item.dtype == np.uint16 else np.float32
    found = RankTables(*(array(f"tables.{name}", getattr(tables, name), kind, (None, None)) for name in ("item", "category", "recency")))
    if len(found.recency) == 0:
        raise ValueError("tables.recency must hold row 0, the target's, got 0 rows")
    return found


def checked_head(head: HeadWeights, tables: RankTables, num_extra: int | None) -> HeadWeights:
    """The head, contiguous, for tables and E extra inputs (None: as many as `w1` has rows left). Raises: ValueError naming the value."""
    least = 3 * tables.width + 1
    bins = None if head.bins is None else checked_bins(head.bins, num_extra)
    if bins is not None:
        num_extra = len(bins.low_EB) * (1 + bins.low_EB.shape[1])
    w1 = array("head.w1", head.w1, np.float32, (None if num_extra is None else least + num_extra, None))
    if len(w1) < least:
        raise ValueError(f"head.w1 must have at least {least} rows, got {len(w1)}")
    w2 = array("head.w2", head.w2, np.float32, (w1.shape[1], None))
    b1, b2 = (array(f"head.b{i}", value, np.float32, (w.shape[1],)) for i, value, w in ((1, head.b1, w1), (2, head.b2, w2)))
    w3 = array("head.w3", head.w3, np.float32, (w2.shape[1],))
    center = None if head.center is None else array("head.center", head.center, np.float32, (len(w1) - least + 1,))
    return HeadWeights(w1, b1, float(head.a1), w2, b2, float(head.a2), w3, float(head.b3), bins, center)


def checked_bins(bins: FeatureBins, num_extra: int | None) -> FeatureBins:
    """The bins, contiguous. Raises: ValueError naming the value."""
    low = array("head.bins.low_EB", bins.low_EB, np.float32, (num_extra, None))
    width = array("head.bins.width_EB", bins.width_EB, np.float32, low.shape)
    finite("head.bins.low_EB", low)
    finite("head.bins.width_EB", width)
    if not (width > 0).all():
        raise ValueError(f"head.bins.width_EB must be above 0, got {width.min()}")
    if (low[:, 1:] < low[:, :-1]).any():
        raise ValueError("head.bins.low_EB must ascend in each row")
    return FeatureBins(low, width)


def checked(
    index_NK: I32,
    score_NK: F32,
    tables: RankTables,
    behavior: BehaviorRows,
    target: TargetRows,
    extra_NE: F32,
    head: HeadWeights | PreparedHead,
    num_threads: int,
) -> RankArguments:
    """Check every argument of `pool_and_score`, but for the values that `check_values` does. Raises: ValueError naming the argument and the
    value."""
    index = array("index_NK", index_NK, np.int32, (None, None))
    score = array("score_NK", score_NK, np.float32, index.shape)
    num_targets, length = len(index), len(behavior.item_L)
    prepared = None if isinstance(head, HeadWeights) else head
    if prepared is None:
        sound = checked_tables(tables)
    elif tables is prepared.given_tables:
        sound = prepared.tables
    else:
        raise ValueError("tables must be those that the head was prepared with, got others")
    rows = BehaviorRows(*(array(f"behavior.{n}", getattr(behavior, n), np.int32, (length,)) for n in ("item_L", "category_L", "recency_L")))
    targets = TargetRows(*(array(f"target.{n}", getattr(target, n), np.int32, (num_targets,)) for n in ("item_N", "category_N")))
    extra = array("extra_NE", extra_NE, np.float32, (num_targets, None if prepared is None else prepared.num_extra))
    weights = checked_head(head, sound, extra.shape[1]) if isinstance(head, HeadWeights) else head.head
    return RankArguments(index, score, sound, rows, targets, extra, weights, prepared, at_least("num_threads", num_threads, 1))


def check_values(a: RankArguments) -> None:
    """Every row lies in its table, every number is finite. Raises: ValueError naming the argument and the value."""
    within("index_NK", a.index_NK, -1, len(a.behavior.item_L))
    finite_where_kept(a.index_NK, a.score_NK)
    for name, value, table in (
        ("behavior.item_L", a.behavior.item_L, a.tables.item),
        ("behavior.category_L", a.behavior.category_L, a.tables.category),
        ("behavior.recency_L", a.behavior.recency_L, a.tables.recency),
        ("target.item_N", a.target.item_N, a.tables.item),
        ("target.category_N", a.target.category_N, a.tables.category),
    ):
        within(name, value, 0, len(table))
    finite("extra_NE", a.extra_NE)
