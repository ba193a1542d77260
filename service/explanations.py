"""Which behaviors search kept for a candidate, as the caller is shown them."""

from __future__ import annotations

import numpy as np

from model.runtime import Kept
from model.user_state import UserState
from service.loading import Served
from service.schemas import Explanation


def explanations(model: Served, state: UserState, kept: Kept, rows: range | list[int]) -> list[list[Explanation]]:
    """The kept behaviors of the candidates at `rows`, heaviest first. An item that the artifact does not know has no id but its hash."""
    described = dict[int, tuple[str | None, str, int, dict[str, str]]]()
    for place in np.unique(kept.index_NE[rows]).tolist():
        if place >= 0:
            item_hash = int(state.item_hash_L[place])
            text = model.runtime.item_text(item_hash)
            described[place] = (model.runtime.item_id(item_hash), str(item_hash), int(state.timestamp_L[place]), text)
    index, score, weight = (array[rows].tolist() for array in (kept.index_NE, kept.score_NE, kept.weight_NE))
    shown = []
    for of_candidate in zip(index, score, weight, strict=True):
        explanation = []
        for place, kept_score, kept_weight in zip(*of_candidate, strict=True):
            if place >= 0:
                item_id, item_hash_text, timestamp, text = described[place]
                recency = state.length - place
                explanation.append(Explanation(item_id, item_hash_text, timestamp, recency, kept_score, kept_weight, text))
        shown.append(explanation)
    return shown
