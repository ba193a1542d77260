"""bf16 tables: the upper half of a float32, held as uint16 (NumPy has no such type)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def to_bfloat16(value: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Finite float32 of any shape as bf16 bits, to nearest, ties to even. Raises: ValueError for another dtype, NaN or infinity."""
    if value.dtype != np.float32:
        raise ValueError(f"value must have dtype float32, got {value.dtype}")
    if not np.isfinite(value).all():
        raise ValueError(f"value must be finite, got {value[~np.isfinite(value)].flat[0]}")
    bits = np.ascontiguousarray(value).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def as_float32(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Table rows as float32: themselves, or exactly what their bf16 bits say."""
    if rows.dtype == np.float32:
        return rows
    return (rows.astype(np.uint32) << 16).view(np.float32)
