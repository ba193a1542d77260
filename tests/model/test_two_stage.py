"""DARE equals the paper written out in float64 loops, at every length, and keeps its two embedding spaces apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.batch import UserBatch
from model.config import AUXILIARY, ModelConfig
from model.recency import MAX_LENGTH, NUM_BUCKETS, bucket_of_recency
from model.stages.pooling.target_attention import attention_mass, attention_weight
from model.stages.protocols import Kept
from model.stages.search.everything import Everything
from model.two_stage import TwoStageModel
from tests.model.small_models import CATEGORIES, ITEMS, batch, logits, made, moments
from tests.oracles import dare as oracle

KEPT = 20
TOLERANCE = 1e-11
"""Both sides are float64; only the order of summation differs."""

SMALL = ModelConfig(attn_width=5, repr_width=6, kept=KEPT, hidden=(9, 4), mass=False, same_item_bonus=False, features=False)
VARIANTS = {
    "as published": replace(SMALL, objectives=(AUXILIARY,)),
    "mass": replace(SMALL, mass=True),
    "bonus": replace(SMALL, same_item_bonus=True),
    "own category": replace(SMALL, same_category_bonus=True, mass=True),
    "mass, bonus, features": replace(SMALL, mass=True, same_item_bonus=True, features=True),
    "newest 40": replace(SMALL, longest=40, mass=True, objectives=(AUXILIARY,)),
}


def parameters(model: TwoStageModel) -> dict[str, oracle.F64]:
    """By the names of the paper's parts: attention and representation tables, bonus, the head and that of the auxiliary loss."""
    names = {"tables.0.": "attn.", "tables.1.": "repr.", "score.": "search.", "objectives.0.head.": "auxiliary_head."}
    found = {}
    for name, value in model.state_dict().items():
        prefix = next((prefix for prefix in names if name.startswith(prefix)), "")
        found[names.get(prefix, "") + name[len(prefix) :]] = value.detach().numpy()
    return found


def kept_of(model: TwoStageModel, b: UserBatch) -> Kept:
    return model.search(b, model.views([b])[0].attn)


