"""Argument checks shared by the operations: a wrong array is a ValueError that names the argument and the value, never a crash."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

_FEW = 2048
_WHOLE = (int, np.integer)


def array(name: str, value: Any, dtype: type[np.generic], shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
    """`value` as a C-contiguous array of exactly `dtype` and `shape` (None: any length).

    Raises: ValueError naming the argument, what was expected and what was given.
    """
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{name} must be a NumPy array, got {type(value).__name__}")
    if value.dtype != dtype:
        raise ValueError(f"{name} must have dtype {np.dtype(dtype)}, got {value.dtype}")
    have = value.shape
    if have != shape and not _fits(have, shape):
        expected = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name} must have shape [{expected}], got {list(value.shape)}")
    return np.ascontiguousarray(value)


def _fits(have: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    if len(have) != len(shape):
        return False
    # Of most arrays only the first length is free.
    if shape[0] is None and have[1:] == shape[1:]:
        return True
    return all(want is None or want == size for want, size in zip(shape, have, strict=True))


def finite(name: str, value: npt.NDArray[np.float32]) -> None:
    """Raises: ValueError naming the first place and value that is NaN or infinite."""
    if value.size <= _FEW:
        # A sum of squares is finite only where all values are; where it overflows, they are looked at one by one.
        if math.isfinite(np.vdot(value, value)):
            return
    # A NaN is both the largest and the smallest.
    elif math.isfinite(value.max()) and math.isfinite(value.min()):
        return
    bad = np.argwhere(~np.isfinite(value))
    if len(bad):
        place = tuple(int(i) for i in bad[0])
        raise ValueError(f"{name} must be finite, got {value[place]} at {list(place)}")


def within(name: str, value: npt.NDArray[np.integer[Any]], low: int, high: int) -> None:
    """Raises: ValueError naming the first value outside low..high-1."""
    if value.size and (int(value.min()) < low or int(value.max()) >= high):
        bad = value[(value < low) | (value >= high)].flat[0]
        raise ValueError(f"{name} must be in {low}..{high - 1}, got {int(bad)}")


def at_least(name: str, value: Any, low: int) -> int:
    """`value` as an integer of at least `low`. Raises: ValueError naming it."""
    if isinstance(value, bool) or not isinstance(value, _WHOLE) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}")
    return int(value)


def hold(of: object, name: str, value: npt.NDArray[Any]) -> None:
    """Set a field of a frozen dataclass to the array that was checked, in its `__post_init__`."""
    object.__setattr__(of, name, value)
