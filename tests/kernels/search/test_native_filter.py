"""The 8-bit filter of the compiled search at every CPU level, against float64: exact whatever the data, the sizes and the extras."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from kernels import ItemBonus, SearchKeys, native_library, search_topk
from kernels.search import native_backend
from tests.kernels.search.test_search_topk import DATA, assert_same_search, data_set

LEVELS = [name for name, number in native_library.LEVELS.items() if number]
SCALAR = "scalar"


@pytest.fixture(params=[*LEVELS, SCALAR])
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A CPU level forced for one test; `scalar` has no filter and searches in fp32."""
    monkeypatch.setenv("DARE_CPU_LEVEL", request.param)
    able, reason = native_library.can_run()
    if not able:
        pytest.skip(reason)
    return str(request.param)


def filtered(key_LA: np.ndarray, level: str, category_L: np.ndarray | None = None) -> SearchKeys:
    """Keys that the next search will filter."""
    keys = SearchKeys(key_LA, category_L)
    prepared = native_backend.prepare(keys)
    assert (prepared is None) == (level == SCALAR)
    return keys


def searched(q: np.ndarray, keys: SearchKeys, kept: int, **extras: Any) -> tuple[np.ndarray, np.ndarray]:
    """A search of prepared keys that keeps few enough for the filter."""
    assert kept * native_backend._KEPT_SHARE <= keys.length
    return search_topk(q, keys, kept, backend="native", **extras)


def truth(q: np.ndarray, k: np.ndarray, kept: int, **extras: Any) -> tuple[np.ndarray, np.ndarray]:
    """The reference, a stable float64 sort, for all targets at once."""
    score_NL = q.astype(np.float64) @ k.astype(np.float64).T
    if (bias := extras.get("bias_L")) is not None:
        score_NL += bias
    if (of_category := extras.get("category_score_NC")) is not None:
        score_NL += of_category[:, extras["category_L"]]
    if (bonus := extras.get("bonus")) is not None:
        row = np.repeat(np.arange(len(q)), np.diff(bonus.start_N1))
        np.add.at(score_NL, (row, bonus.index), bonus.value)
    if (valid := extras.get("valid_L")) is not None:
        score_NL[:, ~valid] = -np.inf
    newest_first = score_NL[:, ::-1]
    order = np.argsort(-newest_first, axis=1, kind="stable")[:, :kept]
    score = np.take_along_axis(newest_first, order, axis=1)
    index = np.where(score > -np.inf, score_NL.shape[1] - 1 - order, -1)
    return index.astype(np.int32), score.astype(np.float32)


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize(("width", "kept"), [(16, 20), (32, 50), (7, 1), (64, 50)])
def test_ten_data_sets(level: str, name: str, width: int, kept: int) -> None:
    q, k = data_set(name, 33, 5001, width)
    found = searched(q, filtered(k, level), kept)
    assert_same_search(found, truth(q, k, kept), q, k)


@pytest.mark.parametrize("length", [1024, 1025, 2047, 4096, 5003])
@pytest.mark.parametrize("width", [1, 8, 24, 33, 100, 128, 256])
def test_integer_scores_give_the_same_sets_in_the_same_order(level: str, length: int, width: int) -> None:
    rng = np.random.default_rng(length * width)
    n = 21
    q = rng.integers(-2, 3, (n, width)).astype(np.float32)
    k = rng.integers(-2, 3, (length, width)).astype(np.float32)
    category = rng.integers(0, 6, length).astype(np.int32)
    every = {
        "bias_L": rng.integers(-3, 4, length).astype(np.float32),
        "valid_L": rng.random(length) < 0.8,
        "category_score_NC": rng.integers(-3, 4, (n, 6)).astype(np.float32),
        "bonus": ItemBonus(np.arange(0, 2 * n + 1, 2, dtype=np.int64), rng.integers(0, length, 2 * n).astype(np.int32), 3.0),
    }
    less = ItemBonus(every["bonus"].start_N1, every["bonus"].index, -3.0)  # type: ignore[attr-defined]
    for names in ((), ("bias_L",), ("valid_L", "bonus"), ("category_score_NC",), tuple(every)):
        extras: dict[str, Any] = {name: every[name] for name in names}
        with_categories = {"category_L": category} if "category_score_NC" in names else {}
        for bonus in [extras.get("bonus"), less] if "bonus" in names else [None]:
            given = extras | ({"bonus": bonus} if bonus is not None else {})
            keys = filtered(k, level, category if with_categories else None)
            found = searched(q, keys, 12, **given)
            wanted = truth(q, k, 12, **given, **with_categories)
            np.testing.assert_array_equal(found[0], wanted[0])
            np.testing.assert_array_equal(found[1], wanted[1])


