"""What a device could do at most: rates measured on it, and the least time that a benchmark's shape takes at them."""

from __future__ import annotations

import statistics
import subprocess
from dataclasses import dataclass

import torch

from kernels.gpu.timing import eager_us


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Measured on this device: bytes read and written a second by a large copy, operations a second of large matrix products."""

    copy_bytes: float
    bfloat16_operations: float
    float32_operations: float

    def floor_us(self, operations: float, moved_bytes: float, *, matrix_unit: bool) -> float:
        """Microseconds that the operations, or the bytes if that is longer, take at the measured rates."""
        rate = self.bfloat16_operations if matrix_unit else self.float32_operations
        return 1e6 * max(operations / rate, moved_bytes / self.copy_bytes)


def ceilings(device: torch.device) -> Ceilings:
    """Measure a CUDA device for a second."""
    source = torch.empty(2**29, dtype=torch.int32, device=device).random_()
    copy = torch.empty_like(source)
    copy_us = statistics.median(eager_us([lambda: copy.copy_(source)], 10, device))

    def product_us(size: int, dtype: torch.dtype) -> float:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        return statistics.median(eager_us([lambda: left @ right], 10, device))

    return Ceilings(
        2e6 * source.nbytes / copy_us,
        2e6 * 8192**3 / product_us(8192, torch.bfloat16),
        2e6 * 4096**3 / product_us(4096, torch.float32),
    )


def driver() -> str:
    """The NVIDIA driver's version, or why it is not known."""
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split("\n")[0]
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown ({error})"
