"""`PreparedHead`: what of stage 2 depends on neither user nor candidates, checked and packed once."""

from __future__ import annotations

import numpy as np

from kernels.ranking.arguments import F32, NO_BIN, FeatureBins, HeadWeights, RankTables, checked_head, checked_tables
from kernels.ranking.bfloat16 import as_float32

_GROUP = 16
_ALIGN_BYTES = 64


class PreparedHead:
    """A head over its tables, accepted by `pool_and_score` in place of the bare weights.

    The target's recency row is the same for every target, so its part of the first layer is a constant, and h_recency meets two rows of
    w1 (its own, and the product's times that constant) that add up to one: 2 Rp of the F inputs disappear. Inputs left, in order:
    [u_item u_category | h | (u * h)_item (u * h)_category | mass | extra].

    Args: `head`, `tables` as for `pool_and_score`; neither may be written afterwards.
    Raises: ValueError naming the argument and the value.
    """

    def __init__(self, head: HeadWeights, tables: RankTables) -> None:
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
        self.steps = None if bins is None else _Steps(bins, rest[1:])
        dense = rest if bins is None else rest[:1]
        inputs = np.concatenate([of_u[:own], of_h[:own], folded, of_product[:own], dense])
        self.num_inputs = len(inputs)
        self.w1_GF16 = _packed(inputs)
        self.b1_G16 = _packed((self.head.b1 + u @ of_u[own:])[None])
        self.w2_GF16 = _packed(self.head.w2)
        self.b2_G16 = _packed(self.head.b2[None])
        self.w3_G16 = _packed(self.head.w3[None])

    @property
    def nbytes(self) -> int:
        """Bytes of the packed copies."""
        steps = 0 if self.steps is None else self.steps.threshold_ET.nbytes + self.steps.step_ET2H.nbytes
        return steps + sum(packed.nbytes for packed in (self.w1_GF16, self.b1_G16, self.w2_GF16, self.b2_G16, self.w3_G16))


class _Steps:
    """What binned inputs add to the first layer, as a table: an input x beyond its T-th threshold t adds value + slope * (x - t).

    E (1 + B) rows of w1 would be read for every target; of this table 2 rows an input are. `threshold_ET` f32 [E, B + 1], infinite where an
    input has fewer bins; `step_ET2H` f32 [E, B + 2, 2, H1 padded to 16], value and slope: before the first threshold, from each on.
    """

    def __init__(self, bins: FeatureBins, weight_XH: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
        num, most = bins.low_EB.shape
        hidden = weight_XH.shape[1]
        own, of_bin = weight_XH[:num], weight_XH[num:].reshape(num, most, hidden)
        self.threshold_ET = np.full((num, most + 1), np.inf, dtype=np.float32)
        self.step_ET2H = np.zeros((num, most + 2, 2, -(-hidden // _GROUP) * _GROUP), dtype=np.float32)
        for e in range(num):
            low, width = bins.low_EB[e], bins.width_EB[e].astype(np.float64)
            real = int((low < NO_BIN).sum())
            threshold = np.append(low[:real], low[real - 1] + width[real - 1]).astype(np.float32) if real else np.zeros(1, np.float32)
            self.threshold_ET[e, : len(threshold)] = threshold
            slope = np.concatenate([np.zeros((1, hidden)), of_bin[e, :real] / width[:real, None], np.zeros((1, hidden))])
            at = np.clip((threshold[:, None].astype(np.float64) - low[:real]) / width[:real], 0.0, 1.0) @ of_bin[e, :real]
            at += threshold[:, None] * own[e]
            self.step_ET2H[e, : real + 2, 0, :hidden] = np.concatenate([at[:1], at])[: real + 2]
            self.step_ET2H[e, : real + 2, 1, :hidden] = slope + own[e]


def _packed(weight_FH: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> F32:
    """Columns in groups of 16, zeros after the last: f32 [G, F, 16], 64-byte aligned."""
    inputs, columns = weight_FH.shape
    groups = -(-columns // _GROUP)
    size = groups * inputs * _GROUP
    room = np.zeros(size + _ALIGN_BYTES // 4, dtype=np.float32)
    skip = -room.ctypes.data % _ALIGN_BYTES // 4
    packed: F32 = room[skip : skip + size].reshape(groups, inputs, _GROUP)
    wide = np.zeros((inputs, groups * _GROUP), dtype=np.float32)
    wide[:, :columns] = weight_FH
    packed[:] = wide.reshape(inputs, groups, _GROUP).transpose(1, 0, 2)
    return packed
