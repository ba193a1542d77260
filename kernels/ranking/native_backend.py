"""Stage 2 in the compiled library: `kernels/ranking/native/`, one call for all targets, without the GIL."""

from __future__ import annotations

import ctypes
import os

import numpy as np
import numpy.typing as npt

from kernels import native_library
from kernels.ranking.arguments import F32, RankArguments
from kernels.ranking.prepared_head import PreparedHead


class _RankCall(ctypes.Structure):
    """`RankCall` of native/rank_call.hpp, field for field."""

    _fields_ = (
        ("struct_bytes", ctypes.c_int64),
        *(
            (name, ctypes.c_int64)
            for name in ("num_targets", "num_kept", "num_extra", "num_binned", "num_thresholds", "features", "hidden1", "hidden2")
        ),
        ("width", ctypes.c_int64 * 3),
        ("table", ctypes.c_void_p * 3),
        ("behavior", ctypes.c_void_p * 3),
        ("target", ctypes.c_void_p * 2),
        *(
            (name, ctypes.c_void_p)
            for name in ("index", "score", "extra", "w1", "b1", "w2", "b2", "w3", "binned", "thresholds", "steps", "probability", "mass")
        ),
        *((name, ctypes.c_float) for name in ("a1", "a2", "b3")),
        *((name, ctypes.c_int32) for name in ("bf16", "level", "num_threads")),
    )


def can_run() -> tuple[bool, str]:
    """Whether the library is built and loads, and the CPU level that it will use."""
    return native_library.can_run()


def _address(array: npt.NDArray[np.generic]) -> int:
    return array.ctypes.data


def pool(a: RankArguments) -> tuple[F32, F32]:
    """See `kernels.pool_and_score`. Raises: RuntimeError when the library refuses the call, with the reason."""
    (library, _), (level, reason) = native_library.library(), native_library.level()
    if library is None or level is None:
        raise RuntimeError(f"ranking backend 'native' cannot run: {reason}")
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
        features=packed.num_inputs,
        hidden1=head.w1.shape[1],
        hidden2=head.w2.shape[1],
        width=tuple(table.shape[1] for table in tables),
        table=tuple(_address(table) for table in tables),
        behavior=(_address(rows.item_L), _address(rows.category_L), _address(rows.recency_L)),
        target=(_address(a.target.item_N), _address(a.target.category_N)),
        index=_address(a.index_NK),
        score=_address(a.score_NK),
        extra=_address(a.extra_NE),
        w1=_address(packed.w1_GF16),
        b1=_address(packed.b1_G16),
        w2=_address(packed.w2_GF16),
        b2=_address(packed.b2_G16),
        w3=_address(packed.w3_G16),
        binned=_address(a.extra_NE),
        thresholds=_address(steps.threshold_ET) if steps else None,
        steps=_address(steps.step_ET2H) if steps else None,
        probability=_address(probability),
        mass=_address(mass),
        a1=head.a1,
        a2=head.a2,
        b3=head.b3,
        bf16=int(tables[0].dtype == np.uint16),
        level=native_library.LEVELS[level],
        num_threads=min(a.num_threads, os.cpu_count() or 1),
    )
    status = library.dare_rank(ctypes.byref(call))
    if status != 0:
        raise RuntimeError(f"ranking backend 'native' failed: {native_library.FAILURES[status]}")
    return probability, mass
