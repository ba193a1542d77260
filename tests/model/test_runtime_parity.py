"""The runtime scores what the training model scores, on the same histories, whatever the length and the backend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kernels import ranking_backends
from model.config import AUXILIARY
from model.data.protocol import TEST
from model.dataset import Examples
from model.features import FEATURE_NAMES
from model.item_hash import hash_item_ids
from model.runtime import ScoringRuntime
from model.train import predict
from tests.conftest import Tiny, make_tiny

TOLERANCE = 1e-5


def with_histories(tiny: Tiny, length_of: np.ndarray) -> Examples:
    """The test examples with each target's history cut to an arbitrary end (features computed by the training path)."""
    from model.feature_source import FeatureSource

    test = tiny.data.test
    targets = test.targets
    end = targets.history_end.copy()
    end[test.chosen] = tiny.log.user_start[targets.user[test.chosen]] + length_of
    targets = replace(targets, history_end=end)
    source = FeatureSource(tiny.log, tiny.config.model.longest, tiny.config.taste_width, tiny.config.seed)
    value = source.features(targets, test.chosen, tiny.data.world)
    extra = value if tiny.config.model.features else value[:, :, :0].copy()
    return Examples(targets, test.chosen, extra, value[:, :, FEATURE_NAMES.index("item_seen")] == 0, tiny.config.model.longest)


def compare(tiny: Tiny, runtime: ScoringRuntime, lengths: np.ndarray) -> float:
    return worst_difference(tiny, runtime, with_histories(tiny, lengths), lengths)


def worst_difference(tiny: Tiny, runtime: ScoringRuntime, examples: Examples, lengths: np.ndarray) -> float:
    """Between the model's click probabilities of the examples and the runtime's, over the same histories."""
    expected = predict(tiny.trained.model, tiny.log, tiny.data.vocabulary, examples)
    item_hash = hash_item_ids(tiny.log.item_id)
    worst = 0.0
    for row, target in enumerate(examples.chosen):
        start = tiny.log.user_start[examples.targets.user[target]]
        seen = slice(start, start + lengths[row])
        state = runtime.prepare(item_hash[tiny.log.item[seen]], tiny.log.timestamp[seen])
        found = runtime.score(state, item_hash[examples.targets.candidate[target]], int(examples.targets.timestamp[target]))
        worst = max(worst, float(np.abs(found.click_probability_N - expected[row]).max()))
    return worst


def every_length(tiny: Tiny) -> np.ndarray:
    """0, 1, K-1, K, K+1 and the longest possible among the rows, the rest in between."""
    test = tiny.data.test
    assert (test.targets.split[test.chosen] == TEST).all()
    longest = test.targets.history_end[test.chosen] - tiny.log.user_start[test.targets.user[test.chosen]]
    wanted = np.random.default_rng(0).integers(0, longest + 1)
    wanted[:6] = np.minimum([0, 1, 19, 20, 21, 10**6], longest[:6])
    wanted[6::5] = longest[6::5]
    return wanted


@pytest.mark.parametrize("ranking", ["auto", "native", "onnxruntime", "numpy"])
def test_default_model(tiny: Tiny, ranking: str) -> None:
    if ranking == "native" and not ranking_backends()["native"][0]:
        pytest.skip(ranking_backends()["native"][1])
    assert compare(tiny, ScoringRuntime.load(tiny.artifacts, ranking=ranking), every_length(tiny)) < TOLERANCE


@pytest.mark.parametrize(
    "model",
    [
        {"features": False, "mass": False, "same_item_bonus": False, "objectives": (AUXILIARY,)},
        {"longest": 30},
        {"attn_width": 4, "repr_width": 9, "features": False},
        {"ages": True, "longest": 150},
        {"feature_bins": 7},
        {"sessions": True, "ages": True, "longest": 150, "features": False},
        {"same_category_bonus": True, "features": False},
    ],
    ids=["as published", "longest 30", "narrow attention, no features", "ages", "feature bins", "sessions and ages", "category bonus"],
)
def test_other_configurations(tmp_path: Path, model: dict[str, object]) -> None:
    tiny = make_tiny(tmp_path, **model)
    assert compare(tiny, ScoringRuntime.load(tiny.artifacts), every_length(tiny)) < TOLERANCE


