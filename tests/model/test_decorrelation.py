"""Training along the features' eigenvectors: the basis makes them uncorrelated, and a step for W is the step that V would have made."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import ModelConfig
from model.decorrelation import decorrelating_basis, train_along
from model.feature_encoding import quantile_bins
from model.head import TargetAwareHead
from model.two_stage import TwoStageModel


def features(rows: int, num: int = 4) -> np.ndarray:
    """Features that say nearly the same, a constant among them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 1)) + 0.1 * rng.normal(size=(rows, num)) + np.arange(num)
    x[:, 1] = 7.0
    return x.astype(np.float32)


def test_along_the_basis_features_are_uncorrelated() -> None:
    x = features(3000)
    model = TwoStageModel(ModelConfig(feature_bins=3), 5, 3, 4)
    assert model.encoding is not None
    model.encoding.fit(quantile_bins(x, 3))
    basis = decorrelating_basis(model, x)
    read = model.encoded(torch.from_numpy(x)).double()
    read = (read - read.mean(0)) / (read.var(0, unbiased=False) + 1e-5).sqrt()
    value = torch.linalg.eigvalsh(read.T @ read / len(x)).clamp(min=0)
    seen = (read @ basis.double()).T @ (read @ basis.double()) / len(x)
    np.testing.assert_allclose(seen, torch.diag(value / (value + 0.3)), atol=1e-4)
    assert basis.shape == (16, 16) and value.max() > 5 and value.min() < 1e-6
    assert torch.equal(basis, decorrelating_basis(model, x))


def test_a_step_for_the_weights_is_the_step_of_their_coordinates() -> None:
    torch.manual_seed(0)
    head = TargetAwareHead(2, 1, 1, 5, (6, 4)).double()
    learned = head.learned
    basis, x, label = torch.randn(5, 5).double(), torch.randn(64, 5).double(), torch.rand(64).round().double()
    other = TargetAwareHead(2, 1, 1, 5, (6, 4)).double()
    other.load_state_dict(head.state_dict())
    coordinates = nn.Parameter(head.first.weight.detach()[:, learned:] @ torch.linalg.inv(basis).T)
    optimizer, expected = torch.optim.Adam(head.parameters(), lr=0.01), torch.optim.Adam([*other.parameters(), coordinates], lr=0.01)
    train_along(basis, optimizer, head)
    for _ in range(20):
        descend(optimizer, head.of_given(x), label)
        weight = coordinates @ basis.T
        descend(expected, rest(other, functional.linear(norm(x), weight, other.first.bias)), label)
    np.testing.assert_allclose(head.first.weight.detach()[:, learned:], (coordinates @ basis.T).detach(), atol=1e-9)
    np.testing.assert_allclose(head.second.weight.detach(), other.second.weight.detach(), atol=1e-9)
    assert torch.equal(head.first.weight[:, :learned], other.first.weight[:, :learned])
    assert (head.first.weight - other.first.weight)[:, learned:].abs().max() > 0.01


def descend(optimizer: torch.optim.Optimizer, logit: Tensor, label: Tensor) -> None:
    optimizer.zero_grad()
    functional.binary_cross_entropy_with_logits(logit, label).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def norm(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()


def rest(head: TargetAwareHead, y: Tensor) -> Tensor:
    y = torch.where(y > 0, y, y * head.first_slope.weight)
    y = head.second(y)
    logit: Tensor = head.last(torch.where(y > 0, y, y * head.second_slope.weight)).squeeze(1)
    return logit