def test_before_training_search_keeps_the_targets_own_items_first() -> None:
    torch.manual_seed(0)
    model = TwoStageModel(VARIANTS["bonus"], ITEMS, CATEGORIES, 0).eval()
    b = batch(1100, [700, 1100], candidates=20)
    kept = kept_of(model, b)
    own_ML = (b.item_key_L == b.target_key_TC.reshape(-1, 1)) & (b.recency_TL() >= 1).repeat_interleave(20, dim=0)
    assert own_ML.sum(dim=1).min() > 0
    found_M = own_ML.gather(1, kept.index_MK).sum(dim=1)
    assert torch.equal(found_M, own_ML.sum(dim=1).clamp_max(KEPT)) and model.score.bonus is not None and model.score.bonus < 1


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("length", [0, 1, KEPT - 1, KEPT, KEPT + 1, 63, 1100])
def test_logits_equal_the_paper(config: ModelConfig, length: int) -> None:
    num_features = 2 if config.features else 0
    model = made(config, num_features)
    seen = [length] if length > 100 else sorted({0, length // 3, length})
    b = batch(length, seen, num_features=num_features)
    expected = oracle.logits(parameters(model), moments(b), config.kept, config.longest, config.mass)
    np.testing.assert_allclose(logits(model, b), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("length", [0, 1, KEPT - 1, KEPT, KEPT + 1, 63])
def test_search_keeps_what_the_paper_keeps_with_its_weights(length: int) -> None:
    model = made(VARIANTS["mass, bonus, features"])
    b = batch(length, sorted({0, length // 2, length}))
    with torch.no_grad():
        kept = kept_of(model, b)
        weight, mass = attention_weight(kept).numpy(), attention_mass(kept).numpy()
        interest = model.pooling(b, kept, model.views([b])[0].content)
    for row, moment in enumerate(moments(b)):
        expected = oracle.attend(parameters(model), moment, KEPT)
        real = kept.valid_MK[row].numpy()
        order = np.argsort(-kept.score_MK[row].numpy()[real], kind="stable")
        # Behaviors with equal rows in one recency bucket tie: any order among them is right, so places are compared by what is there.
        places = kept.index_MK[row].numpy()[real].tolist()
        length = len(moment.behaviors)
        assert sorted(kept.recency_MK[row].numpy()[real].tolist()) == sorted(oracle.bucket(length - place) for place in expected.kept)
        assert sorted(moment.behaviors[place][:2] for place in places) == sorted(moment.behaviors[place][:2] for place in expected.kept)
        np.testing.assert_allclose(kept.score_MK[row].numpy()[real][order], expected.score, atol=TOLERANCE)
        np.testing.assert_allclose(weight[row][real][order], expected.weight, atol=TOLERANCE)
        assert weight[row][~real].sum() == 0
        np.testing.assert_allclose(interest[row].numpy(), expected.interest, atol=TOLERANCE)
        np.testing.assert_allclose(mass[row], expected.mass, atol=TOLERANCE)


@pytest.mark.parametrize("config", [VARIANTS["as published"], VARIANTS["newest 40"]], ids=["as published", "newest 40"])
def test_the_loss_is_both_cross_entropies_on_the_batchs_own_statistics(config: ModelConfig) -> None:
    model = made(config)
    batches = [batch(63, [5, 40, 63], seed=1), batch(0, [0], seed=2), batch(21, [21], seed=3)]
    every = [moment for b in batches for moment in moments(b)]
    label = [float(i % 3 == 0) for i in range(len(every))]
    values = parameters(model)
    expected = oracle.cross_entropy(
        oracle.logits(values, every, config.kept, config.longest, config.mass, training=True), label
    ) + oracle.cross_entropy(oracle.auxiliary_logits(values, every, config.longest, training=True), label)
    found = model.train().loss(batches, torch.tensor(label, dtype=torch.float64))
    assert float(found.detach()) == pytest.approx(expected, abs=1e-10)


def test_without_the_auxiliary_loss_there_is_one_cross_entropy() -> None:
    model = made(SMALL)
    b = batch(63, [5, 40, 63])
    label = [float(i % 3 == 0) for i in range(9)]
    expected = oracle.cross_entropy(oracle.logits(parameters(model), moments(b), KEPT, None, False, training=True), label)
    assert float(model.train().loss([b], torch.tensor(label, dtype=torch.float64)).detach()) == pytest.approx(expected, abs=1e-10)


def test_equal_behaviors_tie_without_changing_the_answer() -> None:
    """Far back, purchases of one item share a recency bucket: equal scores at the edge of the kept, whichever of them stay."""
    model = made(VARIANTS["mass, bonus, features"], 1)
    with torch.no_grad():
        model.score.bonus.fill_(50.0)  # the 300 purchases of the target's own item win every place
    b = batch(900, [900], candidates=1, num_features=1)
    own = {"item_L": b.target_item_TC, "category_L": b.target_category_TC, "item_key_L": b.target_key_TC}
    many = replace(b, **{name: getattr(b, name).index_fill(0, torch.arange(100, 400), int(value)) for name, value in own.items()})
    moment = moments(many)
    edge = oracle.attend(parameters(model), moment[0], KEPT).score[-1]
    assert oracle.scores(parameters(model), moment[0]).count(edge) > KEPT
    expected = oracle.logits(parameters(model), moment, KEPT, None, True)
    np.testing.assert_allclose(logits(model, many), expected, atol=TOLERANCE)


@pytest.mark.parametrize("length", [0, 3, 63])
def test_behaviors_after_the_history_change_nothing(length: int) -> None:
    """Neither padding nor another target's later behaviors compete for the kept or enter the softmax."""
    model = made(VARIANTS["mass"])
    b = batch(length + 40, [length])
    other = batch(length + 40, [length], seed=9)
    later = torch.arange(length + 40) >= length
    changed = replace(
        b,
        item_L=torch.where(later, other.item_L, b.item_L),
        category_L=torch.where(later, other.category_L, b.category_L),
        item_key_L=torch.where(later, other.item_key_L, b.item_key_L),
    )
    cut = replace(b, item_L=b.item_L[: length + 1], category_L=b.category_L[: length + 1], item_key_L=b.item_key_L[: length + 1])
    assert not torch.equal(changed.item_L, b.item_L)
    assert logits(model, b).tolist() == logits(model, changed).tolist()
    np.testing.assert_allclose(logits(model, cut), logits(model, b), atol=TOLERANCE)


def test_trap_1_padding_never_joins_the_softmax() -> None:
    """With three real behaviors and K = 20 the weights are those of three behaviors, whatever padding would have scored."""
    model = made(SMALL)
    b = batch(63, [3])
    with torch.no_grad():
        kept = kept_of(model, b)
        weight = attention_weight(kept)
    assert kept.valid_MK.sum(dim=1).tolist() == [3, 3, 3]
    assert ((weight > 0).sum(dim=1) == 3).all()
    np.testing.assert_allclose(weight.sum(dim=1), 1, atol=1e-14)


def test_trap_2_a_row_scores_the_same_whatever_travels_beside_it() -> None:
    model = made(VARIANTS["mass, bonus, features"], 2)
    b = batch(63, [5, 40, 63], num_features=2)
    alone = [
        replace(
            b,
            length_T=b.length_T[t : t + 1],
            target_item_TC=b.target_item_TC[t : t + 1, c : c + 1],
            target_category_TC=b.target_category_TC[t : t + 1, c : c + 1],
            target_key_TC=b.target_key_TC[t : t + 1, c : c + 1],
            extra_TCE=b.extra_TCE[t : t + 1, c : c + 1],
        )
        for t in range(3)
        for c in range(3)
    ]
    together = logits(model, b, batch(21, [21], num_features=2, seed=5))[:9]
    np.testing.assert_allclose([float(logits(model, one)[0]) for one in alone], together, atol=TOLERANCE)
    swapped = replace(
        b, extra_TCE=b.extra_TCE.flip(1), **{f"target_{n}_TC": getattr(b, f"target_{n}_TC").flip(1) for n in ("item", "category", "key")}
    )
    np.testing.assert_allclose(logits(model, swapped).reshape(3, 3)[:, ::-1], logits(model, b).reshape(3, 3), atol=TOLERANCE)


def test_trap_3_only_embeddings_are_drawn_from_the_normal_initialisation() -> None:
    model = TwoStageModel(VARIANTS["as published"], 5000, 50, 0)
    for head in (model.head, model.objectives[0].head):
        assert torch.equal(head.norm.weight, torch.ones_like(head.norm.weight))
        assert head.first_slope.weight.item() == head.second_slope.weight.item() == 0.25
        assert head.first.weight.abs().max() <= head.first.in_features**-0.5
    for tables in (model.attn, model.repr):
        assert tables.item.weight[2:].std().item() == pytest.approx(SMALL.init_std, rel=0.05)
        assert tables.item.weight[0].abs().sum() == tables.category.weight[0].abs().sum() == 0


def test_trap_5_time_is_the_place_from_the_end() -> None:
    """The published model reads no clock: a behavior's recency is its distance from the target, whatever the timestamps say."""
    b = batch(6, [2, 6])
    assert b.recency_TL().tolist() == [[2, 1, 0, -1, -2, -3], [6, 5, 4, 3, 2, 1]]
    model = made(VARIANTS["as published"])
    timed = replace(b, time_L=torch.arange(6) * 10**8, time_T=torch.tensor([10**9, 10**9]))
    assert logits(model, timed).tolist() == logits(model, b).tolist()


def test_scores_train_attention_tables_alone() -> None:
    model = made(VARIANTS["as published"])
    kept = kept_of(model, batch(63, [63]))
    kept.score_MK.square().sum().backward()
    assert all(table.weight.grad is not None and table.weight.grad.abs().sum() > 0 for table in (model.attn.item, model.attn.recency))
    assert all(value.grad is None for value in model.repr.parameters())


def test_content_trains_representation_tables_alone() -> None:
    model = made(VARIANTS["as published"])
    b = batch(63, [63])
    kept = kept_of(model, b)
    content = model.views([b])[0].content
    interest = model.pooling(b, replace(kept, score_MK=kept.score_MK.detach()), content)
    (interest.square().sum() + content.target_MR.square().sum()).backward()
    assert all(table.weight.grad is not None and table.weight.grad.abs().sum() > 0 for table in (model.repr.item, model.repr.recency))
    assert all(value.grad is None for value in model.attn.parameters())


def test_the_two_sets_share_no_memory_and_serve_both_sides() -> None:
    model = made(SMALL)
    assert not {p.data_ptr() for p in model.attn.parameters()} & {p.data_ptr() for p in model.repr.parameters()}
    b = batch(5, [5], candidates=1)
    before = logits(model, b)
    with torch.no_grad():
        model.repr.item.weight[b.target_item_TC[0, 0]] += 1.0
        model.repr.item.weight[b.item_L] += 1.0
    kept = oracle.attend(parameters(model), moments(b)[0], KEPT)
    assert logits(model, b) != before and kept.kept, "moved in representation space"
    np.testing.assert_allclose(logits(model, b), oracle.logits(parameters(model), moments(b), KEPT, None, False), atol=TOLERANCE)


def test_gradient_reaches_the_kept_scores_only() -> None:
    """Every behavior has an item of its own: only the kept ones' attention rows learn."""
    model = TwoStageModel(SMALL, 302, CATEGORIES, 0).double()
    one = torch.ones((1, 1), dtype=torch.int64)
    items = torch.arange(2, 302)
    b = UserBatch(items, torch.ones(300, dtype=torch.int64), items, torch.tensor([300]), one, one, one, torch.zeros((1, 1, 0)).double())
    kept = kept_of(model, b)
    kept.score_MK.sum().backward()
    grad = model.attn.item.weight.grad
    assert grad is not None and kept.index_MK.shape == (1, KEPT)
    assert set(grad.abs().sum(dim=1).nonzero().flatten().tolist()) - {1} == set(items[kept.index_MK[0]].tolist())


@pytest.mark.parametrize("length", [0, 2, 63])
def test_gradients_are_finite_at_every_length(length: int) -> None:
    model = made(VARIANTS["mass, bonus, features"], 1).train()
    batches = [batch(length, [0, length], num_features=1), batch(30, [30], num_features=1)]
    model.loss(batches, torch.tensor([1.0, 0.0, 0.0] * 3, dtype=torch.float64)).backward()
    assert all(value.grad is not None and bool(value.grad.isfinite().all()) for value in model.parameters())
    for table in (model.attn.item, model.attn.category, model.repr.item, model.repr.category):
        assert table.weight.grad is not None and table.weight.grad[0].abs().sum() == 0, "the padding row is never trained"


@pytest.mark.parametrize("kept", [63, 64, 1000])
def test_with_k_of_at_least_the_length_search_is_full_attention(kept: int) -> None:
    config = replace(VARIANTS["as published"], kept=kept)
    model = made(config).eval()
    b = batch(63, [10, 63])
    with torch.no_grad():
        view = model.views([b])[0]
        every = Everything(model.score)(b, view.attn)
        interest = model.pooling(b, every, view.content)
        full = model.head(view.content.target_MR, interest, model.mass(every), model.features(b))
    np.testing.assert_allclose(logits(model, b), full, atol=TOLERANCE)


@pytest.mark.parametrize("edge", [1, 31, 32, 33, 38, 39, 64, 65, 90, 91, 128, 2000, MAX_LENGTH])
def test_recency_bucket_at_known_places(edge: int) -> None:
    known = {1: 1, 31: 31, 32: 32, 33: 33, 38: 33, 39: 34, 64: 37, 65: 37, 90: 38, 91: 39, 128: 41, 2000: 56, MAX_LENGTH: 79}
    assert bucket_of_recency()[edge] == oracle.bucket(edge) == known[edge]


def test_recency_buckets_to_100_000_are_monotone_gapless_and_what_the_oracle_says() -> None:
    bucket = bucket_of_recency()
    assert len(bucket) == MAX_LENGTH + 1 == 100_001 and bucket[-1] == NUM_BUCKETS - 1
    assert bucket.tolist() == [oracle.bucket(p) for p in range(MAX_LENGTH + 1)]
    assert set(np.diff(bucket).tolist()) == {0, 1}
    assert not bucket.flags.writeable


def test_a_history_longer_than_any_bucket_is_cut_to_the_newest_100_000() -> None:
    """A user with 100,001 behaviors trains like the runtime serves: the oldest is out of reach, nothing fails."""
    model = made(VARIANTS["mass"])
    b = batch(MAX_LENGTH + 5, [MAX_LENGTH + 5], candidates=1)
    newest = replace(b, item_L=b.item_L[5:], category_L=b.category_L[5:], item_key_L=b.item_key_L[5:], length_T=b.length_T - 5)
    np.testing.assert_allclose(logits(model, b), logits(model, newest), atol=TOLERANCE)
