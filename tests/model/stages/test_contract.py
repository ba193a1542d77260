"""What every model promises, whatever its stages: run for each name in RIVALS, with mass, bonus, features and auxiliary loss."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from model.batch import UserBatch
from model.config import AUXILIARY, ModelConfig, from_dict
from model.dataset import prepare
from model.export import export
from model.item_hash import hash_item_ids
from model.rivals import RIVALS, rival
from model.runtime import ScoringRuntime
from model.stages.registry import configured, scoring_path
from model.train import Trained, build, predict
from model.two_stage import TwoStageModel
from service.memory_store import MemoryStore
from service.settings import Settings
from tests.conftest import Tiny, read_tidy, tiny_config, write_tidy
from tests.model.small_models import CATEGORIES, ITEMS, batch, logits, made
from tests.model.test_runtime_parity import every_length, with_histories, worst_difference
from tests.service.conftest import Server

KEPT = 20
LENGTHS = [0, 1, KEPT - 1, KEPT, KEPT + 1, 63]
TOLERANCE = 1e-11
"""Both sides are float64; only the order of summation differs."""
SIZES = ModelConfig(attn_width=5, repr_width=6, kept=KEPT, hidden=(9, 4))
PLAIN = replace(SIZES, mass=False, same_item_bonus=False, features=False, objectives=(AUXILIARY,))
FULL = replace(SIZES, objectives=(AUXILIARY,))
every_rival = pytest.mark.parametrize("name", RIVALS)


@lru_cache
def _made(text: str) -> TwoStageModel:
    config: ModelConfig = from_dict(ModelConfig, json.loads(text))
    return made(config, 2 if config.features else 0)


def model_of(name: str, base: ModelConfig = FULL) -> TwoStageModel:
    """A float64 model far from its initialisation; shared, so it must not be changed."""
    return _made(json.dumps(asdict(rival(name, base))))


def moments_of(length: int, seen: list[int], seed: int = 0) -> UserBatch:
    return batch(length, seen, num_features=2, seed=seed)


def with_candidates(b: UserBatch, rows: slice, order: torch.Tensor) -> UserBatch:
    """Some of the moments, and of their candidates."""
    names = ("target_item_TC", "target_category_TC", "target_key_TC", "extra_TCE")
    return replace(b, length_T=b.length_T[rows], **{name: getattr(b, name)[rows][:, order] for name in names})


def with_others_after(b: UserBatch, length: int) -> UserBatch:
    """The same batch with other behaviors after the first `length`."""
    other = batch(len(b.item_L), [0], seed=9)
    later = torch.arange(len(b.item_L)) >= length
    names = ("item_L", "category_L", "item_key_L")
    return replace(b, **{name: torch.where(later, getattr(other, name), getattr(b, name)) for name in names})


@every_rival
@pytest.mark.parametrize("length", LENGTHS)
def test_every_length_has_a_finite_logit_for_every_candidate(name: str, length: int) -> None:
    found = logits(model_of(name), moments_of(length, sorted({0, length // 2, length})))
    assert found.shape == (3 * len({0, length // 2, length}),) and np.isfinite(found).all()


@every_rival
@pytest.mark.parametrize("length", [0, 3, KEPT, 63])
def test_what_comes_after_the_history_changes_nothing(name: str, length: int) -> None:
    """Neither padding nor later behaviors that the target must not see compete, count or are attended to."""
    model = model_of(name)
    b = moments_of(length + 40, [length])
    cut = replace(b, item_L=b.item_L[: length + 1], category_L=b.category_L[: length + 1], item_key_L=b.item_key_L[: length + 1])
    padding = torch.arange(length + 40) >= length
    padded = replace(b, item_L=b.item_L.masked_fill(padding, 0), category_L=b.category_L.masked_fill(padding, 0))
    for same in (with_others_after(b, length), cut, padded):
        np.testing.assert_allclose(logits(model, same), logits(model, b), rtol=0, atol=TOLERANCE)


@every_rival
def test_what_is_older_than_the_longest_history_changes_nothing(name: str) -> None:
    model = model_of(name, replace(FULL, longest=30))
    b = moments_of(63, [50])
    old = torch.arange(63) < 20
    other = replace(b, **{field: getattr(b, field).masked_fill(old, 2) for field in ("item_L", "category_L", "item_key_L")})
    np.testing.assert_allclose(logits(model, other), logits(model, b), rtol=0, atol=TOLERANCE)


@every_rival
def test_a_row_scores_the_same_whatever_travels_beside_it(name: str) -> None:
    model = model_of(name)
    b, other = moments_of(63, [5, 40, 63]), moments_of(21, [21], seed=5)
    together = logits(model, b, other)[:9].reshape(3, 3)
    for t in range(3):
        for c in range(3):
            alone = with_candidates(b, slice(t, t + 1), torch.tensor([c]))
            np.testing.assert_allclose(logits(model, alone)[0], together[t, c], rtol=0, atol=TOLERANCE)
    order = torch.tensor([2, 0, 1])
    swapped = logits(model, with_candidates(b, slice(None), order)).reshape(3, 3)
    np.testing.assert_allclose(swapped, together[:, order.numpy()], rtol=0, atol=TOLERANCE)


@every_rival
@pytest.mark.parametrize("length", [0, 2, KEPT + 1])
def test_gradients_are_finite_and_never_reach_padding(name: str, length: int) -> None:
    model = model_of(name).train()
    model.zero_grad()
    batches = [moments_of(length, [0, length]), moments_of(30, [30])]
    model.loss(batches, torch.tensor([1.0, 0.0, 0.0] * 3, dtype=torch.float64)).backward()
    grads = [value.grad for value in model.parameters() if value.grad is not None]
    assert grads and all(bool(grad.isfinite().all()) for grad in grads)
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None and module.weight.grad is not None:
            assert module.weight.grad[module.padding_idx].abs().sum() == 0
    model.zero_grad()


@every_rival
def test_as_published_a_few_steps_lower_the_loss_the_same_way_twice(name: str) -> None:
    batches = [replace(b, extra_TCE=b.extra_TCE.float()) for b in (batch(63, [20, 30, 40, 50, 63], seed=seed) for seed in range(2))]
    label = torch.from_numpy(np.random.default_rng(0).integers(0, 2, 30).astype(np.float32))

    def trained(steps: int) -> list[float]:
        torch.manual_seed(0)
        model = TwoStageModel(rival(name, replace(PLAIN, init_std=0.1)), ITEMS, CATEGORIES, 0)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = model.loss(batches, label)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    losses = trained(12)
    assert losses[-1] < 0.8 * losses[0]
    assert trained(3) == losses[:3]


@every_rival
def test_the_configuration_survives_json(name: str) -> None:
    config = rival(name, FULL)
    assert from_dict(ModelConfig, json.loads(json.dumps(asdict(config)))) == config
    for kind, spec in (("search", config.search), ("pooling", config.pooling)):
        with pytest.raises(ValueError, match="unknown option 'no_such_option'"):
            configured(kind, replace(spec, options={**spec.options, "no_such_option": 1}))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A tidy folder and its data set with all features; each rival brings its own model and artifact."""
    root = tmp_path_factory.mktemp("contract")
    folder = write_tidy(root / "data", users=25, items=120, longest=300)
    log, config = read_tidy(folder), tiny_config(attn_width=5, repr_width=6, hidden=(9, 4), same_category_bonus=True)
    data = prepare(log, config)
    return Tiny(folder, log, config, data, Trained(build(config, data), [], 0.0, 0.0), root, "")


