"""Bad input of `kernels.gpu.search` is a ValueError that names the argument and the value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; `make test-gpu` runs these tests")
pytest.importorskip("triton", reason="triton is not installed; `make test-gpu` runs these tests")

from itertools import product

from kernels.gpu.keys import KEY_DTYPES, RaggedKeys, ragged_keys
from kernels.gpu.search import SameItemBonus, SearchTiling, SearchWorkspace, search_topk

INT32 = torch.int32
NAN = float("nan")


def keys(length: int = 5, width: int = 4, **change: Any) -> RaggedKeys:
    made = {"key_MA": torch.ones(length, width), "start_U1": torch.tensor([0, length], dtype=INT32), "longest": length}
    return RaggedKeys(**(made | change))


def long_keys() -> RaggedKeys:
    with torch.device("meta"):
        return RaggedKeys(torch.empty(2**23, 256), torch.empty(2, dtype=INT32), 2**23)


def search(**change: Any) -> Any:
    """A good call but for `change`. Nothing is launched: the checks come first."""
    arguments: dict[str, Any] = {
        "attn_target_TA": torch.ones(2, 4),
        "target_start_U1": torch.tensor([0, 2], dtype=INT32),
        "keys": keys(),
        "workspace": SearchWorkspace(keys(), 2, 2),
    }
    return lambda: search_topk(**(arguments | change))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (search(attn_target_TA=np.ones((2, 4))), "attn_target_TA must be a torch tensor, got ndarray"),
        (search(attn_target_TA=torch.ones(2, 3)), r"attn_target_TA must have shape \[2, 4\], got \[2, 3\]"),
        (search(attn_target_TA=torch.ones(4, 2).T), r"attn_target_TA must be contiguous, got strides \[1, 2\]"),
        (search(attn_target_TA=torch.ones(2, 4, device="meta")), "attn_target_TA must be on cpu, got meta"),
        (search(target_start_U1=torch.tensor([0, 2])), "target_start_U1 must have dtype torch.int32, got torch.int64"),
        (search(bias_M=torch.ones(4)), r"bias_M must have shape \[5\], got \[4\]"),
        (search(valid_M=torch.ones(5)), "valid_M must have dtype torch.bool, got torch.float32"),
        (search(category_M=torch.ones(5, dtype=INT32)), "category_M and category_score_TC must be given together"),
        (search(bonus=SameItemBonus(torch.ones(5, dtype=INT32), torch.ones(2, dtype=INT32), NAN)), "bonus.value must be finite, got nan"),
        (search(workspace=SearchWorkspace(keys(width=9), 2, 2)), "the workspace is for keys of .* 9, torch.float32"),
        (search(workspace=SearchWorkspace(keys(3), 2, 2)), "histories of at most 3, got keys whose longest is 5"),
        (lambda: SearchWorkspace(keys(), 2, 513), r"k must be in 1..512 on a GPU, got 513"),
        (lambda: SearchWorkspace(keys(), 2, 0), r"k must be in 1..512 on a GPU, got 0"),
        (lambda: SearchWorkspace(keys(), -1, 2), "num_targets must be at least 0, got -1"),
        (lambda: SearchWorkspace(keys(), 2, 5, most_targets=3), r"most_targets must be in 0..2, got 3"),
        (lambda: ragged_keys(torch.full((2, 3), NAN), [2]), r"attn_behavior_MA must be finite, got nan at \[0, 0\]"),
        (lambda: ragged_keys(torch.ones(2, 3), [1]), r"lengths must be at least 0 and sum to 2, got \[1\]"),
        (lambda: ragged_keys(torch.ones(2, 3), [2], torch.float64), "dtype must be one of .*, got torch.float64"),
        (lambda: ragged_keys(torch.ones(2, 300), [2]), r"key_MA must be 1..256 wide, got 300"),
        (lambda: keys(key_MA=torch.ones(5, 4, dtype=torch.int8)), "scale_UA belongs to int8 keys and to no others"),
        (lambda: keys(scale_UA=torch.ones(1, 4)), "scale_UA belongs to int8 keys and to no others, got keys of torch.float32"),
        (lambda: keys(longest=6), r"longest must be in 0..5, the rows of key_MA, got 6"),
        (lambda: SearchWorkspace(long_keys(), 2, 2), "a history must hold less than 2.31 numbers, got 8388608 keys of 256"),
        (lambda: keys(start_U1=torch.tensor([0], dtype=INT32)), "start_U1 must have at least 2 entries, got 1"),
    ],
)
def test_wrong_arguments_are_named(call: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        call()


def test_sizes_of_every_shape_fit_one_another() -> None:
    shapes = product((1, 16, 17, 64, 256), KEY_DTYPES, (1, 50, 100, 512), (1, 100, 1000, 5000), (10, 20_000, 10**6), (8, 9, 10))
    for width, dtype, k, targets, longest, generation in shapes:
        t = SearchTiling.choose(width, dtype, k, targets, min(targets, 100), longest, generation)
        assert t.a_pad >= width and t.a_pad % t.chunk == 0
        assert t.rescan % t.group == 0 and t.capacity >= t.k_pad + t.rescan + 8
        assert t.coarse >= 8 * t.k_pad or t.coarse >= 512
        # The list of lanes lies in the memory of the list of codes.
        assert 2 * t.capacity >= t.coarse <= 2**15
