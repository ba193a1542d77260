"""Features through bins: quantiles that are values, the same encoding in training and in kernels, fitted on training rows alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kernels.ranking.arguments import NO_BIN
from model.config import ModelConfig
from model.feature_encoding import PiecewiseLinear, quantile_bins
from model.train import build
from tests.conftest import Tiny


def values(rows: int = 4000) -> np.ndarray:
    """A continuous feature, a yes or no, a constant, and one that is zero nine times out of ten."""
    rng = np.random.default_rng(0)
    rare = np.where(rng.random(rows) < 0.9, 0.0, rng.exponential(size=rows))
    return np.stack([rng.normal(size=rows), rng.integers(0, 2, rows), np.full(rows, 3.0), rare], axis=1).astype(np.float32)


def test_bins_lie_between_quantiles_and_equal_quantiles_are_one_edge() -> None:
    x = values()
    bins = quantile_bins(x, 8)
    real = (bins.low_EB < NO_BIN).sum(axis=1)
    assert real.tolist()[:3] == [8, 1, 0] and 1 <= real[3] <= 2
    low, width = bins.low_EB[0], bins.width_EB[0]
    np.testing.assert_allclose(low[1:], low[:-1] + width[:-1], rtol=1e-6)
    inside = np.histogram(x[:, 0], np.append(low, low[-1] + width[-1]))[0]
    assert inside.min() > 450 and set(low.tolist()) <= set(x[:, 0].tolist())
    assert (bins.low_EB[1, 0], bins.width_EB[1, 0]) == (0, 1)


def test_the_encoding_of_training_is_that_of_the_kernels() -> None:
    x = values()
    bins = quantile_bins(x, 8)
    encoding = PiecewiseLinear(4, 8)
    encoding.fit(bins)
    far = np.concatenate([x, x * 100, -x * 100])
    found = encoding(torch.from_numpy(far)).numpy()
    np.testing.assert_allclose(found, bins.encoded(far), atol=1e-6)
    assert found.shape == (len(far), 4 * 9)
    first = found[: len(x), 4:12]
    rank = np.argsort(np.argsort(x[:, 0])) / len(x)
    assert np.corrcoef(first.sum(axis=1), rank)[0, 1] > 0.998, "the sum of a feature's bins is its share of the values, times 8"
    assert not found[:, 4 + 16 : 4 + 24].any(), "a constant has no bins"


def test_without_rows_there_are_no_bins() -> None:
    bins = quantile_bins(np.zeros((0, 3), np.float32), 5)
    assert (bins.low_EB == NO_BIN).all() and (bins.width_EB == 1).all()


def test_a_model_reads_bins_of_the_training_rows(tiny: Tiny) -> None:
    config = replace(tiny.config, model=replace(tiny.config.model, feature_bins=4))
    model = build(config, tiny.data)
    extra = tiny.data.train.extra.reshape(-1, tiny.data.train.extra.shape[2])
    expected = quantile_bins(extra, 4, config.seed)
    np.testing.assert_array_equal(model.encoding.low.numpy(), expected.low_EB)
    assert model.head.first.in_features == 3 * 48 + 1 + extra.shape[1] * 5
    assert build(tiny.config, tiny.data).encoding is None


def test_bins_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="feature_bins is 3, but features is False"):
        ModelConfig(features=False, feature_bins=3)
    with pytest.raises(ValueError, match=r"feature_bins must be 0\.\.64, got 65"):
        ModelConfig(feature_bins=65)
