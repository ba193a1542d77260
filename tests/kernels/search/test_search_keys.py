"""When keys are prepared, what they take, and scores beyond float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernels import ItemBonus, SearchKeys, native_library, search_topk
from kernels.search import native_backend
from tests.kernels.search.test_search_topk import EXACT, data_set


@pytest.fixture
def filters() -> None:
    able, reason = native_library.can_run()
    if not able or native_library.ready("search")[1] == 0:
        pytest.skip(f"no filter here: {reason}")


@pytest.mark.usefixtures("filters")
def test_targets_of_several_requests_add_up_until_the_keys_are_prepared() -> None:
    q, k = data_set("gaussian", 8, 2000, 16)
    keys = SearchKeys(k[:1500])
    search_topk(q, keys, 20)
    search_topk(q, keys, 20)
    grown = keys.append(k[1500:])
    assert keys.prepared_now is None and grown.prepared_now is None
    found = search_topk(q, grown, 20)
    assert keys.prepared_now is None and grown.prepared_now is not None
    np.testing.assert_array_equal(found[0], search_topk(q, k, 20, backend="reference")[0])


@pytest.mark.usefixtures("filters")
@pytest.mark.parametrize(("length", "width", "categories"), [(1000, 16, 0), (10_000, 33, 0), (5000, 8, 40), (20_000, 64, 300)])
def test_bytes_count_the_prepared_form_before_it_is_built(length: int, width: int, categories: int) -> None:
    rng = np.random.default_rng(length)
    key = rng.standard_normal((length, width)).astype(np.float32)
    keys = SearchKeys(key, rng.integers(0, categories, length).astype(np.int32) if categories else None)
    before = keys.nbytes
    assert native_backend.prepare(keys) is not None
    assert keys.nbytes - 16_384 <= before <= 1.1 * keys.nbytes
    few = SearchKeys(key[:999])
    assert few.nbytes == few.key_LA.nbytes and native_backend.prepare(few) is None


@pytest.mark.usefixtures("filters")
def test_prepared_rows_start_at_a_cache_line_and_leave_the_array_given_alone() -> None:
    memory = np.random.default_rng(0).standard_normal(2000 * 16 + 17).astype(np.float32)
    start = next(i for i in range(1, 17) if (memory.ctypes.data + 4 * i) % 64)
    key = memory[start : start + 2000 * 16].reshape(2000, 16)
    before = key.copy()
    keys = SearchKeys(key)
    held, _ = keys.placed
    native_backend.prepare(keys)
    (rows, place), grown = keys.placed, keys.append(key[:5])
    assert held is key and place % 64 == 0 and rows is keys.key_LA and grown.placed[1] % 64 == 0
    np.testing.assert_array_equal(keys.key_LA, before)
    np.testing.assert_array_equal(grown.key_LA, np.concatenate([before, before[:5]]))
    np.testing.assert_array_equal(key, before)


@pytest.mark.usefixtures("filters")
def test_keys_wider_than_the_filter_takes_are_refused_by_the_library_too() -> None:
    q, k = data_set("gaussian", 30, 1100, 2049)
    keys = SearchKeys(k)
    assert native_backend.prepare(keys) is None
    with pytest.raises(RuntimeError, match="keys that wide are not prepared"):
        native_backend._build(*native_library.ready("search"), keys)
    np.testing.assert_array_equal(search_topk(q, keys, 3)[0][:, 0], np.argmax(q @ k.T, axis=1))


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("prepared", [False, True])
def test_sums_beyond_float32_keep_their_order_and_their_rows(backend: str, prepared: bool) -> None:
    """An fp32 sum of bias, category score and bonus became infinite, and minus infinity was taken for a row that is not valid."""
    q, k = data_set("gaussian", 30, 1500, 8)
    category = np.arange(1500, dtype=np.int32) % 3
    bias = np.linspace(-3e38, -2e38, 1500, dtype=np.float32)
    arguments: dict[str, Any] = {
        "bias_L": bias,
        "category_score_NC": np.tile(np.array([-3e38, 1.0, 3e38], np.float32), (30, 1)),
        "bonus": ItemBonus(np.arange(31, dtype=np.int64), np.full(30, 0, np.int32), 3.3e38),
        "valid_L": np.arange(1500) % 7 != 0,
    }
    keys = SearchKeys(k, category)
    if prepared and native_library.can_run()[0]:
        native_backend.prepare(keys)
    for kept in (20, 1300):
        found, truth = (search_topk(q, keys, kept, backend=name, **arguments) for name in (backend, "reference"))
        np.testing.assert_array_equal(found[0], truth[0])
        np.testing.assert_array_equal(found[1], truth[1])


def test_a_bonus_beyond_float32_is_refused() -> None:
    bonus = ItemBonus(np.array([0, 1], np.int64), np.array([3], np.int32), 1e39)
    with pytest.raises(ValueError, match=r"bonus\.value must be finite in float32, got 1e\+39"):
        search_topk(np.ones((1, 2), np.float32), np.ones((5, 2), np.float32), 1, bonus=bonus)
