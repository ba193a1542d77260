"""The candidate features in the compiled library (`kernels/features/native/`), without the GIL."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from kernels import native_library
from kernels.features.arguments import F32, NUM_FEATURES, HistoryFacts, ItemFacts, KeyRecords

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


class _FeaturesCall(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("struct_bytes", "num_candidates")),
        *((name, ctypes.c_void_p) for name in ("items", "history", "place", "item_place", "category_place", "feature")),
        ("now_s", ctypes.c_double),
        ("level", ctypes.c_int32),
    )


_BYTES = sum(map(ctypes.sizeof, (_FeaturesCall, _Items, _History)))


def can_run() -> tuple[bool, str]:
    """Whether the library loads and has this operation."""
    able, reason = native_library.can_run()
    library = native_library.library()[0]
    if able and not hasattr(library, "dare_features"):
        return False, native_library.FAILURES[1]
    return able, reason


def features(history: HistoryFacts, items: ItemFacts, place_N: I32, item_N: I32, category_N: I32, now_s: int) -> F32:
    """See `kernels.candidate_features`. Raises: RuntimeError when the library refuses the call, with the reason."""
    (library, _), (level, reason) = native_library.library(), native_library.level()
    if library is None or level is None:
        raise RuntimeError(f"features backend 'native' cannot run: {reason}")
    value = np.empty((len(place_N), NUM_FEATURES), dtype=np.float32)
    arrays = (place_N.ctypes.data, item_N.ctypes.data, category_N.ctypes.data, value.ctypes.data)
    items_struct, history_struct = _items(items), _history(history)
    addresses = (ctypes.addressof(items_struct), ctypes.addressof(history_struct))
    call = _FeaturesCall(_BYTES, len(place_N), *addresses, *arrays, now_s, native_library.LEVELS[level])
    status = library.dare_features(ctypes.byref(call))
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
