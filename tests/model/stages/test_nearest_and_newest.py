"""What the search keeps equals loops: the newest, and of the older ones the nearest by content, newer first among equals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.config import ModelConfig, StageSpec
from tests.model.small_models import batch, made
from tests.model.test_two_stage import KEPT, SMALL

NEWEST = 6
SEARCH = StageSpec("nearest_and_newest", {"newest": NEWEST})
CONFIG = replace(SMALL, attn_width=6, tables="shared", search=SEARCH)


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, longest=31), replace(CONFIG, longest=4)], ids=["all", "31", "4"])
@pytest.mark.parametrize("length", [0, 1, NEWEST, NEWEST + 1, KEPT, KEPT + NEWEST, 63, 300])
def test_it_keeps_what_the_loops_keep(config: ModelConfig, length: int) -> None:
    model = made(config)
    b = batch(length, sorted({0, length // 2, length}))  # 60 items in up to 300 behaviors: many equal contents
    attn = model.views([b])[0].attn
    kept = model.search(b, attn)
    assert kept.index_MK.shape[1] == min(KEPT, max(length, 1)) + NEWEST
    for m, target in enumerate(attn.target_MD.detach().numpy()):
        seen = int(b.length_T[m // 3])
        visible = range(max(0, seen - (config.longest or seen)), seen)
        newest = [j for j in visible if seen - j <= NEWEST]
        near = {j: float(np.dot(target, attn.behavior_LD[j].detach().numpy())) for j in visible if j not in newest}
        nearest = sorted(near, key=lambda j, near=near: (-round(near[j], 9), -j))[:KEPT]  # type: ignore[misc]
        found = kept.index_MK[m][kept.valid_MK[m]].tolist()
        assert sorted(found) == sorted(newest + nearest), "each behavior once"
    assert torch.equal(torch.isfinite(kept.score_MK), kept.valid_MK)


def test_it_needs_at_least_one_newest() -> None:
    with pytest.raises(ValueError, match="newest must be at least 1, got 0"):
        made(replace(CONFIG, search=StageSpec("nearest_and_newest", {"newest": 0})))
