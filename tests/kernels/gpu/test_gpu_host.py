"""`search_topk(backend="triton")`, NumPy in and out, against the float64 reference: in Triton's interpreter, or on the device there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; `make test-gpu` runs these tests")
pytest.importorskip("triton", reason="triton is not installed; `make test-gpu` runs these tests")

from kernels import ItemBonus, SearchKeys, search_topk
from kernels.gpu import host

WIDTH = 8


def drawn(rows: int, seed: int, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def same(target: np.ndarray, keys: Any, k: int, **given: Any) -> None:
    """The device's answer is the reference's: which, in which order, and scores within the rounding of float32."""
    index, score = search_topk(target, keys, k, backend="triton", **given)
    true_index, true_score = search_topk(target, keys, k, backend="reference", **given)
    np.testing.assert_array_equal(index, true_index)
    np.testing.assert_allclose(score, true_score, rtol=0, atol=1e-5)
    assert index.dtype == np.int32 and score.dtype == np.float32 and index.flags.writeable


@pytest.mark.parametrize(("length", "count", "k"), [(0, 3, 5), (5, 0, 2), (1, 1, 1), (7, 2, 20), (300, 17, 33), (257, 3, 512)])
def test_shapes(length: int, count: int, k: int) -> None:
    same(drawn(count, 1), drawn(length, 2), k)


def test_every_term() -> None:
    length, count, rng = 290, 9, np.random.default_rng(0)
    item = rng.integers(0, 40, length)
    own = [np.flatnonzero(item == i).astype(np.int32) for i in [3, 7, 3, 41, 0, 42, 7, 39, 1]]
    assert not len(own[3])
    start = np.array([0, *np.cumsum([len(each) for each in own])], np.int64)
    bonus = ItemBonus(start, np.concatenate(own), 1.5)
    key, category = drawn(length, 3), rng.integers(0, 6, length).astype(np.int32)
    given = {"bias_L": drawn(length, 4)[:, 0].copy(), "valid_L": rng.random(length) < 0.8}
    same(drawn(count, 5), key, 20, **given)
    same(drawn(count, 5), key, 20, **given, bonus=bonus)
    same(drawn(count, 5), SearchKeys(key, category), 20, **given, bonus=bonus, category_score_NC=drawn(count, 6)[:, :6].copy())


def test_equal_scores_go_to_the_newer() -> None:
    key = np.repeat(np.eye(4, dtype=np.float32), 80, axis=0)
    same(np.array([[1, 2, 3, 4], [0, 0, 0, 0]], np.float32), key, 100)


def test_keys_without_numbers() -> None:
    same(np.zeros((2, 0), np.float32), np.zeros((9, 0), np.float32), 4)


def test_targets_in_several_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_MOST_TARGETS", 4)
    item = np.arange(60) % 9
    own = [np.flatnonzero(item == n % 9).astype(np.int32) for n in range(11)]
    start = np.array([0, *np.cumsum([len(each) for each in own])], np.int64)
    bonus = ItemBonus(start, np.concatenate(own), -0.5)
    same(drawn(11, 1), drawn(60, 2), 7, bonus=bonus, bias_L=drawn(60, 3)[:, 0].copy())


def copied(keys: SearchKeys) -> Any:
    held = keys.on_device
    assert isinstance(held, host.OnDevice)
    return held.rows


def test_appended_keys_follow_the_older_ones_to_the_device() -> None:
    target, keys = drawn(3, 1), SearchKeys.joined([drawn(400, 2)])
    same(target, keys, 10)
    first = copied(keys)
    grown = keys
    for seed in range(6):
        grown = grown.append(drawn(5 + seed, 10 + seed), drop=seed % 3)
        same(target, grown, 10)
        assert copied(grown) is first
    assert grown.dropped == 6
    same(target, keys, 10)
    other = keys.append(drawn(4, 99))  # another history that began as the same one: the room behind it is taken
    same(target, other, 10)
    assert copied(other) is not first
    same(target, grown, 10)


def test_keys_outgrow_their_room() -> None:
    keys = SearchKeys.joined([drawn(40, 2)])
    same(drawn(2, 1), keys, 10)
    longer = keys.append(drawn(400, 3))
    same(drawn(2, 1), longer, 10)
    assert copied(longer) is not copied(keys)


def test_keys_that_were_not_searched_for_long_make_room_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    several = [SearchKeys(drawn(100 + n, n)) for n in range(3)]
    size = (102 + 102 // 8 + 256) * WIDTH * 4
    memory = host._Memory(2 * size)
    monkeypatch.setattr(host, "_memory", lambda: memory)
    target = drawn(2, 9)
    for n in (0, 1, 0, 2):
        same(target, several[n], 5)
    assert [copied(keys).key is None for keys in several] == [False, True, False]
    same(target, several[1], 5)
    assert [copied(keys).key is None for keys in several] == [True, False, False]
    several.pop()
    same(target, several[0], 5)
    assert [copied(keys).key is None for keys in several] == [False, False]


def test_larger_than_all_memory_is_searched_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = host._Memory(1)
    monkeypatch.setattr(host, "_memory", lambda: memory)
    keys = SearchKeys(drawn(50, 1))
    same(drawn(2, 2), keys, 5)
    first = copied(keys)
    same(drawn(2, 2), keys.append(drawn(3, 3)), 5)
    assert copied(keys) is first and first.key is not None


def test_bad_input_is_named() -> None:
    target, key = drawn(2, 1), drawn(20, 2)
    ask = {"backend": "triton"}
    for size, index in ((2, [0, 1, 1, 2]), (2, [0, 1, 0, 0]), (2, [0, 1, 0, 2]), (1, [0, 0, 1, 2])):
        bonus = ItemBonus(np.array([0, size, 4], np.int64), np.array(index, np.int32), 1.0)
        with pytest.raises(ValueError, match="whole items"):
            search_topk(target, key, 5, bonus=bonus, **ask)
    with pytest.raises(ValueError, match="1e\\+37"):
        search_topk(target * np.float32(1e30), key * np.float32(1e20), 5, **ask)
    keys = SearchKeys(key)
    search_topk(target, keys, 5, **ask)
    with pytest.raises(ValueError, match="1e\\+37"):
        search_topk(target, keys.append(np.full((1, WIDTH), 1e37, np.float32)), 5, **ask)
    with pytest.raises(RuntimeError, match="k must be at most 512 on a GPU, got 513"):
        search_topk(target, key, 513, **ask)
    with pytest.raises(RuntimeError, match="at most 256 wide on a GPU, got 257"):
        search_topk(drawn(2, 1, 257), drawn(3, 2, 257), 1, **ask)
