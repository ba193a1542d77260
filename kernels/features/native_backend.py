"""The candidate features in the compiled library (`kernels/features/native/`), without the GIL."""

from __future__ import annotations

import ctypes
import struct

import numpy as np
import numpy.typing as npt

from kernels import native_library
from kernels.features.arguments import F32, NUM_FEATURES, HistoryFacts, ItemFacts, KeyRecords
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
        *((name, ctypes.c_void_p) for name in _ITEMS),
        ("prior", ctypes.c_double),
        *((name, ctypes.c_int32) for name in ("interval_column", "category_interval_column")),
    )


_CALL = struct.Struct("@2q6Pdi0q")
"""`FeaturesCall`, field for field: packed, which takes less time than filling a structure."""
_BYTES = _CALL.size + ctypes.sizeof(_Items) + ctypes.sizeof(_History)


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
        made = _Items(*sizes, *_addresses(items, _ITEMS), items.prior, *items.interval_columns)
        items.prepared["native"] = made
    return made


def _addresses(of: object, names: tuple[str, ...]) -> list[int]:
    return [getattr(of, name).ctypes.data for name in names]
