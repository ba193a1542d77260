"""Exact search in the compiled library: a filter in 8-bit integers, then fp32 (`kernels/search/native/`, README.md), without the GIL."""

from __future__ import annotations

import ctypes
import os

import numpy as np
import numpy.typing as npt

from kernels import native_library
from kernels.search.arguments import F32, I32, SearchArguments
from kernels.search.keys import Prepared, SearchKeys

_WIDEST = 2048
_SHORTEST = 1024
"""Histories below this many behaviors are searched in fp32: the filter's fixed cost is more than it saves."""
_KEPT_SHARE = 80
"""The filter pays while a search keeps at most one behavior in this many: on trained tables, whose best scores lie close together. At
2,000 behaviors, 50 kept, width 32, it took twice the time of fp32, at 4,000 the same, at 10,000 six tenths."""
_PREPARE_TARGETS = 24
"""A search over keys that are not prepared prepares them from so many targets on."""
_TAIL, _TAIL_SHARE = 256, 32
"""Behaviors appended since the keys were prepared are searched in fp32; beyond this many, or this share, the keys are prepared anew."""


class _SearchCall(ctypes.Structure):
    """`SearchCall` of native/search_call.hpp, field for field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("struct_bytes", "num_targets", "length", "width", "kept", "num_categories")),
        *((name, ctypes.c_void_p) for name in ("target", "key", "core", "bias", "valid", "category", "category_score")),
        *((name, ctypes.c_void_p) for name in ("bonus_start", "bonus_index", "index", "score")),
        ("bonus_value", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("level", "num_threads")),
    )


class _PrepareCall(ctypes.Structure):
    """`PrepareCall` of native/search_call.hpp, field for field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("struct_bytes", "length", "width", "core_bytes")),
        *((name, ctypes.c_void_p) for name in ("key", "category", "core")),
        *((name, ctypes.c_int32) for name in ("level", "reserved")),
    )


_CALL_BYTES = ctypes.sizeof(_SearchCall)
_CORES = os.cpu_count() or 1


def can_run(arguments: SearchArguments | None = None) -> tuple[bool, str]:
    """Whether the library loads, with the CPU level that it will use."""
    return native_library.can_run()


def prepare(keys: SearchKeys) -> Prepared | None:
    """The prepared form of these keys, built where it is missing or lacks too many newer behaviors; None where fp32 alone is faster.

    Raises: RuntimeError when the library refuses, with the reason.
    """
    if keys.length < _SHORTEST or not 1 <= keys.key_LA.shape[1] <= _WIDEST:
        return None
    library, level = _ready()
    return None if level == 0 else keys.prepared(lambda have: _enough(have, keys.length), lambda: _build(library, level, keys))


def search(a: SearchArguments) -> tuple[I32, F32]:
    """See `kernels.search_topk`. Raises: RuntimeError when the library refuses the call, with the reason."""
    library, level = _ready()
    keys = a.keys
    num_targets, length = len(a.target_NA), keys.length
    core = None
    if level and length >= _SHORTEST and a.k * _KEPT_SHARE <= length and keys.key_LA.shape[1] <= _WIDEST:
        core = keys.prepared_now
        if core is None or not _enough(core, length):
            core = prepare(keys) if num_targets >= _PREPARE_TARGETS or core is not None else None
        if core is not None and a.category_score_NC is not None and a.category_L is not keys.category_L:
            core = None
    return run(a, core, library, level)


def run(a: SearchArguments, core: Prepared | None, library: ctypes.CDLL, level: int) -> tuple[I32, F32]:
    """One call of the library at a CPU level, with or without the filter."""
    num_targets, width = a.target_NA.shape
    index_NK, score_NK = np.empty((num_targets, a.k), dtype=np.int32), np.empty((num_targets, a.k), dtype=np.float32)
    category_score, bonus = a.category_score_NC, a.bonus
    call = _SearchCall(
        _CALL_BYTES,
        num_targets,
        a.keys.length,
        width,
        a.k,
        0 if category_score is None else category_score.shape[1],
        _address(a.target_NA),
        _address(a.keys.key_LA),
        None if core is None else core.address,
        None if a.bias_L is None else _address(a.bias_L),
        None if a.valid_L is None else _address(a.valid_L),
        None if category_score is None or a.category_L is None else _address(a.category_L),
        None if category_score is None else _address(category_score),
        None if bonus is None else _address(bonus.start_N1),
        None if bonus is None else _address(bonus.index),
        _address(index_NK),
        _address(score_NK),
        0.0 if bonus is None else bonus.value,
        level,
        min(a.num_threads, _CORES),
    )
    status = library.dare_search(ctypes.byref(call))
    if status != 0:
        raise RuntimeError(f"search backend 'native' failed: {native_library.FAILURES[status]}")
    return index_NK, score_NK


def _ready() -> tuple[ctypes.CDLL, int]:
    (library, _), (level, reason) = native_library.library(), native_library.level()
    if library is None or level is None:
        raise RuntimeError(f"search backend 'native' cannot run: {reason}")
    return library, native_library.LEVELS[level]


def _enough(have: Prepared, length: int) -> bool:
    return length - have.length <= max(_TAIL, have.length // _TAIL_SHARE)


def _build(library: ctypes.CDLL, level: int, keys: SearchKeys) -> Prepared:
    category = keys.category_L
    call = _PrepareCall(
        struct_bytes=ctypes.sizeof(_PrepareCall),
        length=keys.length,
        width=keys.key_LA.shape[1],
        key=_address(keys.key_LA),
        category=None if category is None else _address(category),
        level=level,
    )
    _done(library.dare_search_prepare(ctypes.byref(call)))
    memory = np.empty(call.core_bytes + 64, dtype=np.uint8)
    address = (_address(memory) + 63) // 64 * 64
    call.core = address
    _done(library.dare_search_prepare(ctypes.byref(call)))
    return Prepared(memory, address, keys.length)


def _done(status: int) -> None:
    if status != 0:
        raise RuntimeError(f"search backend 'native' failed: {native_library.FAILURES[status]}")


def _address(array: npt.NDArray[np.generic]) -> int:
    return int(array.__array_interface__["data"][0])
