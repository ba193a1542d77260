"""`PreparedHead`: what of stage 2 depends on neither user nor candidates, checked and packed once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kernels.aligned import aligned
from kernels.ranking.arguments import F32, NO_BIN, FeatureBins, HeadWeights, RankTables, Table, checked_head, checked_tables
from kernels.ranking.bfloat16 import as_float32

_GROUP = 16
MOST_FOLDED_BYTES = 16 * 2**20
"""Largest table over the categories: 20,000 of them at H1 = 200."""
F64 = npt.NDArray[np.float64]


class PreparedHead:
    """A head over its tables, accepted by `pool_and_score` in place of the bare weights.

    The target's recency row is the same for every target, so its part of the first layer is a constant, and h_recency meets two rows of
    w1 (its own, and the product's times that constant) that add up to one: 2 Rp of the F inputs disappear. There are few categories, so
    what u_category adds is looked up. Inputs left, in order: [u_item | h | (u * h)_item (u * h)_category | mass | extra].

    Args: `head`, `tables` as for `pool_and_score`; neither may be written afterwards. `runs` of binned extra inputs whose values many
    targets of a call share, as those about a category do: what they add is computed once.
    Raises: ValueError naming the argument and the value.
    """

    def __init__(self, head: HeadWeights, tables: RankTables, runs: Sequence[Sequence[int]] = ()) -> None:
        self.given_tables = tables
        self.tables = checked_tables(tables)
        self.head = checked_head(head, self.tables, None)
        width, recency = self.tables.width, self.tables.recency.shape[1]
        own = width - recency
        w1 = self.head.w1.astype(np.float64)
        of_u, of_h, of_product, rest = w1[:width], w1[width : 2 * width], w1[2 * width : 3 * width], w1[3 * width :]
        u = as_float32(self.tables.recency[0]).astype(np.float64)
        folded = of_h[own:] + u[:, None] * of_product[own:]
        bins = self.head.bins
        self.num_extra = len(rest) - 1 if bins is None else len(bins.low_EB)
        named, binned = [e for run in runs for e in run], range(0 if bins is None else self.num_extra)
        if not all(runs) or len(set(named)) < len(named) or any(e not in binned for e in named):
            raise ValueError(f"runs must name different ones of {len(binned)} binned inputs, each run at least one, got {runs}")
        self.center_X = np.zeros(len(rest), dtype=np.float32) if self.head.center is None else self.head.center
        self.steps = None if bins is None else _Steps(bins, rest[1:], self.center_X[1:].astype(np.float64), runs)
        dense = rest if bins is None else rest[:1]
        b1, item = self.head.b1 + u @ of_u[own:], self.tables.item.shape[1]
        self.category_CH = _by_category(self.tables.category, of_u[item:own], b1)
        own_inputs = of_u[: own if self.category_CH is None else item]
        inputs = np.concatenate([own_inputs, of_h[:own], folded, of_product[:own], dense])
        self.num_inputs = len(inputs)
        self.w1_GF16 = _packed(inputs)
        self.b1_G16 = _packed(b1[None])
        self.w2_GF16 = _packed(self.head.w2)
        self.b2_G16 = _packed(self.head.b2[None])
        self.w3_G16 = _packed(self.head.w3[None])
        self.packed: bytes | None = None
        """What the native backend keeps of all this."""

    @property
    def nbytes(self) -> int:
        """Bytes of the packed copies."""
        looked_up = [0 if table is None else table.nbytes for table in (self.steps, self.category_CH)]
        return sum(looked_up) + sum(packed.nbytes for packed in (self.w1_GF16, self.b1_G16, self.w2_GF16, self.b2_G16, self.w3_G16))


class _Steps:
    """What binned inputs add to the first layer, as a table: piecewise linear, so its values at a few points are all of it.

    E (1 + B) rows of w1 would be read for every target; of this table two rows an input are. The points of an input are its T thresholds
    and one on either side, where it goes on straight. The center is in it. `input` i32 [E]: the inputs in the order of the tables, those of
    the runs first; `run_end` i64 where each run ends. `step_ESH` f32 [E, B + 3, H1 padded
    to 16] values at the points; `point_SE` and `width_SE` f32 [B + 2, E padded to 16] each point but the last, infinite where an input has
    no more thresholds, and how far it is to the next.
    """

    def __init__(self, bins: FeatureBins, weight_XH: F64, center_X: F64, runs: Sequence[Sequence[int]]) -> None:
        num, most = bins.low_EB.shape
        self.run_end = np.cumsum([len(run) for run in runs], dtype=np.int64)
        first = [e for run in runs for e in run]
        self.input = np.array([*first, *(e for e in range(num) if e not in first)], dtype=np.int32)
        hidden = weight_XH.shape[1]
        own, of_bin = weight_XH[:num], weight_XH[num:].reshape(num, most, hidden)
        center_E, center_EB = center_X[:num], center_X[num:].reshape(num, most)
        self.step_ESH = _zeros(num, most + 3, -(-hidden // _GROUP) * _GROUP)
        self.point_SE, self.width_SE = _zeros(most + 2, -(-num // _GROUP) * _GROUP), _zeros(most + 2, -(-num // _GROUP) * _GROUP)
        self.point_SE[:], self.width_SE[:] = np.inf, 1.0
        for place, e in enumerate(self.input.tolist()):
            low, width = bins.low_EB[e].astype(np.float64), bins.width_EB[e].astype(np.float64)
            real = int((low < NO_BIN).sum())
            threshold = np.append(low[:real], low[real - 1] + width[real - 1]) if real else np.zeros(1)
            threshold = threshold.astype(np.float32).astype(np.float64)
            # Far enough out that what lies beyond is not many times as far.
            reach = max(1.0, threshold[-1] - threshold[0])
            point = np.concatenate([threshold[:1] - reach, threshold, threshold[-1:] + reach]).astype(np.float32).astype(np.float64)
            encoded = np.zeros((len(point), most))
            encoded[:, :real] = np.clip((point[:, None] - low[:real]) / width[:real], 0.0, 1.0)
            self.step_ESH[place, : len(point), :hidden] = (encoded - center_EB[e]) @ of_bin[e] + (point[:, None] - center_E[e]) * own[e]
            # Points that coincide in float32 have no value between them.
            self.point_SE[: len(point) - 1, place] = point[:-1]
            self.width_SE[: len(point) - 1, place] = np.where(np.diff(point) > 0, np.diff(point), 1.0)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return self.step_ESH.nbytes + self.point_SE.nbytes + self.width_SE.nbytes


def _by_category(category_C: Table, weight_cH: F64, b1_H: F64) -> F32 | None:
    """b1 and what a target of each category adds for it: f32 [C, H1 padded to 16]; None for so many categories that it would be large."""
    hidden = -(-len(b1_H) // _GROUP) * _GROUP
    if len(category_C) * hidden * 4 > MOST_FOLDED_BYTES:
        return None
    table = _zeros(len(category_C), hidden)
    table[:, : len(b1_H)] = b1_H + as_float32(category_C).astype(np.float64) @ weight_cH
    return table


def _packed(weight_FH: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> F32:
    """Columns in groups of 16, zeros after the last: f32 [G, F, 16], 64-byte aligned."""
    inputs, columns = weight_FH.shape
    groups = -(-columns // _GROUP)
    packed = _zeros(groups, inputs, _GROUP)
    wide = np.zeros((inputs, groups * _GROUP), dtype=np.float32)
    wide[:, :columns] = weight_FH
    packed[:] = wide.reshape(inputs, groups, _GROUP).transpose(1, 0, 2)
    return packed


def _zeros(*shape: int) -> F32:
    """Zeros, f32, that start at a cache line."""
    zeros: F32 = aligned(shape, np.float32)
    zeros[:] = 0.0
    return zeros
