"""Each published mechanism equals loops in float64, and known settings make one mechanism another."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from model.batch import UserBatch
from model.config import ModelConfig, StageSpec
from model.rivals import rival
from model.stages.hashing import Hyperplanes
from model.tables import Rows
from model.two_stage import TwoStageModel
from tests.model.small_models import batch, logits, made
from tests.oracles import dare, rivals

KEPT, SHORT = 20, 20
TOLERANCE = 1e-11
SMALL = ModelConfig(attn_width=6, repr_width=6, kept=KEPT, hidden=(9, 4), mass=False, same_item_bonus=False, features=False)
WIDTH = 3 * 6
LENGTHS = [0, 1, KEPT - 1, KEPT, KEPT + 1, 63]
F64 = np.ndarray[Any, np.dtype[np.float64]]


class Moment:
    """One target at one moment, as the oracles read it."""

    def __init__(self, model: TwoStageModel, b: UserBatch, t: int, c: int) -> None:
        with torch.no_grad():
            view = model.views([b])[0]
        rows, row, length = view.content.rows, t * b.target_item_TC.shape[1] + c, int(b.length_T[t])
        recency = view.content.recency_PD.detach().numpy()
        self.u: F64 = view.content.target_MR[row].numpy()
        self.target: F64 = rows.target_MD[row].numpy()
        self.behaviors: list[F64] = [rows.behavior_LD[place].numpy() for place in range(length)]
        self.content = [np.concatenate([r, recency[dare.bucket(length - place)]]) for place, r in enumerate(self.behaviors)]
        self.categories: list[int] = b.category_L[:length].tolist()
        self.category = int(b.target_category_TC[t, c])

    def of(self, places: list[int]) -> list[F64]:
        return [self.content[place] for place in places]

    def newest(self, size: int) -> list[F64]:
        return self.content[::-1][:size]


def weights(model: TwoStageModel) -> dict[str, F64]:
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def check(model: TwoStageModel, expected: Callable[[Moment], F64], length: int) -> None:
    """The interest of every moment is what the oracle says."""
    b = batch(length, sorted({0, length // 2, length}))
    with torch.no_grad():
        found = model.interest(model.views([b])[0])[1].reshape(*b.target_item_TC.shape, -1)
    for t in range(found.shape[0]):
        for c in range(found.shape[1]):
            np.testing.assert_allclose(found[t, c].numpy(), expected(Moment(model, b, t, c)), rtol=0, atol=TOLERANCE)


def multi_head(model: TwoStageModel, moment: Moment, long: list[F64], num_heads: int, values: bool) -> F64:
    w, found = weights(model), []
    for name, content in (("long", long), ("short_heads", moment.newest(SHORT))):
        p = {part: w.get(f"pooling.{name}.{part}.weight") for part in ("query", "key", "value", "out")}
        pooled = rivals.heads(moment.u, content, p["query"], p["key"], num_heads)
        found.append(rivals.joined(pooled, p["value"], p["out"]) if values else np.concatenate(pooled))
    return np.concatenate(found)


@pytest.mark.parametrize("length", LENGTHS)
def test_mean_pool_is_the_mean(length: int) -> None:
    check(made(rival("mean_pool", SMALL)), lambda m: rivals.mean(m.content, WIDTH), length)


@pytest.mark.parametrize("length", LENGTHS)
def test_sim_hard_attends_to_the_newest_of_the_category(length: int) -> None:
    model = made(rival("sim_hard", replace(SMALL, kept=4)))
    check(model, lambda m: multi_head(model, m, m.of(rivals.newest_of_category(m.categories, m.category, 4)), 2, False), length)


@pytest.mark.parametrize("length", LENGTHS)
def test_sim_soft_attends_to_the_highest_products(length: int) -> None:
    model = made(rival("sim_soft", SMALL))
    w = weights(model)

    def expected(m: Moment) -> F64:
        maps = w["search.target.weight"], w["search.behavior.weight"]
        score = [round(rivals.product(m.target, row, *maps) * 2**20) for row in m.behaviors]  # equal within 2^-20 is equal
        return multi_head(model, m, m.of(rivals.best_then_newest(score, KEPT)), 2, False)

    check(model, expected, length)


def test_the_loss_of_sims_search_reads_the_sum_of_all_behaviors_by_score() -> None:
    model = made(rival("sim_soft", SMALL)).eval()
    w, b = weights(model), batch(63, [5, 63])
    maps = w["search.target.weight"], w["search.behavior.weight"]
    x = []
    for t in range(2):
        for c in range(3):
            m = Moment(model, b, t, c)
            g = rivals.scored_sum(lambda row, m=m: rivals.product(m.target, row, *maps), m.behaviors, m.content, WIDTH)  # type: ignore[misc]
            x.append(np.concatenate([m.u, g, m.u * g]))
    parameters = {f"gsu.{name.removeprefix('objectives.0.head.')}": value for name, value in w.items() if "objectives.0.head." in name}
    expected = dare.head(parameters, "gsu", np.array(x), training=False)
    found = model.objectives[0].logits(model.views([b])).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("length", LENGTHS)
def test_eta_attends_to_the_nearest_fingerprints(length: int) -> None:
    model = made(rival("eta", SMALL))
    planes = weights(model)["search.hashes.planes"]

    def expected(m: Moment) -> F64:
        wanted = rivals.fingerprint(m.target, planes)
        score = [-float(rivals.distance(wanted, rivals.fingerprint(row, planes))) for row in m.behaviors]
        return multi_head(model, m, m.of(rivals.best_then_newest(score, KEPT)), 4, True)

    check(model, expected, length)


@pytest.mark.parametrize("length", LENGTHS)
def test_sdim_sums_the_targets_buckets(length: int) -> None:
    model = made(rival("sdim", SMALL))
    planes = weights(model)["pooling.hashes.planes"]
    check(model, lambda m: rivals.hash_buckets(m.target, m.behaviors, m.content, planes, 3, WIDTH), length)


def copied(target: TwoStageModel, source: TwoStageModel, renamed: dict[str, str]) -> TwoStageModel:
    """`target` with the values of `source`, by name, some under another name of the source."""
    state = source.state_dict()
    for name in target.state_dict():
        new = next((name.replace(old, other, 1) for old, other in renamed.items() if name.startswith(old)), name)
        if new in state:
            target.state_dict()[name].copy_(state[new])
    return target


def same(first: TwoStageModel, second: TwoStageModel, b: UserBatch | None = None) -> None:
    for moment in (batch(63, [5, 40, 63]), batch(0, [0])) if b is None else (b,):
        np.testing.assert_allclose(logits(first, moment), logits(second, moment), rtol=0, atol=TOLERANCE)


def test_dare_with_tied_tables_is_twin() -> None:
    twin = made(rival("twin", SMALL))
    same(copied(made(SMALL, seed=1), twin, {"tables.1.": "tables.0."}), twin)


def test_twin_4e_with_equal_tables_is_dare() -> None:
    one = made(SMALL)
    names = {f"tables.{i}.{side}.": f"tables.{i}." for i in (0, 1) for side in ("behavior", "target")}
    same(copied(made(rival("twin_4e", SMALL), seed=1), one, names), one)


def test_twin_proj_with_identity_maps_is_twin() -> None:
    twin, projected = made(rival("twin", SMALL)), made(rival("twin_proj", SMALL), seed=1)
    copied(projected, twin, {})
    with torch.no_grad():
        for name, value in projected.named_parameters():
            if name.startswith(("tables.1.", "tables.2.")):
                torch.nn.init.eye_(value)
    same(projected, twin)


def test_twin_hard_where_all_is_one_category_and_kept_is_twin() -> None:
    twin = made(rival("twin", replace(SMALL, kept=64)))
    hard = copied(made(rival("twin_hard", replace(SMALL, kept=64)), seed=1), twin, {})
    b = batch(63, [5, 40, 63])
    one = replace(b, category_L=torch.full_like(b.category_L, 3), target_category_TC=torch.full_like(b.target_category_TC, 3))
    same(hard, twin, one)
    with pytest.raises(AssertionError):
        same(hard, twin, b)


@pytest.mark.parametrize("name", ["twin", "sim_soft", "eta"])
def test_a_search_that_keeps_all_is_no_search(name: str) -> None:
    searched = made(rival(name, replace(SMALL, kept=64)))
    same(copied(made(replace(searched.config, search=StageSpec("everything"), objectives=()), seed=1), searched, {}), searched)


def test_one_head_of_identity_maps_is_plain_attention() -> None:
    """Attention with target and behaviors as they are, scaled by their width."""
    options = {"heads": 1, "head_width": WIDTH, "short": 0}
    model = made(replace(rival("twin", SMALL), search=StageSpec("everything"), pooling=StageSpec("multi_head", options), objectives=()))
    with torch.no_grad():
        for part in ("query", "key", "value", "out"):
            torch.nn.init.eye_(getattr(model.pooling.long, part).weight)

    def plain(m: Moment) -> F64:
        power = [math.exp(float(m.u @ row) / math.sqrt(WIDTH)) for row in m.content]
        return sum((p / sum(power) * row for p, row in zip(power, m.content, strict=True)), np.zeros(WIDTH))

    check(model, plain, 63)


def test_a_vector_has_no_distance_to_itself_and_every_bit_to_its_opposite() -> None:
    search = made(rival("eta", SMALL)).search
    row = torch.randn(5, 12, dtype=torch.float64)
    equal = search.equal_bits(Rows(torch.cat([row, -row]), row))
    assert equal[:, :5].diagonal().tolist() == [64.0] * 5 and equal[:, 5:].diagonal().tolist() == [0.0] * 5


@pytest.mark.parametrize("name", ["eta", "sim_soft"])
def test_among_equals_the_newest_are_kept(name: str) -> None:
    model = made(rival(name, replace(SMALL, kept=4)))
    b = batch(63, [50])
    names = ("item_L", "category_L", "item_key_L")
    repeats = replace(b, **{field: torch.full_like(getattr(b, field), 2) for field in names})
    with torch.no_grad():
        kept = model.search(repeats, model.views([repeats])[0].attn)
    assert kept.index_MK.sort(dim=1).values.tolist() == [[46, 47, 48, 49]] * 3


def test_hyperplanes_come_from_the_seed_and_travel_with_the_model() -> None:
    first, again, other = Hyperplanes(6, 8, 0), Hyperplanes(6, 8, 0), Hyperplanes(6, 8, 1)
    assert torch.equal(first.planes, again.planes) and not torch.equal(first.planes, other.planes)
    assert "search.hashes.planes" in made(rival("eta", SMALL)).state_dict()
    row = torch.randn(1000, 6)
    assert torch.equal(first(row), first(row.double())), "the sign does not depend on the precision"


def test_search_over_all_needs_a_search_that_scores_all() -> None:
    with pytest.raises(ValueError, match="needs a search that scores every behavior, not 'category'"):
        made(replace(rival("sim_soft", SMALL), search=StageSpec("category")))


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("search", StageSpec("simhash", {"bits": 128}), r"bits must be an integer in 1\.\.127, got 128"),
        ("search", StageSpec("simhash", {"seed": -1}), "seed must be"),
        ("pooling", StageSpec("hash_bucket", {"hashes": 0}), "hashes must be"),
        ("pooling", StageSpec("hash_bucket", {"bits": "3"}), "bits must be an integer, got '3'"),
        ("pooling", StageSpec("multi_head", {"heads": 0}), "heads must be"),
        ("pooling", StageSpec("multi_head", {"values": 1}), "values must be true or false, got 1"),
        ("objective", StageSpec("search_over_all", {"first": 0}), "first must be at least 1, got 0"),
    ],
)
def test_bad_options_are_refused_by_name(kind: str, spec: StageSpec, message: str) -> None:
    from model.stages.registry import configured

    with pytest.raises(ValueError, match=message):
        configured(kind, spec)
