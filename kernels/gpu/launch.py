"""`Launch`: a kernel with its grid, arguments and constants, so that what is run is what the tests compile without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel call. `arguments` by name in the kernel's order, `constants` are compile-time, `options` are Triton's."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    options: Mapping[str, Any]

    def run(self) -> None:
        """Enqueue on the current stream; an empty grid is nothing to do."""
        if all(self.grid):
            self.kernel[self.grid](**self.arguments, **self.constants, **self.options)


def generation(device: torch.device) -> int:
    """The first number of a device's compute capability; an H100's, 9, for what is interpreted or compiled without a device."""
    return torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9


def starts_early(device: torch.device) -> bool:
    """Whether a kernel may take its place on the device before the one that it waits for has ended, so that its launch takes no time of
    its own: from capability 9 on, and not where Triton is interpreted."""
    return device.type == "cuda" and generation(device) >= 9
