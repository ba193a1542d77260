"""Item hashes to rows of a sorted table."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import numpy.typing as npt

from kernels.backends import chosen
from kernels.checks import array, at_least
from kernels.lookup import native_backend, reference
from kernels.lookup.hash_index import U64, HashIndex

__all__ = ["HashIndex", "lookup_backends", "lookup_rows"]

_BACKENDS: dict[str, ModuleType] = {"native": native_backend, "reference": reference}


def lookup_backends() -> dict[str, tuple[bool, str]]:
    """Every backend, whether it can run here, and why or why not; the first that can is what "auto" uses."""
    return {name: backend.can_run() for name, backend in _BACKENDS.items()}


def lookup_rows(hash_M: U64, sorted_hash_V: U64 | HashIndex, *, backend: str = "auto", num_threads: int = 1) -> npt.NDArray[np.int32]:
    """Position of each hash in the sorted array: int32 [M], -1 when absent.

    Args: `sorted_hash_V` u64 [V], ascending without duplicates (not checked here), or prepared as a `HashIndex`, which the native backend
    needs; `backend` "auto" or a name of `lookup_backends()`.
    Raises: ValueError for another dtype or shape, or an unknown backend; RuntimeError when the named backend cannot run, with the reason.
    """
    wanted = array("hash_M", hash_M, np.uint64, (None,))
    known = sorted_hash_V if isinstance(sorted_hash_V, HashIndex) else array("sorted_hash_V", sorted_hash_V, np.uint64, (None,))
    found: npt.NDArray[np.int32] = chosen("look-up", _BACKENDS, backend, known).lookup(
        wanted, known, at_least("num_threads", num_threads, 1)
    )
    return found
