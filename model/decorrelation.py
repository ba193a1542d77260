"""The head's part for the features, trained along the eigenvectors of their covariance instead of along the features themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from model.head import TargetAwareHead
from model.two_stage import TwoStageModel

_SAMPLE_ROWS = 30_000
_DAMPING = 0.3
"""In variances of one feature: directions that hardly vary are not blown up."""


def decorrelating_basis(model: TwoStageModel, extra_XE: npt.NDArray[np.float32], seed: int = 0) -> Tensor:
    """Eigenvectors of the covariance of the features as the head reads them, as columns, each over sqrt(eigenvalue + .3): [G, G].

    Args: `extra_XE` features of training rows, of which 30,000 are drawn with the seed.
    Of the model's type. The same bits for the same rows, thread count and machine.
    """
    norm = model.head.given_norm
    assert norm is not None, "this head reads no features"
    if len(extra_XE) > _SAMPLE_ROWS:
        extra_XE = extra_XE[np.random.default_rng(seed).choice(len(extra_XE), _SAMPLE_ROWS, replace=False)]
    with torch.no_grad():
        x = model.encoded(torch.from_numpy(extra_XE)).double()
        x = (x - x.mean(0)) / torch.sqrt(x.var(0, unbiased=False) + norm.eps)
        value_G, vector_GG = torch.linalg.eigh(x.T @ x / len(x))
        basis_GG: Tensor = vector_GG / torch.sqrt(value_G.clamp(min=0) + _DAMPING)
        return basis_GG.to(model.head.first.weight.dtype)


def train_along(basis_GG: Tensor, optimizer: Optimizer, head: TargetAwareHead) -> list[RemovableHandle]:
    """Have every step of the optimiser move the head's weights of the features along the basis, until the hooks are removed.

    With weights W = V basis^T the gradient of V is that of W times the basis; the step is taken for V and brought back. An optimiser
    whose steps depend on gradients alone, like Adam, does with W what it would have done with V.
    """
    weight, first = head.first.weight, head.learned
    before: list[Tensor] = []

    @torch.no_grad()
    def turn(*_: Any) -> None:
        assert weight.grad is not None
        weight.grad[:, first:] = weight.grad[:, first:] @ basis_GG
        before.append(weight[:, first:].clone())
        weight[:, first:] = 0

    @torch.no_grad()
    def turn_back(*_: Any) -> None:
        weight[:, first:] = torch.addmm(before.pop(), weight[:, first:], basis_GG.T)

    return [optimizer.register_step_pre_hook(turn), optimizer.register_step_post_hook(turn_back)]
