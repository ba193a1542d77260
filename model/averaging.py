"""The mean of a training's weights over its latest steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_LATEST = 8
"""The mean reaches back over about a ninth of the steps so far."""


@torch.no_grad()
def average(mean: dict[str, Tensor], state: Mapping[str, Tensor], step: int) -> None:
    """Take the weights and statistics after step `step` (1 the first) into their mean, in place; counts are left out.

    Polynomial-decay averaging (arXiv 1212.1824): the newest weighs 9 / (8 + step), so the mean grows with the training and needs no length.
    """
    share = (_LATEST + 1) / (_LATEST + step)
    if step == 1:
        mean.update({name: value.detach().clone() for name, value in state.items() if value.dtype.is_floating_point})
    else:
        torch._foreach_lerp_(list(mean.values()), [state[name].detach() for name in mean], share)
