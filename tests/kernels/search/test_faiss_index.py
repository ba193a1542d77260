"""Approximate search keeps the contract of search but for completeness, and its recall is what it is declared for."""

from __future__ import annotations

import numpy as np
import pytest

from kernels import ItemBonus, approximate_backends, search_backends, search_topk
from kernels.search.faiss_index import KINDS, FaissIndex, recall

pytest.importorskip("faiss", reason="faiss is not installed")
LEAST_RECALL = {"ivf": 0.55, "hnsw": 0.9, "pq": 0.8}
"""Of independent gaussian keys, the hardest case: nothing for an index to learn."""


def keys(length: int, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((length, width)).astype(np.float32)


def assert_sound(found: tuple[np.ndarray, np.ndarray], q: np.ndarray, k: np.ndarray, bias: np.ndarray | float = 0.0) -> None:
    """Distinct behaviors with their true scores, best first."""
    index, score = found
    assert index.dtype == np.int32 and score.dtype == np.float32
    truth = q @ k.T + bias
    for row, n in zip(index, range(len(q)), strict=True):
        held = row[row >= 0]
        assert len(set(held.tolist())) == len(held)
        np.testing.assert_allclose(score[n, row >= 0], truth[n, held], rtol=1e-4, atol=1e-3)
    assert (score[:, :-1] >= score[:, 1:]).all()
    np.testing.assert_array_equal(index >= 0, score > -np.inf)


@pytest.mark.parametrize("kind", KINDS)
def test_recall_and_scores(kind: str) -> None:
    q, k = keys(40, seed=1), keys(10_000)
    found = search_topk(q, k, 50, backend=f"faiss-{kind}")
    assert_sound(found, q, k)
    measured = recall(found[0], search_topk(q, k, 50, backend="reference")[0])
    assert LEAST_RECALL[kind] <= measured <= 1
    # A graph may find them all; reading an eighth of the lists, or 4-bit codes, cannot.
    assert kind == "hnsw" or measured < 1, "no index was used"


@pytest.mark.parametrize("kind", KINDS)
def test_bias_and_validity(kind: str) -> None:
    rng = np.random.default_rng(3)
    q, k, bias, valid = keys(20, seed=1), keys(5000), rng.standard_normal(5000).astype(np.float32), rng.random(5000) < 0.7
    found = search_topk(q, k, 20, bias_L=bias, valid_L=valid, backend=f"faiss-{kind}")
    assert_sound(found, q, k, bias)
    assert valid[found[0][found[0] >= 0]].all()
    exact = search_topk(q, k, 20, bias_L=bias, valid_L=valid, backend="reference")[0]
    assert recall(found[0], exact) > 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [0, 1, 19, 999])
def test_few_keys_are_searched_exactly(kind: str, length: int) -> None:
    q, k = keys(3, 7, seed=1), keys(length, 7)
    found, truth = search_topk(q, k, 20, backend=f"faiss-{kind}"), search_topk(q, k, 20, backend="reference")
    np.testing.assert_array_equal(found[0], truth[0])
    np.testing.assert_allclose(found[1], truth[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_is_built_once_and_searched_often(kind: str) -> None:
    q, k = keys(30, seed=1), keys(3000)
    index = FaissIndex(kind, k)
    together = index.search(q, 10)
    assert_sound(together, q, k)
    for n in (0, 29):
        np.testing.assert_array_equal(index.search(q[n : n + 1], 10)[0], together[0][n : n + 1])


def test_approximation_is_declared_and_never_automatic() -> None:
    assert set(approximate_backends()) == {"faiss-ivf", "faiss-hnsw", "faiss-pq"}
    assert not set(approximate_backends()) & set(search_backends())
    assert all(reason.startswith("approximate: ") for _, reason in approximate_backends().values())
    q, k = keys(20, seed=1), keys(5000)
    np.testing.assert_array_equal(search_topk(q, k, 20)[0], search_topk(q, k, 20, backend="reference")[0])


def test_what_faiss_cannot_do_is_refused() -> None:
    q, k = keys(2, seed=1), keys(50)
    bonus = ItemBonus(np.array([0, 1, 1], np.int64), np.array([3], np.int32), 1.0)
    with pytest.raises(RuntimeError, match="search backend 'faiss-hnsw' cannot run: faiss has no category scores and no item bonus"):
        search_topk(q, k, 5, bonus=bonus, backend="faiss-hnsw")
    with pytest.raises(ValueError, match="kind must be one of ivf, hnsw, pq, got 'lsh'"):
        FaissIndex("lsh", k)


def test_recall_counts_the_exact_ones_found() -> None:
    exact = np.array([[1, 2, 3, -1], [4, 5, -1, -1]], np.int32)
    assert recall(np.array([[3, 9, 1, 7], [-1, -1, -1, -1]], np.int32), exact) == 2 / 5
    assert recall(np.full((1, 2), -1, np.int32), np.full((1, 2), -1, np.int32)) == 1.0
