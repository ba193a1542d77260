"""One contract for every ranking backend, against the float64 reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernels import BehaviorRows, HeadWeights, RankTables, TargetRows, attention_weight, pool_and_score, ranking_backends

BACKENDS = [name for name in ranking_backends() if name != "reference"]


def problem(n: int, k: int, length: int, extra: int, width: int = 16, seed: int = 0, scale: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def normal(*shape: int, std: float = 1.0) -> np.ndarray:
        return (std * rng.standard_normal(shape)).astype(np.float32)

    def rows(size: int, high: int) -> np.ndarray:
        return rng.integers(0, high, size).astype(np.int32)

    index = rng.integers(-1, length, (n, k)).astype(np.int32) if length else np.full((n, k), -1, np.int32)
    features, h1, h2 = 3 * 3 * width + 1 + extra, 40, 24
    return {
        "index_NK": index,
        "score_NK": np.where(index >= 0, normal(n, k, std=scale), -np.inf).astype(np.float32),
        "tables": RankTables(normal(100, width), normal(30, width), normal(20, width)),
        "behavior": BehaviorRows(rows(length, 100), rows(length, 30), rows(length, 20)),
        "target": TargetRows(rows(n, 100), rows(n, 30)),
        "extra_NE": normal(n, extra),
        "head": HeadWeights(
            normal(features, h1, std=0.1), normal(h1), 0.25, normal(h1, h2, std=0.1), normal(h2), -0.1, normal(h2, std=0.2), 0.3
        ),
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("n", "k", "length", "extra"), [(1, 1, 1, 0), (3, 20, 7, 5), (65, 50, 300, 41), (5, 128, 40, 3), (4, 8, 0, 2), (0, 3, 4, 1)]
)
def test_equals_the_reference(backend: str, n: int, k: int, length: int, extra: int) -> None:
    given = problem(n, k, length, extra, seed=n + k)
    found, truth = pool_and_score(**given, backend=backend), pool_and_score(**given, backend="reference")
    np.testing.assert_allclose(found[0], truth[0], atol=1e-5)
    np.testing.assert_allclose(found[1], truth[1], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [1, 5, 32, 64])
def test_odd_widths(backend: str, width: int) -> None:
    given = problem(7, 10, 30, 4, width=width)
    np.testing.assert_allclose(pool_and_score(**given, backend=backend)[0], pool_and_score(**given, backend="reference")[0], atol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_huge_scores_neither_overflow_nor_vanish(backend: str) -> None:
    given = problem(20, 10, 50, 3, scale=1e4)
    given["extra_NE"][:] = 0
    given["head"].w1[3 * 3 * 16] = 0  # the mass itself is huge here; what is checked is softmax
    found, truth = pool_and_score(**given, backend=backend), pool_and_score(**given, backend="reference")
    assert np.isfinite(found[0]).all() and np.isfinite(found[1]).all()
    np.testing.assert_allclose(found[0], truth[0], atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_kept_is_the_target_alone(backend: str) -> None:
    given = problem(4, 5, 9, 2)
    given["index_NK"][:] = -1
    given["score_NK"][:] = 7.0
    probability, mass = pool_and_score(**given, backend=backend)
    assert (mass == 0).all()
    np.testing.assert_allclose(probability, pool_and_score(**given, backend="reference")[0], atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_target_scores_the_same_whatever_travels_beside_it(backend: str) -> None:
    given = problem(40, 10, 60, 4)
    together = pool_and_score(**given, backend=backend)[0]
    part = slice(17, 18)
    alone = given | {
        "index_NK": given["index_NK"][part],
        "score_NK": given["score_NK"][part],
        "extra_NE": given["extra_NE"][part],
        "target": TargetRows(given["target"].item_N[part], given["target"].category_N[part]),
    }
    np.testing.assert_allclose(pool_and_score(**alone, backend=backend)[0], together[part], atol=1e-6)


def test_weights_sum_to_one_over_the_kept_and_are_zero_elsewhere() -> None:
    index = np.array([[3, 1, -1], [-1, -1, -1]], np.int32)
    weight = attention_weight(index, np.array([[0.0, np.log(3.0), 9.0], [1, 1, 1]], np.float32))
    np.testing.assert_allclose(weight, [[0.25, 0.75, 0], [0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("index_NK", np.full((4, 5), 9, np.int32), "index_NK must be in -1..8, got 9"),
        ("score_NK", np.full((4, 5), np.nan, np.float32), "score_NK must not be NaN"),
        ("extra_NE", np.zeros((3, 2), np.float32), r"extra_NE must have shape \[4, any\]"),
        ("target", TargetRows(np.full(4, 100, np.int32), np.zeros(4, np.int32)), "target.item_N must be in 0..99, got 100"),
        ("num_threads", 0, "num_threads must be an integer of at least 1, got 0"),
        ("backend", "gpu", "backend must be auto or one of"),
    ],
)
def test_wrong_arguments_are_named(name: str, value: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        pool_and_score(**(problem(4, 5, 9, 2) | {name: value}))
