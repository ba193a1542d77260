"""Scale and shift of the logit: known answers, little data, and a training that ends with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.calibration import rescale, scale_and_shift
from model.config import ModelConfig
from model.head import TargetAwareHead
from model.train import predict, train
from tests.conftest import Tiny


def drawn(rows: int, scale: float, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels that are 1 with the probability of scale * logit + shift."""
    rng = np.random.default_rng(0)
    logit = rng.normal(-1, 2, rows)
    return logit, (rng.random(rows) < 1 / (1 + np.exp(-(scale * logit + shift)))).astype(np.float32)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.5, 0.3), (1.7, -0.8)])
def test_it_finds_the_scale_and_shift_that_made_the_labels(scale: float, shift: float) -> None:
    found = scale_and_shift(*drawn(200_000, scale, shift))
    assert found == pytest.approx((scale, shift), abs=0.03)


def test_no_rows_change_nothing_and_separable_ones_little() -> None:
    assert scale_and_shift(np.zeros(0), np.zeros(0, np.float32)) == (1.0, 0.0)
    scale, shift = scale_and_shift(np.array([-1.0, 1.0]), np.array([0, 1], np.float32))
    assert 1 < scale < 2 and shift == pytest.approx(0, abs=1e-6)


def test_an_order_is_never_turned_around() -> None:
    logit, label = drawn(10_000, -1.0, 0.0)
    assert scale_and_shift(logit, label)[0] == 0.1 and scale_and_shift(-logit, label) == pytest.approx((1, 0), abs=0.1)


def test_a_head_takes_it_in() -> None:
    torch.manual_seed(0)
    head = TargetAwareHead(3, 1, 1, 2, (5, 4)).double().eval()
    inputs = [torch.randn(6, width, dtype=torch.float64) for width in (3, 3, 1, 2)]
    with torch.no_grad():
        before = head(*inputs)
        rescale(head, 1.5, -0.25)
        np.testing.assert_allclose(head(*inputs), 1.5 * before - 0.25, atol=1e-12)


def test_a_training_ends_with_it(tiny: Tiny) -> None:
    model = ModelConfig(kept=5, hidden=(6, 4), attn_width=2, repr_width=2)
    config = replace(tiny.config, model=model, epochs=1, evaluations_per_epoch=1, calibrate=False)
    rows, label = tiny.data.validation, tiny.data.validation.labels(np.arange(len(tiny.data.validation.chosen)))
    probability = []
    for calibrate in (False, True):
        trained = train(replace(config, calibrate=calibrate), tiny.data)
        probability.append(predict(trained.model, tiny.data.log, tiny.data.vocabulary, rows).reshape(-1))
    loss = [-np.log(np.where(label > 0, p, 1 - p)).mean() for p in probability]
    assert loss[1] < loss[0]
    assert (np.argsort(probability[0]) == np.argsort(probability[1])).mean() > 0.95, "equal in float32, else in the same order"
