"""What the three queries keep equals loops: target, mean of the newest, mean of all; smallest Hamming distance, newest among equals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from model.config import ModelConfig, StageSpec
from tests.model.small_models import batch, made

KEPT, NEWEST = 8, 5
SEARCH = StageSpec("three_queries", {"bits": 10, "newest": NEWEST})
CONFIG = ModelConfig(attn_width=6, repr_width=6, kept=KEPT, tables="shared", search=SEARCH, hidden=(9, 4), mass=False, features=False)


@pytest.mark.parametrize("longest", [None, 12])
@pytest.mark.parametrize("length", [0, 1, KEPT - 1, KEPT, 40])
def test_it_keeps_what_the_loops_keep(length: int, longest: int | None) -> None:
    model = made(replace(CONFIG, longest=longest))
    b = batch(length, sorted({0, length // 2, length}))
    attn = model.views([b])[0].attn
    rows, planes = attn.behavior_LD.detach().numpy(), cast(Any, model.search).hashes.planes.numpy()
    kept = model.search(b, attn)
    size = min(KEPT, max(length, 1))
    assert kept.index_MK.shape == (len(attn.target_MD), 3 * size)
    for m, target in enumerate(attn.target_MD.detach().numpy()):
        seen = int(b.length_T[m // 3])
        visible = list(range(max(0, seen - (longest or seen)), seen))
        newest = visible[-NEWEST:]
        for segment, query in enumerate((target, *(rows[places].mean(axis=0) if places else target for places in (newest, visible)))):
            code = query @ planes >= 0
            distance = {j: int(((rows[j] @ planes >= 0) != code).sum()) for j in visible}
            expected = sorted(distance, key=lambda j, distance=distance: (distance[j], -j))[:KEPT]  # type: ignore[misc]
            part = slice(segment * size, (segment + 1) * size)
            valid = kept.valid_MK[m, part].numpy()
            found = kept.index_MK[m, part].numpy()[valid].tolist()
            assert found == sorted(expected, reverse=True), "newest first"
            assert valid.tolist() == sorted(valid.tolist(), reverse=True), "what is not valid comes last"


def test_later_behaviors_move_neither_mean() -> None:
    model = made(CONFIG)
    b, other = batch(60, [25]), batch(60, [25], seed=1)
    later = torch.arange(60) >= 25
    changed = replace(
        b, **{name: torch.where(later, getattr(other, name), getattr(b, name)) for name in ("item_L", "category_L", "item_key_L")}
    )
    first, second = (model.search(one, model.views([one])[0].attn) for one in (b, changed))
    assert torch.equal(first.index_MK, second.index_MK) and np.isfinite(first.score_MK.detach().numpy()).all()


def test_options_out_of_range_are_refused() -> None:
    for option, value in (("bits", 128), ("newest", 0)):
        with pytest.raises(ValueError, match=f"{option} must be an integer in"):
            made(replace(CONFIG, search=StageSpec("three_queries", {option: value})))
