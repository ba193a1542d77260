"""`Launch`: a kernel with its grid, arguments and constants, so that what is run is what the tests compile without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