def test_the_compiled_kernel_is_the_automatic_choice_where_it_runs(tiny: Tiny) -> None:
    able, reason = ranking_backends()["native"]
    described = ScoringRuntime.load(tiny.artifacts).describe()["ranking"]
    assert described["backend"] == ("native" if able else "onnxruntime")
    assert reason in described["reason"]


def test_a_history_extended_in_steps_scores_as_one_prepared_at_once(tiny: Tiny) -> None:
    runtime = ScoringRuntime.load(tiny.artifacts)
    item_hash = hash_item_ids(tiny.log.item_id)
    candidates = item_hash[:50]
    for user in range(10):
        rows = slice(tiny.log.user_start[user], tiny.log.user_start[user + 1])
        items, times = item_hash[tiny.log.item[rows]], tiny.log.timestamp[rows]
        rng, place = np.random.default_rng(user), 0
        state = runtime.prepare(items[:0], times[:0])
        while place < len(items):
            step = int(rng.integers(1, 20))
            before = state
            state = runtime.extend(state, items[place : place + step], times[place : place + step])
            assert before.length == place
            place = min(place + step, len(items))
        now = int(times[-1]) + 86_400
        whole = runtime.prepare(items, times)
        np.testing.assert_allclose(
            runtime.score(state, candidates, now).click_probability_N, runtime.score(whole, candidates, now).click_probability_N, atol=1e-6
        )


def test_threads_change_no_score(tiny: Tiny) -> None:
    runtime, item_hash = ScoringRuntime.load(tiny.artifacts), hash_item_ids(tiny.log.item_id)
    rows = slice(tiny.log.user_start[0], tiny.log.user_start[1])
    state = runtime.prepare(item_hash[tiny.log.item[rows]], tiny.log.timestamp[rows])
    one, three = (runtime.score(state, np.resize(item_hash, 1000), runtime.as_of, num_threads=threads) for threads in (1, 3))
    np.testing.assert_array_equal(one.click_probability_N, three.click_probability_N)


def test_unknown_items_are_scored_and_flagged(tiny: Tiny) -> None:
    runtime = ScoringRuntime.load(tiny.artifacts)
    strange = hash_item_ids(["no such item", "item-1", "another"])
    state = runtime.prepare(hash_item_ids(["item-1", "never heard of"]), np.array([10, 20]))
    scored = runtime.score(state, strange, 30, explain=5)
    assert scored.unknown_N.tolist()[0] and scored.unknown_N.tolist()[2] and np.isfinite(scored.click_probability_N).all()
    assert scored.kept is not None and set(scored.kept.index_NE[1]) <= {-1, 0, 1}
    np.testing.assert_allclose(scored.kept.weight_NE.sum(axis=1), 1, atol=1e-5)
    assert runtime.item_id(int(strange[1])) == "item-1" and runtime.item_id(int(strange[0])) is None
    assert runtime.item_text(int(strange[1])) == {"description": "Thing 1 é"}


def test_a_repeated_unknown_item_counts_as_itself(tiny: Tiny) -> None:
    """Two items that the model does not know share a table row, not their history."""
    runtime = ScoringRuntime.load(tiny.artifacts)
    bought, other = hash_item_ids(["unknown a", "unknown b"])
    state = runtime.prepare(np.repeat(bought, 5), np.arange(5) * 1000)
    first, second = runtime.score(state, np.array([bought, other]), 6000).click_probability_N
    assert first != second


def test_retrieval_gives_distinct_known_items_and_can_leave_out_what_was_seen(tiny: Tiny) -> None:
    runtime = ScoringRuntime.load(tiny.artifacts)
    item_hash = hash_item_ids(tiny.log.item_id)
    rows = slice(tiny.log.user_start[3], tiny.log.user_start[4])
    state = runtime.prepare(item_hash[tiny.log.item[rows]], tiny.log.timestamp[rows])
    pool = runtime.retrieve(state, 100)
    assert len(pool) == len(set(pool.tolist())) == 100
    fresh = runtime.retrieve(state, 50, exclude_seen=True)
    assert len(fresh) and not set(fresh.tolist()) & set(state.item_hash_L.tolist())
    assert len(runtime.retrieve(runtime.prepare(item_hash[:0], np.zeros(0, np.int64)), 40)) == 40
