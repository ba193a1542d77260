"""The look-up in the compiled library: a bucket, an interpolation and a prefetched window (`kernels/lookup/native/`), without the GIL."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from kernels import native_library
from kernels.lookup.hash_index import U64, HashIndex
from kernels.native_library import address


class _LookupCall(ctypes.Structure):
    """`LookupCall` of native/lookup_call.hpp, field for field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("struct_bytes", "num_wanted", "num_rows")),
        *((name, ctypes.c_void_p) for name in ("wanted", "sorted", "bucket_start", "row")),
        *((name, ctypes.c_int32) for name in ("shift", "level")),
    )


def can_run(known: U64 | HashIndex | None = None) -> tuple[bool, str]:
    """Whether the library loads and the hashes are prepared."""
    if known is not None and not isinstance(known, HashIndex):
        return False, "needs a HashIndex"
    return native_library.can_run()


def lookup(wanted: U64, known: U64 | HashIndex) -> npt.NDArray[np.int32]:
    """See `kernels.lookup_rows`. Raises: RuntimeError when the library refuses the call, with the reason."""
    assert isinstance(known, HashIndex)
    library, level = native_library.ready("look-up")
    row = np.empty(len(wanted), dtype=np.int32)
    call = _LookupCall(
        struct_bytes=ctypes.sizeof(_LookupCall),
        num_wanted=len(wanted),
        num_rows=len(known),
        wanted=address(wanted),
        sorted=address(known.sorted_hash_V),
        bucket_start=address(known.bucket_start_B1),
        row=address(row),
        shift=known.shift,
        level=level,
    )
    status = library.dare_lookup(ctypes.byref(call))
    if status != 0:
        raise RuntimeError(f"look-up backend 'native' failed: {native_library.FAILURES[status]}")
    return row
