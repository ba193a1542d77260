"""One contract for every ranking backend, against the float64 reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kernels import BehaviorRows, PreparedHead, TargetRows, attention_weight, pool_and_score
from kernels.ranking import prepared_head

Problem = Callable[..., dict[str, Any]]


def assert_equal_to_the_reference(given: dict[str, Any], backend: str) -> None:
    found, truth = pool_and_score(**given, backend=backend), pool_and_score(**given, backend="reference")
    for array in found:
        assert array.dtype == np.float32 and array.shape == (len(given["index_NK"]),)
    np.testing.assert_allclose(found[0], truth[0], atol=1e-5)
    np.testing.assert_allclose(found[1], truth[1], atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("bf16", [False, True], ids=["f32", "bf16"])
@pytest.mark.parametrize(
    ("n", "k", "length", "extra"),
    [(1, 1, 1, 0), (3, 20, 7, 40), (512, 50, 300, 40), (65, 17, 40, 0), (5, 128, 40, 3), (4, 8, 0, 2), (0, 3, 4, 1), (3, 0, 4, 1)],
)
def test_equals_the_reference(backend: str, problem: Problem, n: int, k: int, length: int, extra: int, bf16: bool) -> None:
    assert_equal_to_the_reference(problem(n, k, length, extra, seed=n + k, bf16=bf16), backend)


@pytest.mark.parametrize("bf16", [False, True], ids=["f32", "bf16"])
@pytest.mark.parametrize("width", [1, 3, 8, 15, 16, 17, 33, 64, 79, 130])
def test_every_width(backend: str, problem: Problem, width: int, bf16: bool) -> None:
    assert_equal_to_the_reference(problem(7, 10, 30, 4, width=width, bf16=bf16), backend)


@pytest.mark.parametrize("bf16", [False, True], ids=["f32", "bf16"])
@pytest.mark.parametrize(("n", "k", "extra"), [(1, 3, 0), (31, 20, 0), (40, 20, 5)])
def test_a_prepared_head_scores_as_the_bare_weights(backend: str, problem: Problem, n: int, k: int, extra: int, bf16: bool) -> None:
    given = problem(n, k, 50, extra, bf16=bf16)
    prepared = given | {"head": PreparedHead(given["head"], given["tables"])}
    np.testing.assert_array_equal(pool_and_score(**prepared, backend=backend), pool_and_score(**given, backend=backend))


@pytest.mark.parametrize("kept", [0.0, 0.05, 0.5, 1.0])
def test_partly_kept(backend: str, problem: Problem, kept: float) -> None:
    assert_equal_to_the_reference(problem(33, 20, 50, 3, kept=kept), backend)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 30.0, 1e4])
def test_scores_of_any_size_neither_overflow_nor_vanish(backend: str, problem: Problem, scale: float) -> None:
    given = problem(40, 10, 50, 3, scale=scale)
    given["head"].w1[3 * given["tables"].width] = 0  # a mass of 10,000 would saturate every probability; softmax is under test
    assert_equal_to_the_reference(given, backend)


@pytest.mark.parametrize("best", [-1e4, -90.0, 90.0, 1e4])
def test_equal_scores_of_any_level_share_alike(backend: str, problem: Problem, best: float) -> None:
    given = problem(8, 6, 50, 3)
    given["head"].w1[3 * given["tables"].width] = 0
    given["score_NK"][:] = best
    assert_equal_to_the_reference(given, backend)


def test_nothing_kept_is_the_target_alone(backend: str, problem: Problem) -> None:
    given = problem(4, 5, 9, 2)
    given["index_NK"][:] = -1
    given["score_NK"][:] = np.nan
    probability, mass = pool_and_score(**given, backend=backend)
    assert (mass == 0).all()
    without = problem(4, 5, 0, 2) | {name: given[name] for name in ("tables", "target", "extra_NE", "head")}
    np.testing.assert_array_equal(probability, pool_and_score(**without, backend=backend)[0])
    assert_equal_to_the_reference(given, backend)


def test_a_repeated_behavior_counts_each_time(backend: str, problem: Problem) -> None:
    given = problem(2, 12, 20, 2)
    given["index_NK"][:] = 3
    given["score_NK"][:] = 0.5
    assert_equal_to_the_reference(given, backend)
    np.testing.assert_allclose(pool_and_score(**given, backend=backend)[1], np.log1p(12 * np.exp(0.5)), rtol=1e-6)


def test_padding_changes_nothing(backend: str, problem: Problem) -> None:
    given = problem(9, 7, 30, 2, kept=1.0)
    padded = given | {
        "index_NK": np.concatenate([np.full((9, 5), -1, np.int32), given["index_NK"], np.full((9, 30), -1, np.int32)], axis=1),
        "score_NK": np.concatenate([np.full((9, 5), np.nan), given["score_NK"], np.full((9, 30), np.inf)], axis=1).astype(np.float32),
    }
    np.testing.assert_allclose(pool_and_score(**padded, backend=backend), pool_and_score(**given, backend=backend), atol=1e-6)


def test_tables_and_behaviors_that_are_not_kept_are_never_read(backend: str, problem: Problem) -> None:
    given = problem(9, 7, 30, 2)
    clean = pool_and_score(**given, backend=backend)
    used = np.unique(np.concatenate([given["behavior"].item_L[given["index_NK"][given["index_NK"] >= 0]], given["target"].item_N]))
    poisoned = given["tables"].item.copy()
    poisoned[np.setdiff1d(np.arange(len(poisoned)), used)] = np.nan
    given["tables"] = replace(given["tables"], item=poisoned)
    # Behavior 0 may be read in place of -1; what it points to may not show.
    np.testing.assert_array_equal(pool_and_score(**given, backend=backend), clean)


def test_a_target_scores_the_same_whatever_travels_beside_it(backend: str, problem: Problem) -> None:
    given = problem(40, 10, 60, 4)
    together = pool_and_score(**given, backend=backend)
    for n in (0, 17, 39):
        part = slice(n, n + 1)
        alone = given | {name: given[name][part] for name in ("index_NK", "score_NK", "extra_NE")}
        alone["target"] = TargetRows(given["target"].item_N[part], given["target"].category_N[part])
        for one, all_ in zip(pool_and_score(**alone, backend=backend), together, strict=True):
            np.testing.assert_allclose(one, all_[part], atol=1e-6)


def test_arrays_of_any_layout(backend: str, problem: Problem) -> None:
    given = problem(12, 10, 60, 4)
    expected = pool_and_score(**given, backend=backend)
    given["index_NK"] = np.asfortranarray(given["index_NK"])
    given["score_NK"] = np.repeat(given["score_NK"], 2, axis=0)[::2]
    given["head"] = replace(given["head"], w1=np.asfortranarray(given["head"].w1), b1=np.repeat(given["head"].b1, 3)[::3])
    given["behavior"] = BehaviorRows(*(np.repeat(getattr(given["behavior"], f"{n}_L"), 2)[::2] for n in ("item", "category", "recency")))
    for array in (given["extra_NE"], given["tables"].item, given["head"].w2):
        array.flags.writeable = False
    np.testing.assert_array_equal(pool_and_score(**given, backend=backend), expected)


def test_weights_sum_to_one_over_the_kept_and_are_zero_elsewhere() -> None:
    index = np.array([[3, 1, -1], [-1, -1, -1]], np.int32)
    weight = attention_weight(index, np.array([[0.0, np.log(3.0), 9.0], [1, np.nan, np.inf]], np.float32))
    np.testing.assert_allclose(weight, [[0.25, 0.75, 0], [0, 0, 0]], atol=1e-6)


def test_categories_too_many_to_be_looked_up_are_inputs(backend: str, problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(70, 20, 100, 5)
    folded = PreparedHead(given["head"], given["tables"])
    monkeypatch.setattr(prepared_head, "MOST_FOLDED_BYTES", 0)
    plain = PreparedHead(given["head"], given["tables"])
    assert folded.category_CH is not None and plain.category_CH is None
    found, expected = (pool_and_score(**given | {"head": head}, backend=backend)[0] for head in (plain, folded))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(found, pool_and_score(**given, backend="reference")[0], rtol=0, atol=2e-6)
