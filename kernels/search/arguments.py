"""One checked description of a search, the same for every backend."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kernels.checks import array, at_least, finite, within
from kernels.search.keys import ItemBonus, SearchKeys

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
_MOST = float(np.finfo(np.float32).max)
_MOST_KEPT = 2**28
"""Places in an answer, of 8 bytes each: more is a mistake, not a search."""


class SearchArguments(NamedTuple):
    """The arguments of `search_topk`, checked; optional ones are None."""

    target_NA: F32
    keys: SearchKeys
    k: int
    bias_L: F32 | None
    valid_L: npt.NDArray[np.bool_] | None
    category_L: I32 | None
    category_score_NC: F32 | None
    bonus: ItemBonus | None
    num_threads: int


def checked(
    attn_target_NA: F32,
    attn_behavior_LA: F32 | SearchKeys,
    k: int,
    bias_L: F32 | None,
    valid_L: npt.NDArray[np.bool_] | None,
    category_L: I32 | None,
    category_score_NC: F32 | None,
    bonus: ItemBonus | None,
    num_threads: int,
) -> SearchArguments:
    """Check every argument of `search_topk`. Raises: ValueError naming the argument and the value."""
    keys = attn_behavior_LA if isinstance(attn_behavior_LA, SearchKeys) else SearchKeys(attn_behavior_LA, category_L)
    length, width = keys.key_LA.shape
    target = array("attn_target_NA", attn_target_NA, np.float32, (None, width))
    finite("attn_target_NA", target)
    k = at_least("k", k, 1)
    if k * max(1, len(target)) > _MOST_KEPT:
        raise ValueError(f"k must be at most {_MOST_KEPT // max(1, len(target))} with {len(target)} targets, got {k}")
    num_threads = at_least("num_threads", num_threads, 1)
    if bias_L is not None:
        bias_L = array("bias_L", bias_L, np.float32, (length,))
        finite("bias_L", bias_L)
    if valid_L is not None:
        valid_L = array("valid_L", valid_L, np.bool_, (length,))
    category = keys.category_L if category_L is None else array("category_L", category_L, np.int32, (length,))
    if category_score_NC is not None:
        category_score_NC = array("category_score_NC", category_score_NC, np.float32, (len(target), None))
        finite("category_score_NC", category_score_NC)
        if category is None:
            raise ValueError("category_score_NC is given but neither category_L nor keys with categories are")
        within("category_L", category, 0, category_score_NC.shape[1])
    if bonus is not None:
        start = array("bonus.start_N1", bonus.start_N1, np.int64, (len(target) + 1,))
        index = array("bonus.index", bonus.index, np.int32, (None,))
        within("bonus.index", index, 0, length)
        if start[0] != 0 or start[-1] != len(index) or (np.diff(start) < 0).any():
            raise ValueError(f"bonus.start_N1 must rise from 0 to {len(index)}, got {start[0]}..{start[-1]}")
        if not abs(bonus.value) <= _MOST:
            raise ValueError(f"bonus.value must be finite in float32, got {bonus.value}")
        bonus = ItemBonus(start, index, float(bonus.value))
    used = category if category_score_NC is not None else None
    return SearchArguments(target, keys, k, bias_L, valid_L, used, category_score_NC, bonus, num_threads)
