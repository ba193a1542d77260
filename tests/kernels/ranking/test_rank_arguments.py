"""Wrong arguments are refused with their name and value, and nothing that is never read is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kernels import PreparedHead, TargetRows, attention_weight, pool_and_score
from kernels.ranking.bfloat16 import as_float32, to_bfloat16


def score_of(place: tuple[int, int], value: float) -> Callable[[dict[str, Any]], None]:
    def change(given: dict[str, Any]) -> None:
        given["index_NK"][place] = 2
        given["score_NK"][place] = value

    return change


def argument(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda given: given.update({name: value})


def field(name: str, part: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda given: given.update({name: replace(given[name], **{part: change(getattr(given[name], part))})})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (argument("index_NK", np.full((4, 5), 9, np.int32)), r"index_NK must be in -1\.\.8, got 9"),
        (argument("index_NK", np.full((4, 5), -2, np.int32)), r"index_NK must be in -1\.\.8, got -2"),
        (argument("index_NK", np.zeros((4, 5), np.int64)), "index_NK must have dtype int32, got int64"),
        (score_of((1, 2), np.nan), r"score_NK must be finite where index_NK is not -1, got nan at \[1, 2\]"),
        (score_of((3, 4), -np.inf), r"got -inf at \[3, 4\]"),
        (argument("extra_NE", np.zeros((3, 2), np.float32)), r"extra_NE must have shape \[4, any\], got \[3, 2\]"),
        (argument("extra_NE", np.full((4, 2), np.nan, np.float32)), r"extra_NE must be finite, got nan at \[0, 0\]"),
        (argument("target", TargetRows(np.full(4, 100, np.int32), np.zeros(4, np.int32))), r"target.item_N must be in 0\.\.99, got 100"),
        (field("behavior", "category_L", lambda rows: rows + 30), r"behavior.category_L must be in 0\.\.29"),
        (field("behavior", "recency_L", lambda rows: rows[1:]), r"behavior.recency_L must have shape \[9\], got \[8\]"),
        (field("tables", "recency", to_bfloat16), "tables.recency must have dtype float32, got uint16"),
        (field("tables", "item", to_bfloat16), "tables.category must have dtype uint16, got float32"),
        (field("tables", "item", lambda table: table[:, 1:]), r"head.w1 must have shape \[111, any\], got \[114, 40\]"),
        (field("head", "w2", lambda weights: weights[1:]), r"head.w2 must have shape \[40, any\], got \[39, 23\]"),
        (field("head", "b1", lambda bias: bias.astype(np.float64)), "head.b1 must have dtype float32, got float64"),
        (field("head", "center", lambda _: np.zeros(2, np.float32)), r"head.center must have shape \[3\], got \[2\]"),
        (argument("num_threads", 0), "num_threads must be an integer of at least 1, got 0"),
        (argument("backend", "gpu"), "backend must be auto or one of native, numpy, reference, got 'gpu'"),
    ],
)
def test_wrong_arguments_are_named(problem: Callable[..., dict[str, Any]], change: Callable[[dict[str, Any]], None], named: str) -> None:
    given = problem(4, 5, 9, 2)
    change(given)
    with pytest.raises(ValueError, match=named):
        pool_and_score(**given)


@pytest.mark.parametrize("size", [5, 60], ids=["few", "many"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_found_among_any(problem: Callable[..., dict[str, Any]], size: int, bad: float) -> None:
    given = problem(size, 50, 9, 50, kept=2.0)
    for name, place in (("extra_NE", (0, 0)), ("extra_NE", (size - 1, 49)), ("score_NK", (0, 0)), ("score_NK", (size - 1, 49))):
        changed = given[name].copy()
        changed[place] = bad
        with pytest.raises(ValueError, match=rf"{name} must be finite.*got {bad} at \[{place[0]}, {place[1]}\]"):
            pool_and_score(**given | {name: changed})
        changed[2, 2] = -bad
        with pytest.raises(ValueError, match=f"{name} must be finite"):
            pool_and_score(**given | {name: changed})


def test_no_recency_row_for_the_target(problem: Callable[..., dict[str, Any]]) -> None:
    given = problem(4, 5, 0, 2)
    given["tables"] = replace(given["tables"], recency=given["tables"].recency[:0])
    with pytest.raises(ValueError, match=r"tables\.recency must hold row 0, the target's, got 0 rows"):
        pool_and_score(**given)


def test_a_prepared_head_is_bound_to_its_tables_and_inputs(problem: Callable[..., dict[str, Any]]) -> None:
    given = problem(4, 5, 9, 2)
    prepared = PreparedHead(given["head"], given["tables"])
    with pytest.raises(ValueError, match="tables must be those that the head was prepared with, got others"):
        pool_and_score(**given | {"head": prepared, "tables": replace(given["tables"])})
    with pytest.raises(ValueError, match=r"extra_NE must have shape \[4, 2\], got \[4, 3\]"):
        pool_and_score(**given | {"head": prepared, "extra_NE": np.zeros((4, 3), np.float32)})
    with pytest.raises(ValueError, match=r"head.w1 must have at least 112 rows, got 100"):
        PreparedHead(replace(given["head"], w1=given["head"].w1[:100]), given["tables"])
    with pytest.raises(ValueError, match=r"head.w2 must have shape \[40, any\], got \[39, 23\]"):
        PreparedHead(replace(given["head"], w2=given["head"].w2[1:]), given["tables"])


def test_weights_refuse_what_ranking_refuses() -> None:
    with pytest.raises(ValueError, match=r"score_NK must have shape \[1, 2\], got \[2, 1\]"):
        attention_weight(np.zeros((1, 2), np.int32), np.zeros((2, 1), np.float32))
    with pytest.raises(ValueError, match=r"got inf at \[0, 1\]"):
        attention_weight(np.zeros((1, 2), np.int32), np.array([[0, np.inf]], np.float32))


def test_bfloat16_rounds_to_nearest_even() -> None:
    value = np.array([0.0, -0.0, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -3.5, 1e-40], np.float32)
    expected = np.array([0.0, -0.0, 1.0, 1.0, 1 + 2**-6, 1 + 2**-7, -3.5, 1e-40], np.float32)
    np.testing.assert_allclose(as_float32(to_bfloat16(value)), expected, rtol=1e-3, atol=1e-40)
    np.testing.assert_array_equal(as_float32(to_bfloat16(value))[:7], expected[:7])
    with pytest.raises(ValueError, match="value must be finite, got inf"):
        to_bfloat16(np.array([1, np.inf], np.float32))
