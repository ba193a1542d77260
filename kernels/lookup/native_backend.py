"""The look-up in the compiled library: a guess, then a prefetched cache line (`kernels/lookup/native/`), without the GIL."""

from __future__ import annotations

import os
import struct

import numpy as np
import numpy.typing as npt

from kernels import native_library
from kernels.lookup.hash_index import U64, HashIndex
from kernels.native_library import address

_CORES = os.cpu_count() or 1


_CALL = struct.Struct("@4q4P2iq")
"""`LookupCall` of native/lookup_call.hpp, field for field."""


def can_run(known: U64 | HashIndex | None = None) -> tuple[bool, str]:
    """Whether the library loads and the hashes are prepared."""
    if known is not None and not isinstance(known, HashIndex):
        return False, "needs a HashIndex"
    return native_library.can_run()


def lookup(wanted: U64, known: U64 | HashIndex, num_threads: int) -> npt.NDArray[np.int32]:
    """See `kernels.lookup_rows`. Raises: RuntimeError when the library refuses the call, with the reason."""
    assert isinstance(known, HashIndex)
    library, level = native_library.last_ready("look-up")
    row = np.empty(len(wanted), dtype=np.int32)
    if len(wanted) == 0:
        return row
    call = _CALL.pack(
        _CALL.size,
        len(wanted),
        len(known),
        known.rows_a_stretch,
        address(wanted),
        address(known.sorted_hash_V),
        address(known.stretch),
        address(row),
        known.shift,
        level,
        min(num_threads, _CORES),
    )
    status = library.dare_lookup(call)
    if status != 0:
        raise RuntimeError(f"look-up backend 'native' failed: {native_library.FAILURES[status]}")
    return row