@pytest.fixture(scope="module")
def lengths(world: Tiny) -> np.ndarray:
    return every_length(world)


@pytest.mark.parametrize("name", RIVALS)
def test_the_served_score_is_the_models(name: str, world: Tiny, lengths: np.ndarray, tmp_path: Path) -> None:
    """Through the artifact and the runtime that serves it, at every length and for any number of candidates."""
    config = replace(world.config, name=name, model=rival(name, world.config.model))
    model = TwoStageModel(
        config.model, world.data.vocabulary.num_items, world.data.vocabulary.num_categories, world.data.train.extra.shape[2]
    )
    model.load_state_dict(random_state(model))
    model.eval()
    export(model, world.data, config, {"test": {}}, tmp_path)
    runtime = ScoringRuntime.load(tmp_path)
    assert runtime.config["scoring"] == scoring_path(config.model)
    served = replace(world, config=config, trained=replace(world.trained, model=model), artifacts=tmp_path)
    examples = with_histories(world, lengths)
    assert worst_difference(served, runtime, examples, lengths) < 1e-5
    item_hash = hash_item_ids(world.log.item_id)
    state = runtime.prepare(item_hash[world.log.item[:40]], world.log.timestamp[:40])
    now = int(world.log.timestamp[39]) + 1
    many = runtime.score(state, item_hash[:50], now, explain=KEPT)
    for c in (0, 7, 49):
        one = runtime.score(state, item_hash[c : c + 1], now).click_probability_N[0]
        assert one == pytest.approx(many.click_probability_N[c], abs=1e-6)
    assert many.kept is not None and many.kept.index_NE.max() < 40
    np.testing.assert_array_less(many.kept.weight_NE.sum(axis=1), 1 + 1e-5)
    if name in ("eta", "sdim"):
        scores_over_http_are(predict(model, world.log, world.data.vocabulary, world.data.test), world, tmp_path)


def scores_over_http_are(expected: np.ndarray, world: Tiny, artifacts: Path) -> None:
    """A server of the artifact answers the model's own click probabilities of the test rows."""
    log, test = world.log, world.data.test
    server = Server(Settings(artifacts=artifacts), MemoryStore())
    try:
        for row in range(0, len(test.chosen), 20):
            target = test.chosen[row]
            history = range(log.user_start[test.targets.user[target]], test.targets.history_end[target])
            asked = {
                "behaviors": [{"item_id": log.item_id[log.item[i]], "timestamp": int(log.timestamp[i])} for i in history],
                "candidates": [log.item_id[item] for item in test.targets.candidate[target]],
                "timestamp": int(test.targets.timestamp[target]),
            }
            answer = server.client.post("/v1/score", json=asked).raise_for_status().json()
            np.testing.assert_allclose(answer["scores"], expected[row], rtol=0, atol=1e-5)
    finally:
        server.stop()


def random_state(model: TwoStageModel) -> dict[str, torch.Tensor]:
    """Values far from the initialisation, in the range that trained ones have."""
    rng = torch.Generator().manual_seed(0)
    state = model.state_dict()
    for name, value in state.items():
        if not value.dtype.is_floating_point or value.dtype == torch.float64:  # counters; hyperplanes
            continue
        if name.endswith(("norm.weight", "slope.weight", "running_var")):
            value.uniform_(0.5, 1.5, generator=rng)
        else:
            value.normal_(0.0, 0.3, generator=rng)
    return state
