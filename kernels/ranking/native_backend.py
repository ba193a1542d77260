"""Stage 2 in the compiled library: `kernels/ranking/native/`, one call for all targets, without the GIL."""

from __future__ import annotations

import os
import struct

import numpy as np

from kernels import native_library
from kernels.native_library import address
from kernels.ranking.arguments import F32, RankArguments, check_values
from kernels.ranking.prepared_head import PreparedHead

_CORES = os.cpu_count() or 1
_HEAD, _TARGETS = struct.Struct("@13q15P3fi0q"), struct.Struct("@4q10P2i0q")
"""`RankHead` and `RankTargets` of native/rank_call.hpp, field for field: packed, as ctypes structures of so many fields take 50
microseconds to fill between the other work of a request."""
_UNSOUND = 5
"""A row or a number that is not sound: Python looks which, to name it."""
_BYTES = _HEAD.size + _TARGETS.size


def can_run() -> tuple[bool, str]:
    """Whether the library is built and loads, and the CPU level that it will use."""
    return native_library.can_run()


def pool(a: RankArguments) -> tuple[F32, F32]:
    """See `kernels.pool_and_score`. Raises: ValueError for a value that is not sound; RuntimeError when the library refuses the
    call, with the reason."""
    library, level = native_library.last_ready("ranking")
    num_targets, num_kept = a.index_NK.shape
    probability, mass = np.empty(num_targets, np.float32), np.empty(num_targets, np.float32)
    head = a.prepared or PreparedHead(a.head, a.tables)
    if head.packed is None:
        head.packed = _packed(head)
    behavior, target = a.behavior, a.target
    targets = _TARGETS.pack(
        _BYTES,
        num_targets,
        num_kept,
        len(behavior.item_L),
        address(behavior.item_L),
        address(behavior.category_L),
        address(behavior.recency_L),
        address(target.item_N),
        address(target.category_N),
        address(a.index_NK),
        address(a.score_NK),
        address(a.extra_NE),
        address(probability),
        address(mass),
        level,
        min(a.num_threads, _CORES),
    )
    status = library.dare_rank(head.packed, targets)
    if status == _UNSOUND:
        check_values(a)
    if status != 0:
        raise RuntimeError(f"ranking backend 'native' failed: {native_library.FAILURES[status]}")
    return probability, mass


def _packed(head: PreparedHead) -> bytes:
    steps, weights = head.steps, head.head
    tables = (head.tables.item, head.tables.category, head.tables.recency)
    looked_up = (steps.step_ESH, steps.point_SE, steps.width_SE, steps.input, steps.run_end) if steps else ()
    return _HEAD.pack(
        0 if steps else head.num_extra,
        head.num_extra if steps else 0,
        steps.step_ESH.shape[1] if steps else 0,
        len(steps.run_end) if steps else 0,
        head.num_inputs,
        weights.w1.shape[1],
        weights.w2.shape[1],
        *(table.shape[1] for table in tables),
        *(len(table) for table in tables),
        *(address(table) for table in tables),
        *(address(array) for array in (head.center_X, head.w1_GF16, head.b1_G16, head.w2_GF16, head.b2_G16, head.w3_G16)),
        0 if head.category_CH is None else address(head.category_CH),
        *((address(array) for array in looked_up) if steps else (0,) * 5),
        weights.a1,
        weights.a2,
        weights.b3,
        int(tables[0].dtype == np.uint16),
    )
