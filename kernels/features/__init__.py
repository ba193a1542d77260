"""The head's extra inputs for one user's candidates: counts, ages, statistics, taste and popularity (named in model/features.py)."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from kernels.backends import chosen
from kernels.checks import array, within
from kernels.features import native_backend, reference
from kernels.features.arguments import F32, NUM_FEATURES, HistoryFacts, ItemFacts, KeyRecords
from kernels.features.native_backend import I32

__all__ = ["NUM_FEATURES", "HistoryFacts", "ItemFacts", "KeyRecords", "candidate_features", "features_backends"]

_BACKENDS: dict[str, ModuleType] = {"native": native_backend, "reference": reference}


def features_backends() -> dict[str, tuple[bool, str]]:
    """Every backend, whether it can run here, and why or why not; the first that can is what "auto" uses."""
    return {name: backend.can_run() for name, backend in _BACKENDS.items()}


def candidate_features(
    history: HistoryFacts, items: ItemFacts, place_N: I32, item_N: I32, category_N: I32, now_s: int, *, backend: str = "auto"
) -> F32:
    """Extra inputs of N candidates of one user at one time.

    Args:
        place_N: int32 [N], the candidate's row in `items`; anything outside 0..I-1 is the item nobody knows.
        item_N, category_N: int32 [N], the record of the candidate's item in `history.items` and of its category in
            `history.categories`; -1: never seen.
        now_s: unix seconds of the request, 0..2^53-1.
        backend: "auto" or a name of `features_backends()`.
    Returns: f32 [N, NUM_FEATURES].
    Raises: ValueError for another dtype or shape, a record that is not there, or an unknown backend; RuntimeError when the named backend
    cannot run, with the reason.
    """
    place = array("place_N", place_N, np.int32, (None,))
    item = array("item_N", item_N, np.int32, place.shape)
    category = array("category_N", category_N, np.int32, place.shape)
    within("item_N", item, -1, len(history.items))
    within("category_N", category, -1, len(history.categories))
    if history.profile_ST.shape[1] != items.taste.shape[1]:
        raise ValueError(f"profile_ST must have the width {items.taste.shape[1]} of taste, got {history.profile_ST.shape[1]}")
    if not 0 <= now_s < 2**53:
        raise ValueError(f"now_s must be in 0..{2**53 - 1}, got {now_s}")
    value: F32 = chosen("features", _BACKENDS, backend).features(history, items, place, item, category, now_s)
    return value
