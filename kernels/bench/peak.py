"""The measured peak of one core, to hold a kernel's speed against."""

from __future__ import annotations

import ctypes

from kernels import native_library

KINDS = {"fp32": 0, "int8": 1}
_ROUNDS = 1_000_000
_TRIES = 5


def peak_ops_per_s(kind: str) -> float | None:
    """Operations per second of one thread (a multiply-add is two), the best of five tries; None where the library or level has none.

    Args: `kind` "fp32" (fused multiply-adds) or "int8" (dots of four bytes). Raises: ValueError for another.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    (library, _), (level, _) = native_library.library(), native_library.level()
    if library is None or level is None:
        return None
    measure = library.dare_peak
    measure.argtypes, measure.restype = [ctypes.c_int32, ctypes.c_int32, ctypes.c_int64], ctypes.c_double
    best = max(measure(native_library.LEVELS[level], KINDS[kind], _ROUNDS) for _ in range(_TRIES))
    return best or None
