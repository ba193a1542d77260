"""What a model of any kind said about the test rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Outcome:
    """`figures` of `model.metrics.evaluate`, with times; the test rows' `probability`, `label` f32 and `user` i64 [M]."""

    figures: dict[str, Any]
    probability: npt.NDArray[np.float32]
    label: npt.NDArray[np.float32]
    user: npt.NDArray[np.int64]
