"""Exact search in the compiled library: a filter in 8-bit integers, then fp32 (`kernels/search/native/`, README.md), without the GIL."""

from __future__ import annotations

import ctypes
import os
import struct

import numpy as np

from kernels import native_library
from kernels.aligned import aligned
from kernels.native_library import address
from kernels.search.arguments import F32, I32, SearchArguments
from kernels.search.keys import Prepared, PreparedBody, SearchKeys

_KEPT_SHARE = 30
"""The filter pays while a search keeps at most one behavior in this many. On trained tables, width 32, it takes no longer than fp32 at 30,
seven to nine tenths as long at 32 to 40, half at 80."""
_PREPARE_TARGETS = 24
"""Keys are prepared once they are searched for so many targets, in one call or in several."""
_BLOCK = 256
"""Behaviors appended since the keys were prepared are searched in fp32, until so many have gathered: then they are prepared too."""
_TAIL_SHARE, _HIDDEN_SHARE = 32, 4
"""Where they cannot be added, keys are prepared anew beyond this share of them; and where this share of what is prepared was dropped."""
_PREPARE_ANEW = 5


_CALL = struct.Struct("@7q11Pf2i0q")
"""`SearchCall` of native/search_call.hpp, field for field: packed, as a ctypes structure of 21 fields takes longer than a small search."""


class _PrepareCall(ctypes.Structure):
    """`PrepareCall` of native/search_call.hpp, field for field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("struct_bytes", "length", "width", "slots", "core_bytes", "body_bytes")),
        *((name, ctypes.c_void_p) for name in ("key", "category", "older", "newest", "core", "body")),
        *((name, ctypes.c_int32) for name in ("level", "reserved")),
    )


_CORES = os.cpu_count() or 1
_INT32, _FLOAT32 = np.dtype(np.int32), np.dtype(np.float32)


def can_run(arguments: SearchArguments | None = None) -> tuple[bool, str]:
    """Whether the library loads, with the CPU level that it will use."""
    return native_library.can_run()


def prepare(keys: SearchKeys) -> Prepared | None:
    """The prepared form of these keys, built or added to where it is missing or lacks too many newer behaviors; None where fp32 alone is
    faster.

    Raises: RuntimeError when the library refuses, with the reason.
    """
    if not keys.preparable:
        return None
    library, level = native_library.ready("search")
    return None if level == 0 else keys.prepared(lambda have: _enough(have, keys), lambda have: _made(library, level, keys, have))


def search(a: SearchArguments) -> tuple[I32, F32]:
    """See `kernels.search_topk`. Raises: RuntimeError when the library refuses the call, with the reason."""
    library, level = native_library.last_ready("search")
    keys = a.keys
    core = None
    if level and a.k * _KEPT_SHARE <= keys.length and keys.preparable:
        core = keys.prepared_now
        wanted = keys.count_targets(len(a.target_NA)) >= _PREPARE_TARGETS if core is None else not _enough(core, keys)
        if wanted:
            core = prepare(keys)
        if core is not None and a.category_score_NC is not None and a.category_L is not keys.category_L:
            core = None
    return run(a, core, library, level)


def run(a: SearchArguments, core: Prepared | None, library: ctypes.CDLL, level: int, *, first_pass_only: bool = False) -> tuple[I32, F32]:
    """One call of the library at a CPU level, with or without the filter. `first_pass_only` fills nothing: the hot loop, to be timed."""
    target_NA, keys, k, bias, valid, category, category_score, bonus, num_threads = a
    num_targets, width = target_NA.shape
    index_NK, score_NK = np.empty((num_targets, k), _INT32), np.empty((num_targets, k), _FLOAT32)
    key_LA, key_address = keys.placed  # held until the library is done with it
    call = _CALL.pack(
        _CALL.size,
        num_targets,
        len(key_LA),
        width,
        k,
        0 if category_score is None else category_score.shape[1],
        0 if core is None else keys.dropped - core.dropped,
        address(target_NA),
        key_address,
        0 if core is None else core.address,
        0 if bias is None else address(bias),
        0 if valid is None else address(valid),
        0 if category_score is None or category is None else address(category),
        0 if category_score is None else address(category_score),
        0 if bonus is None else address(bonus.start_N1),
        0 if bonus is None else address(bonus.index),
        address(index_NK),
        address(score_NK),
        0.0 if bonus is None else bonus.value,
        level,
        num_threads if num_threads < _CORES else _CORES,
    )
    status = (library.dare_search_first_pass if first_pass_only else library.dare_search)(call)
    if status != 0:
        raise RuntimeError(f"search backend 'native' failed: {native_library.FAILURES[status]}")
    return index_NK, score_NK


def _enough(have: Prepared, keys: SearchKeys) -> bool:
    tail, hidden = keys.dropped + keys.length - have.end, keys.dropped - have.dropped
    return tail < _BLOCK and hidden <= have.length // _HIDDEN_SHARE


def _made(library: ctypes.CDLL, level: int, keys: SearchKeys, have: Prepared | None) -> Prepared:
    """A prepared form that is enough, from an older one where possible."""
    if have is None or keys.dropped - have.dropped > have.length // _HIDDEN_SHARE:
        return _build(library, level, keys)
    longer = _extended(library, level, keys, have)
    if longer is not None:
        return longer
    few = keys.dropped + keys.length - have.end <= max(_BLOCK, have.length // _TAIL_SHARE)
    return have if few else _build(library, level, keys)


def _extended(library: ctypes.CDLL, level: int, keys: SearchKeys, have: Prepared) -> Prepared | None:
    """The older form with all whole blocks of newer behaviors; None where they cannot be added to it."""
    first = have.end - keys.dropped
    rows = (keys.length - first) // _BLOCK * _BLOCK
    with have.body.lock:
        # Keys that were appended to twice share a body: only one of them goes on in it.
        if keys.category_L is not None or have.body.used != have.length:
            return None
        memory = aligned((have.memory.nbytes,), np.uint8)
        call = _PrepareCall(
            struct_bytes=ctypes.sizeof(_PrepareCall),
            length=rows,
            width=keys.key_LA.shape[1],
            key=keys.placed[1] + 4 * first * keys.key_LA.shape[1],
            older=have.address,
            core=address(memory),
            level=level,
        )
        status = library.dare_search_prepare(ctypes.byref(call))
        if status == _PREPARE_ANEW:
            return None
        _done(status)
        have.body.used += rows
    return Prepared(memory, address(memory), have.body, have.dropped, have.length + rows)


def _build(library: ctypes.CDLL, level: int, keys: SearchKeys) -> Prepared:
    category, (key_LA, key_address) = keys.category_L, keys.placed
    newest = np.empty(len(key_LA), dtype=np.int32)
    call = _PrepareCall(
        struct_bytes=ctypes.sizeof(_PrepareCall),
        length=len(key_LA),
        width=key_LA.shape[1],
        key=key_address,
        category=None if category is None else address(category),
        newest=address(newest),
        level=level,
    )
    _done(library.dare_search_prepare(ctypes.byref(call)))
    memory, body = aligned((call.core_bytes,), np.uint8), aligned((call.body_bytes,), np.uint8)
    call.core, call.body = address(memory), address(body)
    _done(library.dare_search_prepare(ctypes.byref(call)))
    return Prepared(memory, address(memory), PreparedBody(body, len(key_LA)), keys.dropped, len(key_LA))


def _done(status: int) -> None:
    if status != 0:
        raise RuntimeError(f"search backend 'native' failed: {native_library.FAILURES[status]}")
