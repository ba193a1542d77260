"""Exact search on a GPU, in Triton (`kernels.gpu`): a user's keys stay on the device from one search to the next."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from kernels.search.arguments import F32, I32, SearchArguments

_MOST_KEPT, _WIDEST = 512, 256


def can_run(arguments: SearchArguments | None = None) -> tuple[bool, str]:
    """Whether torch, triton and an NVIDIA device are there, as far as can be told without importing torch; and the limits of a search."""
    for package in ("torch", "triton"):
        if importlib.util.find_spec(package) is None:
            return False, f"{package} is not installed (extra: gpu)"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not interpreted and not (any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()):
        return False, "there is no NVIDIA device"
    if arguments is not None and arguments.k > _MOST_KEPT:
        return False, f"k must be at most {_MOST_KEPT} on a GPU, got {arguments.k}"
    if arguments is not None and arguments.target_NA.shape[1] > _WIDEST:
        return False, f"keys must be at most {_WIDEST} wide on a GPU, got {arguments.target_NA.shape[1]}"
    return True, "Triton's interpreter on the CPU, far too slow to serve" if interpreted else "Triton on an NVIDIA device"


def search(a: SearchArguments) -> tuple[I32, F32]:
    """See `kernels.search_topk`.

    Raises: RuntimeError where torch finds no device that the kernels can use, with the reason; ValueError where scores could overflow
    float32, or where behaviors with a bonus are not those of an item: the lists of two targets must be equal or have nothing in common.
    """
    from kernels.gpu import host

    return host.search(a)
