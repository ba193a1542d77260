"""Stage 2 in the compiled library: `kernels/ranking/native/`, one call for all targets, without the GIL."""

from __future__ import annotations

import ctypes
import os

import numpy as np

from kernels import native_library
from kernels.native_library import address
from kernels.ranking.arguments import F32, RankArguments
from kernels.ranking.prepared_head import PreparedHead

_CORES = os.cpu_count() or 1


class _RankCall(ctypes.Structure):
    """`RankCall` of native/rank_call.hpp, field for field."""

    _fields_ = (
        ("struct_bytes", ctypes.c_int64),
        *((name, ctypes.c_int64) for name in ("num_targets", "num_kept", "num_extra", "num_binned", "num_thresholds", "num_steps")),
        *((name, ctypes.c_int64) for name in ("num_runs", "features", "hidden1", "hidden2")),
        ("width", ctypes.c_int64 * 3),
        ("table", ctypes.c_void_p * 3),
        ("behavior", ctypes.c_void_p * 3),
        ("target", ctypes.c_void_p * 2),
        *((name, ctypes.c_void_p) for name in ("index", "score", "extra", "center", "w1", "b1", "w2", "b2", "w3", "category_base")),
        *((name, ctypes.c_void_p) for name in ("binned", "thresholds", "steps", "bins", "run_end", "probability", "mass")),
        *((name, ctypes.c_float) for name in ("a1", "a2", "b3")),
        *((name, ctypes.c_int32) for name in ("bf16", "level", "num_threads")),
    )


def can_run() -> tuple[bool, str]:
    """Whether the library is built and loads, and the CPU level that it will use."""
    return native_library.can_run()


def pool(a: RankArguments) -> tuple[F32, F32]:
    """See `kernels.pool_and_score`. Raises: RuntimeError when the library refuses the call, with the reason."""
    library, level = native_library.ready("ranking")
    num_targets, num_kept = a.index_NK.shape
    probability, mass = np.empty(num_targets, np.float32), np.empty(num_targets, np.float32)
    tables = (a.tables.item, a.tables.category, a.tables.recency)
    rows, head = a.behavior, a.head
    packed = a.prepared or PreparedHead(head, a.tables)
    steps = packed.steps
    call = _RankCall(
        struct_bytes=ctypes.sizeof(_RankCall),
        num_targets=num_targets,
        num_kept=num_kept,
        num_extra=0 if steps else a.extra_NE.shape[1],
        num_binned=a.extra_NE.shape[1] if steps else 0,
        num_thresholds=steps.threshold_ET.shape[1] if steps else 0,
        num_steps=steps.step_ESH.shape[1] if steps else 0,
        num_runs=len(steps.run_end) if steps else 0,
        features=packed.num_inputs,
        hidden1=head.w1.shape[1],
        hidden2=head.w2.shape[1],
        width=tuple(table.shape[1] for table in tables),
        table=tuple(address(table) for table in tables),
        behavior=(address(rows.item_L), address(rows.category_L), address(rows.recency_L)),
        target=(address(a.target.item_N), address(a.target.category_N)),
        index=address(a.index_NK),
        score=address(a.score_NK),
        extra=address(a.extra_NE),
        center=address(packed.center_X),
        w1=address(packed.w1_GF16),
        b1=address(packed.b1_G16),
        w2=address(packed.w2_GF16),
        b2=address(packed.b2_G16),
        w3=address(packed.w3_G16),
        category_base=None if packed.category_CH is None else address(packed.category_CH),
        binned=address(a.extra_NE),
        thresholds=address(steps.threshold_ET) if steps else None,
        steps=address(steps.step_ESH) if steps else None,
        bins=address(steps.bin_EB2) if steps else None,
        run_end=address(steps.run_end) if steps else None,
        probability=address(probability),
        mass=address(mass),
        a1=head.a1,
        a2=head.a2,
        b3=head.b3,
        bf16=int(tables[0].dtype == np.uint16),
        level=level,
        num_threads=min(a.num_threads, _CORES),
    )
    status = library.dare_rank(ctypes.byref(call))
    if status != 0:
        raise RuntimeError(f"ranking backend 'native' failed: {native_library.FAILURES[status]}")
    return probability, mass
