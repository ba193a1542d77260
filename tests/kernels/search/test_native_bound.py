"""The bound of the compiled filter (kernels/search/README.md) on inputs made to break one of its steps: it finds what fp32 alone finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernels import ItemBonus, SearchKeys, native_library, search_topk
from kernels.search import native_backend
from kernels.search.arguments import checked

LENGTH, WIDTH, TARGETS = 8192, 16, 32


def draw(width: int = WIDTH, seed: int = 0) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    key = rng.standard_normal((LENGTH, width)).astype(np.float32)
    return rng, rng.standard_normal((TARGETS, width)).astype(np.float32), key


def assert_filter_finds_what_fp32_finds(level: int, target: np.ndarray, keys: SearchKeys, kept: int, **given: Any) -> None:
    """Bit for bit: both score by the same chain of fused multiply-adds."""
    library, _ = native_library.library()
    core = native_backend.prepare(keys)
    assert library is not None and core is not None
    names = ("bias_L", "valid_L", "category_L", "category_score_NC", "bonus")
    arguments = checked(target, keys, kept, *(given.get(name) for name in names), 1)
    filtered, alone = (native_backend.run(arguments, one, library, level) for one in (core, None))
    np.testing.assert_array_equal(filtered[0], alone[0])
    np.testing.assert_array_equal(filtered[1], alone[1])


def test_a_category_whose_rows_are_all_outliers_does_not_shift_the_scores_of_others(level: int) -> None:
    # 100 categories of one outlier each lie between the two that fill a block of 16 groups together: more places than a vector has lanes.
    _, target, key = draw()
    many = 101
    category = np.where(np.arange(LENGTH) < 4000, 0, many).astype(np.int32)
    lone = np.arange(100, 200)
    category[lone] = np.arange(1, many)
    key[lone] *= 40
    score = np.full((TARGETS, many + 1), -1000, dtype=np.float32)
    score[:, many] = 10
    keys = SearchKeys(key, category)
    assert_filter_finds_what_fp32_finds(level, target, keys, 50, category_score_NC=score)
    index, _ = search_topk(target, keys, 50, category_score_NC=score, backend="native")
    np.testing.assert_array_equal(index, search_topk(target, keys, 50, category_score_NC=score, backend="reference")[0])


def test_scores_closer_than_the_integers_can_tell_are_told_apart(level: int) -> None:
    # Pairs of neighbors in score, 200 of them a ten thousandth apart where one unit of the dot is a hundredth.
    rng, target, key = draw()
    direction = target.mean(axis=0) / np.linalg.norm(target.mean(axis=0))
    near = rng.choice(LENGTH, 200, replace=False)
    key[near] = 4 * direction + 1e-5 * rng.standard_normal((200, WIDTH)).astype(np.float32)
    assert_filter_finds_what_fp32_finds(level, target, SearchKeys(key), 50)


def test_the_residues_of_keys_use_up_the_bound(level: int) -> None:
    # Rows of one kind are rounded up in every dimension, the best row down: its dot is 14 / 14.4 of the bound below theirs.
    rng, _, _ = draw()
    sign = rng.choice([-1.0, 1.0], WIDTH)
    x = 127 * rng.permuted(np.tile(np.repeat([-1.0, 1.0], WIDTH // 2), (LENGTH, 1)), axis=1) * sign
    x[100:5000:100] = sign * 59.55
    x[5050] = sign * (np.where(np.arange(WIDTH) < 14, 59, 60) + 0.45)
    target = (np.arange(1, TARGETS + 1)[:, None] * sign).astype(np.float32)
    keys = SearchKeys((x / 8).astype(np.float32))
    assert_filter_finds_what_fp32_finds(level, target, keys, 1)
    np.testing.assert_array_equal(search_topk(target, keys, 1, backend="native")[0], 5050)


def test_the_residues_of_a_target_use_up_the_bound(level: int) -> None:
    # Keys are integers; what the target loses in rounding makes the best row worst: 889 / 914 of the bound. The other rows are
    # long enough that these are no outliers.
    rng, _, _ = draw()
    sign = rng.choice([-1.0, 1.0], 16)
    largest = 127 if level == native_library.LEVELS["avx512-vnni"] else 64
    x = 60 * rng.choice([-1.0, 1.0], (LENGTH, 17))
    x[:, 16] = -127
    x[100:5000:100] = -127 * np.append(sign, 0)
    x[5050] = 127 * np.append(sign, 0)
    one = np.append(sign * np.where(np.arange(16) < 7, -0.55, 0.45), largest)
    target = (np.arange(1, TARGETS + 1)[:, None] * one).astype(np.float32)
    keys = SearchKeys((x / 8).astype(np.float32))
    assert_filter_finds_what_fp32_finds(level, target, keys, 1)
    np.testing.assert_array_equal(search_topk(target, keys, 1, backend="native")[0], 5050)


def test_roundings_of_bias_and_category_score_add_up(level: int) -> None:
    # In units of the dot: 0.51 + 0.51 becomes 2, and the floor must still let 1 + 0.02 + 0.01 pass.
    largest = 127 if level == native_library.LEVELS["avx512-vnni"] else 64
    x = np.full((LENGTH, 2), (-127, 127), dtype=np.float32)
    bias, category = np.full(LENGTH, -300, dtype=np.float32), np.zeros(LENGTH, dtype=np.int32)
    x[100:5000:100, 1], bias[100:5000:100] = 0, 0.51
    x[5050, 1], bias[5050], category[5050] = 1, 0.02, 1
    target = np.full((TARGETS, 2), (largest, 1), dtype=np.float32)
    score = np.full((TARGETS, 2), (0.51, 0.01), dtype=np.float32)
    keys = SearchKeys(x, category)
    assert_filter_finds_what_fp32_finds(level, target, keys, 1, bias_L=bias, category_score_NC=score)
    np.testing.assert_array_equal(search_topk(target, keys, 1, bias_L=bias, category_score_NC=score, backend="native")[0], 5050)


@pytest.mark.parametrize("width", [16, 29, 64])
@pytest.mark.parametrize("bonus", [None, -3.0])
def test_several_of_the_best_in_one_group(level: int, width: int, bonus: float | None) -> None:
    # Wide dots find the best and the second best of a group at once. Row j shares its group with j + 512; one, two or all sixteen of a
    # group are the best, equal or a hair apart, and a bonus may take away the very best.
    rng, target, key = draw(width)
    groups = LENGTH // 16
    for g, sharing in enumerate(np.tile([1, 2, 3, 16], 5)):
        rows = g + groups * rng.permutation(16)[:sharing]
        key[rows] = 1.5 * target[g] * (1 + 1e-4 * rng.integers(0, 3, (sharing, 1)))
    named = np.argmax(target @ key.T, axis=1).astype(np.int32)
    given = {} if bonus is None else {"bonus": ItemBonus(np.arange(TARGETS + 1, dtype=np.int64), named, bonus)}
    for kept in (1, 2, 20):
        assert_filter_finds_what_fp32_finds(level, target, SearchKeys(key), kept, **given)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4, 1e9])
def test_bias_and_category_scores_of_any_size(level: int, size: float) -> None:
    # Up to a million units of the dot the bias is exact to a unit; beyond, it sets the unit.
    rng, target, key = draw()
    given = {
        "bias_L": (size * rng.standard_normal(LENGTH)).astype(np.float32),
        "category_score_NC": (size * rng.standard_normal((TARGETS, 40))).astype(np.float32),
    }
    keys = SearchKeys(key, rng.integers(0, 40, LENGTH).astype(np.int32))
    assert_filter_finds_what_fp32_finds(level, target, keys, 50, **given)


@pytest.mark.parametrize("value", [-5.0, -0.01, 0.01, 5.0])
def test_a_bonus_of_either_sign_on_the_best_rows(level: int, value: float) -> None:
    # A negative one takes away the very rows that stood for their groups, some of them twice.
    _, target, key = draw()
    best = np.argsort(-(target @ key.T), axis=1)[:, :60].astype(np.int32)
    named = np.concatenate([best, best[:, ::3]], axis=1)
    bonus = ItemBonus(np.arange(TARGETS + 1, dtype=np.int64) * named.shape[1], named.ravel(), value)
    assert_filter_finds_what_fp32_finds(level, target, SearchKeys(key), 50, bonus=bonus)


@pytest.mark.parametrize("width", [1, 3, 17, 300, 2048])
def test_the_widest_dots_stay_apart_from_rows_that_are_not_valid(level: int, width: int) -> None:
    # All bytes at their extremes: the largest integer dots that the width allows, of both signs.
    rng, target, _ = draw(width)
    key = (rng.choice([-1.0, 1.0], (LENGTH, 1)) * np.sign(target[:1])).astype(np.float32)
    key *= rng.uniform(0.9, 1, (LENGTH, 1)).astype(np.float32)
    assert_filter_finds_what_fp32_finds(level, np.sign(target), SearchKeys(key), 50, valid_L=rng.random(LENGTH) < 0.5)


def test_rows_appended_beyond_every_scale_are_found(level: int) -> None:
    rng, target, key = draw()
    keys = SearchKeys(key)
    assert native_backend.prepare(keys) is not None
    grown = keys.append((100 * rng.standard_normal((200, WIDTH))).astype(np.float32))
    assert_filter_finds_what_fp32_finds(level, target, grown, 50)
    assert grown.prepared_now is keys.prepared_now
