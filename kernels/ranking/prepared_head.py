"""`PreparedHead`: what of stage 2 depends on neither user nor candidates, checked and packed once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kernels.ranking.arguments import F32, NO_BIN, FeatureBins, HeadWeights, RankTables, Table, checked_head, checked_tables
from kernels.ranking.bfloat16 import as_float32

_GROUP = 16
_ALIGN_BYTES = 64
MOST_FOLDED_BYTES = 16 * 2**20
"""Largest table over the categories: 20,000 of them at H1 = 200."""
F64 = npt.NDArray[np.float64]


class PreparedHead:
    """A head over its tables, accepted by `pool_and_score` in place of the bare weights.

    The target's recency row is the same for every target, so its part of the first layer is a constant, and h_recency meets two rows of
    w1 (its own, and the product's times that constant) that add up to one: 2 Rp of the F inputs disappear. There are few categories, so
    what u_category adds is looked up. Inputs left, in order: [u_item | h | (u * h)_item (u * h)_category | mass | extra].

    Args: `head`, `tables` as for `pool_and_score`; neither may be written afterwards. `runs` lengths of runs of binned extra inputs, from
    the first on, whose values many targets of a call share, as those about a category do: what they add is computed once.
    Raises: ValueError naming the argument and the value.
    """

    def __init__(self, head: HeadWeights, tables: RankTables, runs: Sequence[int] = ()) -> None:
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
        if any(run < 1 for run in runs) or sum(runs) > (0 if bins is None else self.num_extra):
            raise ValueError(f"runs must be lengths of at least 1 that add up to no more than the binned inputs, got {tuple(runs)}")
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
    and one on either side, where it goes on straight. The center is in it. `threshold_ET` f32 [E, T], padded to a
    multiple of 16 with infinity; `step_ESH` f32 [E, B + 3, H1 padded to 16] values at the points; `bin_EB2` f32 [E, B + 2, 2] point and
    distance to the next.
    """

    def __init__(self, bins: FeatureBins, weight_XH: F64, center_X: F64, runs: Sequence[int]) -> None:
        num, most = bins.low_EB.shape
        self.run_end = np.cumsum(runs, dtype=np.int64)
        hidden = weight_XH.shape[1]
        own, of_bin = weight_XH[:num], weight_XH[num:].reshape(num, most, hidden)
        center_E, center_EB = center_X[:num], center_X[num:].reshape(num, most)
        self.threshold_ET = np.full((num, -(-(most + 1) // _GROUP) * _GROUP), np.inf, dtype=np.float32)
        self.step_ESH = _aligned(num, most + 3, -(-hidden // _GROUP) * _GROUP)
        self.bin_EB2 = np.zeros((num, most + 2, 2), dtype=np.float32)
        for e in range(num):
            low, width = bins.low_EB[e].astype(np.float64), bins.width_EB[e].astype(np.float64)
            real = int((low < NO_BIN).sum())
            threshold = np.append(low[:real], low[real - 1] + width[real - 1]) if real else np.zeros(1)
            threshold = threshold.astype(np.float32).astype(np.float64)
            # Far enough out that what lies beyond is not many times as far.
            reach = max(1.0, threshold[-1] - threshold[0])
            point = np.concatenate([threshold[:1] - reach, threshold, threshold[-1:] + reach]).astype(np.float32).astype(np.float64)
            encoded = np.zeros((len(point), most))
            encoded[:, :real] = np.clip((point[:, None] - low[:real]) / width[:real], 0.0, 1.0)
            self.threshold_ET[e, : len(threshold)] = threshold
            self.step_ESH[e, : len(point), :hidden] = (encoded - center_EB[e]) @ of_bin[e] + (point[:, None] - center_E[e]) * own[e]
            # Points that coincide in float32 have no value between them.
            self.bin_EB2[e, : len(point) - 1] = np.stack([point[:-1], np.where(np.diff(point) > 0, np.diff(point), 1.0)], axis=1)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return self.threshold_ET.nbytes + self.step_ESH.nbytes + self.bin_EB2.nbytes


def _by_category(category_C: Table, weight_cH: F64, b1_H: F64) -> F32 | None:
    """b1 and what a target of each category adds for it: f32 [C, H1 padded to 16]; None for so many categories that it would be large."""
    hidden = -(-len(b1_H) // _GROUP) * _GROUP
    if len(category_C) * hidden * 4 > MOST_FOLDED_BYTES:
        return None
    table = _aligned(len(category_C), hidden)
    table[:, : len(b1_H)] = b1_H + as_float32(category_C).astype(np.float64) @ weight_cH
    return table


def _packed(weight_FH: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> F32:
    """Columns in groups of 16, zeros after the last: f32 [G, F, 16], 64-byte aligned."""
    inputs, columns = weight_FH.shape
    groups = -(-columns // _GROUP)
    packed = _aligned(groups, inputs, _GROUP)
    wide = np.zeros((inputs, groups * _GROUP), dtype=np.float32)
    wide[:, :columns] = weight_FH
    packed[:] = wide.reshape(inputs, groups, _GROUP).transpose(1, 0, 2)
    return packed


def _aligned(*shape: int) -> F32:
    """Zeros, f32, that start at a multiple of 64 bytes."""
    size = math.prod(shape)
    room = np.zeros(size + _ALIGN_BYTES // 4, dtype=np.float32)
    skip = -room.ctypes.data % _ALIGN_BYTES // 4
    zeros: F32 = room[skip : skip + size].reshape(shape)
    return zeros
