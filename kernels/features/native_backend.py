"""The candidate features in the compiled library (`kernels/features/native/`), without the GIL."""

from __future__ import annotations

import ctypes
import struct

import numpy as np
import numpy.typing as npt

from kernels import native_library
from kernels.aligned import LINE, aligned
from kernels.features.arguments import DAY_BITS, F32, NUM_FEATURES, HistoryFacts, ItemFacts, KeyRecords
from kernels.native_library import address

I32 = npt.NDArray[np.int32]


_RECORDS = ("count", "first_s", "newest_s", "position", "decayed")
_ITEMS = (
    *("statistic", "taste", "popularity_key", "popularity_count", "popularity_decayed", "popularity_start", "popularity_total"),
    *("popularity_days", "decay_days"),
)


class _Records(ctypes.Structure):
    """`Records` of native/features_call.hpp, field for field, as the other three."""

    _fields_ = (("size", ctypes.c_int64), *((name, ctypes.c_void_p) for name in _RECORDS))


class _History(ctypes.Structure):
    _fields_ = (
        *((name, _Records) for name in ("item", "category")),
        *((name, ctypes.c_void_p) for name in ("activity", "profile")),
        *((name, ctypes.c_double) for name in ("length", "newest_s", "distinct", "first")),
    )


class _Items(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("size", "taste_width", "num_days", "first_day")),
        ("newest", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in _ITEMS),
        ("prior", ctypes.c_double),
        *((name, ctypes.c_int32) for name in ("interval_column", "category_interval_column")),
    )


_CALL = struct.Struct("@2q6Pdi0q")
"""`FeaturesCall`, field for field: packed, which takes less time than filling a structure."""
_BYTES = _CALL.size + ctypes.sizeof(_Items) + ctypes.sizeof(_History)


_MOST_NEWEST_BYTES = 16 * 2**20
"""Largest table of what is newest about the items: 262,144 of them. It is each process's own, as the arrays it is made of are not."""


def can_run() -> tuple[bool, str]:
    """Whether the library loads and has this operation."""
    able, reason = native_library.can_run()
    if able and not hasattr(native_library.last_ready("features")[0], "dare_features"):
        return False, native_library.FAILURES[1]
    return able, reason


def features(history: HistoryFacts, items: ItemFacts, place_N: I32, item_N: I32, category_N: I32, now_s: int) -> F32:
    """See `kernels.candidate_features`. Raises: RuntimeError when the library refuses the call, with the reason."""
    library, level = native_library.last_ready("features")
    value = np.empty((len(place_N), NUM_FEATURES), dtype=np.float32)
    structs = (ctypes.addressof(_items(items)), ctypes.addressof(_history(history)))
    arrays = (address(place_N), address(item_N), address(category_N), address(value))
    status = library.dare_features(_CALL.pack(_BYTES, len(place_N), *structs, *arrays, now_s, level))
    if status != 0:
        raise RuntimeError(f"features backend 'native' failed: {native_library.FAILURES[status]}")
    return value


def _records(records: KeyRecords) -> _Records:
    return _Records(len(records), *_addresses(records, _RECORDS))


def _history(history: HistoryFacts) -> _History:
    made: _History | None = history.prepared.get("native")
    if made is None:
        arrays = _addresses(history, ("activity", "profile_ST"))
        made = _History(
            _records(history.items),
            _records(history.categories),
            *arrays,
            history.length,
            history.newest_s,
            history.distinct,
            history.first,
        )
        history.prepared["native"] = made
    return made


def _items(items: ItemFacts) -> _Items:
    made: _Items | None = items.prepared.get("native")
    if made is None:
        sizes = (len(items), items.taste.shape[1], len(items.popularity_total), items.first_day)
        newest = _newest(items)
        items.prepared["newest"] = newest
        first = 0 if newest is None else address(newest)
        made = _Items(*sizes, first, *_addresses(items, _ITEMS), items.prior, *items.interval_columns)
        items.prepared["native"] = made
    return made


def _newest(items: ItemFacts) -> F32 | None:
    """`Newest` of features_call.hpp, f32 [I + 1, 16]; None for so many items that it would be large."""
    rows, width = items.statistic.shape
    if rows * LINE > _MOST_NEWEST_BYTES:
        return None
    newest: F32 = aligned((rows, LINE // 4), np.float32)
    newest[:] = 0.0
    newest[:, :width], newest[:, width + 4] = items.statistic, -1.0
    # The last key of each item that was ever taken.
    last = items.popularity_start[1:] - 1
    taken = np.flatnonzero(last >= items.popularity_start[:-1])
    at = last[taken]
    newest[taken, width : width + 3], newest[taken, width + 3] = items.popularity_decayed[at], items.popularity_count[at]
    newest[taken, width + 4] = items.popularity_key[at] & (1 << DAY_BITS) - 1
    return newest


def _addresses(of: object, names: tuple[str, ...]) -> list[int]:
    return [getattr(of, name).ctypes.data for name in names]
