"""The mean over a training's latest weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from model.averaging import average


def test_the_newest_weighs_nine_of_eight_more_than_the_steps() -> None:
    states: list[dict[str, Tensor]] = [
        {"weight": torch.tensor([float(step), 1.0], dtype=torch.float64), "count": torch.tensor(step)} for step in range(1, 200)
    ]
    mean: dict[str, Tensor] = {}
    weight = np.zeros(0)
    for step, state in enumerate(states, start=1):
        average(mean, state, step)
        share = 9 / (8 + step)
        weight = np.append(weight * (1 - share), share)
    assert list(mean) == ["weight"], "a count is not averaged"
    np.testing.assert_allclose(weight.sum(), 1.0)
    np.testing.assert_allclose(mean["weight"], [float(weight @ np.arange(1.0, 200.0)), 1.0])
    assert 0.87 < mean["weight"][0] / 199 < 0.93, "about a tenth behind the newest"
    assert states[0]["weight"].tolist() == [1.0, 1.0], "what was averaged is left as it was"
