"""Stage 2 in the compiled library: `kernels/ranking/native/`, one call for all targets, without the GIL."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kernels.ranking.arguments import F32, RankArguments

LIBRARY = Path(__file__).resolve().parents[1] / "_native.so"
LEVEL_VARIABLE = "DARE_CPU_LEVEL"
# Best first; avx512-vnni adds only integer products, which ranking has no use for.
LEVELS = {"avx512-vnni": 2, "avx512": 2, "avx2": 1, "scalar": 0}
_FAILURES = {1: "the library was built from other sources", 2: "this CPU lacks the level", 3: "out of memory"}


class _RankCall(ctypes.Structure):
    """`RankCall` of native/rank_call.hpp, field for field."""

    _fields_ = (
        ("struct_bytes", ctypes.c_int64),
        *((name, ctypes.c_int64) for name in ("num_targets", "num_kept", "num_extra", "hidden1", "hidden2")),
        ("width", ctypes.c_int64 * 3),
        ("table", ctypes.c_void_p * 3),
        ("behavior", ctypes.c_void_p * 3),
        ("target", ctypes.c_void_p * 2),
        *((name, ctypes.c_void_p) for name in ("index", "score", "extra", "w1", "b1", "w2", "b2", "w3", "probability", "mass")),
        *((name, ctypes.c_float) for name in ("a1", "a2", "b3")),
        *((name, ctypes.c_int32) for name in ("bf16", "level", "num_threads")),
    )


@functools.lru_cache(maxsize=8)
def _load(path: Path, modified_ns: int) -> tuple[ctypes.CDLL | None, str]:
    """The library and "", or None and why not. `modified_ns` makes a rebuilt library another one."""
    try:
        library = ctypes.CDLL(str(path))
        library.dare_rank.argtypes, library.dare_rank.restype = [ctypes.c_void_p], ctypes.c_int
        library.dare_rank_level.argtypes, library.dare_rank_level.restype = [ctypes.c_int32], ctypes.c_int
    except (OSError, AttributeError) as error:
        return None, str(error)
    return library, ""


def _library() -> tuple[ctypes.CDLL | None, str]:
    try:
        modified_ns = LIBRARY.stat().st_mtime_ns
    except OSError:
        return None, f"{LIBRARY.name} is not built"
    return _load(LIBRARY, modified_ns)


def _level(library: ctypes.CDLL) -> tuple[str | None, str]:
    """The CPU level to use, or None and why not: the one that DARE_CPU_LEVEL names, else the best that this CPU runs."""
    forced = os.environ.get(LEVEL_VARIABLE)
    if forced is None:
        return next(name for name, number in LEVELS.items() if name != "avx512-vnni" and library.dare_rank_level(number)), ""
    if forced not in LEVELS:
        return None, f"{LEVEL_VARIABLE} must be one of {', '.join(LEVELS)}, got {forced!r}"
    if not library.dare_rank_level(LEVELS[forced]):
        return None, f"{LEVEL_VARIABLE}={forced}: this CPU cannot run it"
    return forced, ""


def can_run() -> tuple[bool, str]:
    """Whether the library is built and loads, and the CPU level that it will use."""
    library, reason = _library()
    if library is None:
        return False, reason
    level, reason = _level(library)
    return (True, f"{LIBRARY.name}, {level}") if level is not None else (False, reason)


def _address(array: npt.NDArray[np.generic]) -> int:
    return array.ctypes.data


def pool(a: RankArguments) -> tuple[F32, F32]:
    """See `kernels.pool_and_score`. Raises: RuntimeError when the library refuses the call, with the reason."""
    library, reason = _library()
    level = _level(library) if library is not None else (None, reason)
    if library is None or level[0] is None:
        raise RuntimeError(f"ranking backend 'native' cannot run: {level[1]}")
    num_targets, num_kept = a.index_NK.shape
    probability, mass = np.empty(num_targets, np.float32), np.empty(num_targets, np.float32)
    tables = (a.tables.item, a.tables.category, a.tables.recency)
    rows, head = a.behavior, a.head
    call = _RankCall(
        struct_bytes=ctypes.sizeof(_RankCall),
        num_targets=num_targets,
        num_kept=num_kept,
        num_extra=a.extra_NE.shape[1],
        hidden1=head.w1.shape[1],
        hidden2=head.w2.shape[1],
        width=tuple(table.shape[1] for table in tables),
        table=tuple(_address(table) for table in tables),
        behavior=(_address(rows.item_L), _address(rows.category_L), _address(rows.recency_L)),
        target=(_address(a.target.item_N), _address(a.target.category_N)),
        index=_address(a.index_NK),
        score=_address(a.score_NK),
        extra=_address(a.extra_NE),
        w1=_address(head.w1),
        b1=_address(head.b1),
        w2=_address(head.w2),
        b2=_address(head.b2),
        w3=_address(head.w3),
        probability=_address(probability),
        mass=_address(mass),
        a1=head.a1,
        a2=head.a2,
        b3=head.b3,
        bf16=int(tables[0].dtype == np.uint16),
        level=LEVELS[level[0]],
        num_threads=min(a.num_threads, os.cpu_count() or 1),
    )
    status = library.dare_rank(ctypes.byref(call))
    if status != 0:
        raise RuntimeError(f"ranking backend 'native' failed: {_FAILURES.get(status, f'status {status}')}")
    return probability, mass
