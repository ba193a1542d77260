"""One contract for every search backend, against the float64 reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernels import ItemBonus, SearchKeys, search_backends, search_topk

BACKENDS = [name for name in search_backends() if name not in ("reference", "triton")]  # triton: tests/kernels/gpu
EXACT = [name for name in BACKENDS if name != "faiss"]
"""faiss declares no category scores and no bonus, and breaks ties at the K-th place its own way."""


def data_set(name: str, n: int, length: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    q, k = rng.standard_normal((n, width)), rng.standard_normal((length, width))
    if name == "clusters":
        k = rng.standard_normal((8, width))[rng.integers(0, 8, length)] + 0.01 * k
    elif name == "repeats":
        k = k[rng.integers(0, max(1, length // 20), length)] if length else k
    elif name == "heavy tails":
        k = rng.standard_t(1.5, (length, width))
    elif name == "outlier" and length:
        k[length // 2] *= 30
    elif name == "anisotropic":
        k = k * np.logspace(0, -3, width)
    elif name == "sorted":
        k = np.sort(k, axis=0)
    elif name == "all equal":
        k = np.ones_like(k)
    elif name == "denormals":
        k = k * 1e-39
    elif name == "huge":
        k = k * 1e15
    return q.astype(np.float32), k.astype(np.float32)


DATA = ["gaussian", "clusters", "repeats", "heavy tails", "outlier", "anisotropic", "sorted", "all equal", "denormals", "huge"]


def assert_same_search(found: tuple[np.ndarray, np.ndarray], truth: tuple[np.ndarray, np.ndarray], q: np.ndarray, k: np.ndarray) -> None:
    assert found[0].dtype == np.int32 and found[1].dtype == np.float32
    np.testing.assert_array_equal(found[0] >= 0, truth[0] >= 0)
    # fp32 sums of products: an error in proportion to |q| |k|, not to the (possibly cancelled) score.
    scale = 1e-5 * max(1.0, float(np.abs(q).sum(1).max(initial=0)) * float(np.abs(k).max(initial=0)))
    valid = truth[0] >= 0
    np.testing.assert_allclose(found[1][valid], truth[1][valid], rtol=1e-5, atol=scale)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", DATA)
def test_kept_scores_equal_the_reference_on_ten_data_sets(backend: str, name: str) -> None:
    q, k = data_set(name, 5, 700, 16)
    assert_same_search(search_topk(q, k, 20, backend=backend), search_topk(q, k, 20, backend="reference"), q, k)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 255, 256, 257, 1000])
@pytest.mark.parametrize(("n", "width", "kept"), [(1, 16, 1), (3, 7, 20), (4, 64, 50), (5, 1, 128), (17, 33, 50)])
def test_odd_shapes(backend: str, length: int, n: int, width: int, kept: int) -> None:
    q, k = data_set("gaussian", n, length, width, seed=length)
    bias = np.linspace(-1, 1, length, dtype=np.float32)
    found = search_topk(q, k, kept, bias_L=bias, backend=backend)
    assert found[0].shape == found[1].shape == (n, kept)
    assert_same_search(found, search_topk(q, k, kept, bias_L=bias, backend="reference"), q, k)


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("length", [3, 64, 300, 5000])
def test_integer_scores_give_the_same_sets_in_the_same_order(backend: str, length: int) -> None:
    rng = np.random.default_rng(length)
    q, k = rng.integers(-2, 3, (9, 8)).astype(np.float32), rng.integers(-2, 3, (length, 8)).astype(np.float32)
    category = rng.integers(0, 6, length).astype(np.int32)
    arguments: dict[str, Any] = {
        "bias_L": rng.integers(-2, 3, length).astype(np.float32),
        "valid_L": rng.random(length) < 0.8,
        "category_L": category,
        "category_score_NC": rng.integers(-2, 3, (9, 6)).astype(np.float32),
        "bonus": ItemBonus(np.arange(0, 19, 2, dtype=np.int64), rng.integers(0, length, 18).astype(np.int32), 3.0),
    }
    found, truth = search_topk(q, k, 20, backend=backend, **arguments), search_topk(q, k, 20, backend="reference", **arguments)
    np.testing.assert_array_equal(found[0], truth[0])
    np.testing.assert_array_equal(found[1], truth[1])


@pytest.mark.parametrize("backend", EXACT)
def test_equal_scores_keep_the_newest_first(backend: str) -> None:
    index, score = search_topk(np.zeros((1, 4), np.float32), np.ones((100, 4), np.float32), 5, backend=backend)
    assert index.tolist() == [[99, 98, 97, 96, 95]] and score.tolist() == [[0.0] * 5]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_masked_behavior_is_never_kept_even_if_it_is_the_best(backend: str) -> None:
    q, k = data_set("gaussian", 3, 50, 8)
    k[7] = 100 * q[0]
    valid = np.ones(50, dtype=bool)
    valid[7] = False
    index, _ = search_topk(q, k, 10, valid_L=valid, backend=backend)
    assert 7 not in index


@pytest.mark.parametrize("backend", EXACT)
def test_permuting_targets_permutes_answers_and_batch_equals_single(backend: str) -> None:
    q, k = data_set("gaussian", 33, 400, 32)
    together = search_topk(q, k, 10, backend=backend)
    for n in (0, 7, 32):
        alone = search_topk(q[n : n + 1], k, 10, backend=backend)
        np.testing.assert_array_equal(alone[0][0], together[0][n])
        np.testing.assert_allclose(alone[1][0], together[1][n], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("backend", EXACT)
def test_threads_do_not_change_the_answer(backend: str, threads: int) -> None:
    q, k = data_set("gaussian", 50, 3000, 16)
    one, many = search_topk(q, k, 50, backend=backend), search_topk(q, k, 50, backend=backend, num_threads=threads)
    np.testing.assert_array_equal(one[0], many[0])


def test_appended_keys_equal_keys_built_at_once_and_the_old_ones_stay() -> None:
    q, k = data_set("gaussian", 4, 300, 8)
    category = np.arange(300, dtype=np.int32) % 5
    grown = SearchKeys(k[:1], category[:1])
    stages = [grown]
    for first in range(1, 300, 23):
        grown = grown.append(k[first : first + 23], category[first : first + 23])
        stages.append(grown)
    fork = stages[3].append(-k[:50], category[:50])
    for keys in stages:
        np.testing.assert_array_equal(keys.key_LA, k[: keys.length])
        np.testing.assert_array_equal(keys.category_L, category[: keys.length])
    np.testing.assert_array_equal(fork.key_LA[stages[3].length :], -k[:50])
    np.testing.assert_array_equal(search_topk(q, grown, 9)[0], search_topk(q, k, 9)[0])
    assert grown.nbytes >= k.nbytes


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"k": 0}, "k must be an integer of at least 1, got 0"),
        ({"k": 2**40}, r"k must be at most \d+ with \d+ targets, got 1099511627776"),
        ({"attn_target_NA": np.zeros((2, 3), np.float32)}, r"attn_target_NA must have shape \[any, 4\]"),
        ({"attn_target_NA": np.zeros((2, 4))}, "dtype float32, got float64"),
        ({"attn_behavior_LA": np.full((5, 4), np.nan, np.float32)}, "attn_behavior_LA must be finite, got nan"),
        ({"attn_target_NA": np.full((2, 4), np.inf, np.float32)}, "attn_target_NA must be finite, got inf"),
        ({"bias_L": np.zeros(4, np.float32)}, r"bias_L must have shape \[5\]"),
        ({"category_score_NC": np.zeros((2, 3), np.float32)}, "neither category_L nor keys"),
        ({"category_score_NC": np.zeros((2, 3), np.float32), "category_L": np.full(5, 3, np.int32)}, "category_L must be in 0..2, got 3"),
        ({"bonus": ItemBonus(np.array([0, 1, 1]), np.array([5], np.int32), 1.0)}, "bonus.index must be in 0..4, got 5"),
        ({"backend": "cuda"}, "backend must be auto or one of"),
        ({"num_threads": 0}, "num_threads must be an integer of at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], named: str) -> None:
    arguments: dict[str, Any] = {"attn_target_NA": np.ones((2, 4), np.float32), "attn_behavior_LA": np.ones((5, 4), np.float32), "k": 2}
    arguments |= change
    with pytest.raises(ValueError, match=named):
        search_topk(**arguments)


def test_faiss_says_what_it_cannot_do_instead_of_falling_back() -> None:
    with pytest.raises(RuntimeError, match="no category scores"):
        search_topk(
            np.ones((1, 2), np.float32),
            np.ones((3, 2), np.float32),
            1,
            category_L=np.zeros(3, np.int32),
            category_score_NC=np.zeros((1, 1), np.float32),
            backend="faiss",
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("length", [3, 5000])
def test_a_value_that_is_not_finite_is_named_with_its_place(bad: float, length: int) -> None:
    k = np.ones((length, 4), np.float32)
    k[1, 2] = bad
    if length > 3:
        k[4000, 0] = -bad  # infinities of both signs cancel to NaN, never to something finite
    with pytest.raises(ValueError, match=rf"attn_behavior_LA must be finite, got {bad} at \[1, 2\]"):
        SearchKeys(k)
    huge = np.full((length, 4), np.finfo(np.float32).max, np.float32)
    assert SearchKeys(huge).length == length