@pytest.mark.parametrize("n", [1, 3, 4, 5, 31, 512, 4096])
def test_any_number_of_targets(level: str, n: int) -> None:
    rng = np.random.default_rng(n)
    few, k = rng.integers(-2, 3, (31, 16)).astype(np.float32), rng.integers(-2, 3, (1100, 16)).astype(np.float32)
    one_of = rng.integers(0, 31, n)
    found, wanted = searched(few[one_of], filtered(k, level), 20, num_threads=2), truth(few, k, 20)
    np.testing.assert_array_equal(found[0], wanted[0][one_of])
    np.testing.assert_array_equal(found[1], wanted[1][one_of])


def test_a_long_history_and_many_targets(level: str) -> None:
    q, k = data_set("gaussian", 65, 100_003, 16)
    bias = np.linspace(-2, 0, len(k), dtype=np.float32)
    found = searched(q, filtered(k, level), 128, bias_L=bias, num_threads=2)
    assert_same_search(found, truth(q, k, 128, bias_L=bias), q, k)


def test_all_behaviors_equal_keep_the_newest(level: str) -> None:
    k = np.ones((4000, 16), np.float32)
    index, score = searched(np.ones((30, 16), np.float32), filtered(k, level), 50)
    np.testing.assert_array_equal(index, np.broadcast_to(np.arange(3999, 3949, -1), (30, 50)))
    assert (score == 16.0).all()


def test_fewer_valid_behaviors_than_kept_leave_empty_places(level: str) -> None:
    q, k = data_set("gaussian", 30, 3000, 16)
    valid = np.zeros(3000, dtype=bool)
    valid[[5, 1717, 2999]] = True
    index, score = searched(q, filtered(k, level), 20, valid_L=valid)
    assert (np.sort(index[:, :3], axis=1) == [5, 1717, 2999]).all()
    assert (index[:, 3:] == -1).all() and np.isneginf(score[:, 3:]).all()


@pytest.mark.parametrize("added", [1, 200, 400])
def test_behaviors_appended_after_the_keys_were_prepared_compete(level: str, added: int) -> None:
    q, k = data_set("heavy tails", 40, 5000 + added, 16)
    keys = filtered(k[:5000], level).append(k[5000:])
    assert_same_search(searched(q, keys, 50), truth(q, k, 50), q, k)


def test_many_threads_search_keys_while_another_appends(level: str) -> None:
    q, k = data_set("gaussian", 40, 6000, 16)
    shared = [filtered(k[:2000], level)]
    failures: list[BaseException] = []

    def appends() -> None:
        for first in range(2000, 6000, 50):
            shared.append(shared[-1].append(k[first : first + 50]))

    def searches() -> None:
        try:
            for _ in range(25):
                keys = shared[-1]
                assert_same_search(searched(q, keys, 20), truth(q, k[: keys.length], 20), q, k)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work) for work in (appends, searches, searches, searches)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and shared[-1].length == 6000


def test_what_a_call_leaves_in_its_memory_does_not_reach_the_next(level: str) -> None:
    """Arenas are kept between calls: a call of another shape must not read what the last one left."""
    large = data_set("huge", 300, 9000, 64)
    small = data_set("gaussian", 25, 1100, 5)
    keys = filtered(small[1], level)
    alone = searched(small[0], keys, 9)
    searched(large[0], filtered(large[1], level), 100)
    again = searched(small[0], keys, 9)
    np.testing.assert_array_equal(alone[0], again[0])
    np.testing.assert_array_equal(alone[1], again[1])


def test_what_memory_held_before_does_not_matter(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers, room for rows and prepared forms are written before they are read. Arenas: `make sanitize` fills them."""
    q, k = data_set("outlier", 25, 3001, 18)
    alone, empty = searched(q, filtered(k, level), 9), np.empty

    def poisoned(*arguments: Any, **more: Any) -> np.ndarray:
        made = empty(*arguments, **more)
        made.reshape(-1).view(np.uint8)[:] = 0xA5
        return made

    monkeypatch.setattr(np, "empty", poisoned)
    keys = filtered(k[:2500], level).append(k[2500:])
    again = searched(q, keys, 9)
    np.testing.assert_array_equal(alone[0], again[0])
    np.testing.assert_array_equal(alone[1], again[1])
