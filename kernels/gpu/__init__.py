"""Search and ranking on a GPU in Triton: torch tensors in and out, no host synchronisation, capturable in a CUDA graph.

Importing this package imports neither torch nor triton; `kernels.gpu.search` and `kernels.gpu.ranking` do (docs/adr/0010).
"""

from __future__ import annotations

import importlib.util
import os

__all__ = ["MAX_KEPT", "MAX_WIDTH", "can_run", "interpreted", "missing_package"]

MAX_KEPT, MAX_WIDTH = 512, 256
"""Most behaviors that a search keeps, and widest keys."""


def missing_package() -> str | None:
    """The first package that the kernels need and that is not installed."""
    return next((package for package in ("torch", "triton") if importlib.util.find_spec(package) is None), None)


def interpreted() -> bool:
    """Whether Triton is to interpret its kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def can_run() -> tuple[bool, str]:
    """Whether the kernels can run here, and why or why not: they need torch, triton, and a CUDA device or Triton's interpreter."""
    if (package := missing_package()) is not None:
        return False, f"{package} is not installed"
    if interpreted():
        return True, "Triton's interpreter on the CPU (TRITON_INTERPRET=1): for checking numerics, far too slow to serve"
    import torch

    if not torch.cuda.is_available():
        return False, "torch finds no CUDA device"
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        return False, f"compute capability 8.0 or newer is needed, this device has {major}.{minor}"
    return True, torch.cuda.get_device_name()
