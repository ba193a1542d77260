"""Exact search on a GPU, in Triton (`kernels.gpu`): a user's keys stay on the device from one search to the next."""

from __future__ import annotations

import functools
from pathlib import Path

from kernels import gpu
from kernels.search.arguments import F32, I32, SearchArguments


def can_run(arguments: SearchArguments | None = None) -> tuple[bool, str]:
    """Whether torch, triton and an NVIDIA device are there, as far as can be told without importing torch; and the limits of a search."""
    if arguments is not None and arguments.k > gpu.MAX_KEPT:
        return False, f"k must be at most {gpu.MAX_KEPT} on a GPU, got {arguments.k}"
    if arguments is not None and arguments.target_NA.shape[1] > gpu.MAX_WIDTH:
        return False, f"keys must be at most {gpu.MAX_WIDTH} wide on a GPU, got {arguments.target_NA.shape[1]}"
    return _installed()


@functools.cache
def _installed() -> tuple[bool, str]:
    """Looked at once: every search asks."""
    if (package := gpu.missing_package()) is not None:
        return False, f"{package} is not installed (extra: gpu)"
    if gpu.interpreted():
        return True, "Triton's interpreter on the CPU, far too slow to serve"
    if any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists():
        return True, "Triton on an NVIDIA device"
    return False, "there is no NVIDIA device"


def search(a: SearchArguments) -> tuple[I32, F32]:
    """See `kernels.search_topk`.

    Raises: RuntimeError where torch finds no device that the kernels can use, with the reason; ValueError where scores could overflow
    float32, or where behaviors with a bonus are not those of an item: the lists of two targets must be equal or have nothing in common.
    """
    from kernels.gpu import host

    return host.search(a)
