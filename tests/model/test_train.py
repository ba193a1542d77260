"""Training: the same bits for a seed, interrupted or not; early stopping; checkpoints of something else refused."""

from __future__ import annotations

import copy
import pickle
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import model.train
from model.checkpoint import CheckpointError
from model.config import AUXILIARY, ModelConfig, TrainConfig, paper_preset
from model.data.log import InteractionLog
from model.data.protocol import ProtocolConfig
from model.data.tidy import read_tidy
from model.data_parallel import Ranks
from model.dataset import Dataset, prepare, steps
from model.evaluate import evaluate_runtime
from model.metrics import auc
from model.runtime import ScoringRuntime
from model.schedule import Schedule, epoch_rng, epoch_steps, feature_steps
from model.train import (
    DivergedError,
    Progress,
    Trained,
    build,
    evaluate_examples,
    feature_step,
    optimizer_of,
    predict,
    train,
)
from tests.conftest import Tiny, tiny_config, write_tidy


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> InteractionLog:
    return read_tidy(write_tidy(tmp_path_factory.mktemp("small"), users=15, items=80, categories=5, longest=140))


CONFIG = replace(
    tiny_config(kept=8, hidden=(12, 6)),
    feature_epochs=1,
    epochs=2,
    evaluations_per_epoch=2,
    rows_per_step=192,
    taste_width=4,
)


@pytest.fixture(scope="module")
def data(log: InteractionLog) -> Dataset:
    return prepare(log, CONFIG)


@pytest.fixture(scope="module")
def whole(data: Dataset) -> Trained:
    """Trained without interruption."""
    return train(CONFIG, data)


def same(first: Trained, second: Trained) -> bool:
    one, other = first.model.state_dict(), second.model.state_dict()
    return first.curve == second.curve and one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def after(steps_done: int, do: Callable[[], None]) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.step == steps_done:
            do()

    return report


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(log: InteractionLog, whole: Trained) -> None:
    assert same(whole, train(CONFIG, prepare(log, CONFIG)))
    other = replace(CONFIG, seed=1)
    assert not same(whole, train(other, prepare(log, other)))


def test_it_learns(data: Dataset, whole: Trained) -> None:
    labels = data.test.labels(np.arange(len(data.test.chosen)))
    untrained = auc(labels, predict(build(CONFIG, data).eval(), data.log, data.vocabulary, data.test).reshape(-1))
    trained = auc(labels, predict(whole.model, data.log, data.vocabulary, data.test).reshape(-1))
    assert trained > 0.6 and trained > untrained + 0.05
    assert not whole.model.training and whole.seconds > 0 and whole.rows_per_s > 0
    assert [entry["step"] for entry in whole.curve] == sorted({int(entry["step"]) for entry in whole.curve}) and len(whole.curve) == 4


@pytest.mark.parametrize(
    "place", [1, 0.2, 0.5, -1, 0], ids=["first step", "in the features alone", "half", "one before the last", "last step"]
)
def test_interrupted_and_resumed_is_uninterrupted(data: Dataset, whole: Trained, tmp_path: Path, place: float) -> None:
    total = int(whole.curve[-1]["step"])
    step = round(place * total) if 0 < place < 1 else int(place) if place > 0 else total + int(place)
    checkpoint = tmp_path / "deep" / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, data, checkpoint, after(step, ctrl_c))
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint.pt"]
    seen: list[int] = []
    resumed = train(CONFIG, data, checkpoint, lambda progress: seen.append(progress.step))
    assert seen == list(range(step + 1, total + 1))
    assert same(resumed, whole)


@pytest.fixture
def hooked() -> Iterator[Callable[[Callable[[int], None]], None]]:
    """Calls something inside every optimiser step, with the number of steps so far."""
    handles = []

    def install(do: Callable[[int], None]) -> None:
        calls = iter(range(1, 10**6))
        handles.append(register_optimizer_step_post_hook(lambda *_: do(next(calls))))

    yield install
    for handle in handles:
        handle.remove()


def test_ctrl_c_in_the_middle_of_a_step_keeps_whole_steps(
    data: Dataset, whole: Trained, tmp_path: Path, hooked: Callable[[Callable[[int], None]], None]
) -> None:
    """The weights have moved but the step is not counted yet: a checkpoint of that moment would do the step twice."""
    hooked(lambda step: ctrl_c() if step == 4 else None)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, data, tmp_path / "c.pt")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert same(train(CONFIG, data, tmp_path / "c.pt"), whole)


def test_a_second_ctrl_c_does_not_wait_and_leaves_the_last_checkpoint(
    data: Dataset, whole: Trained, tmp_path: Path, hooked: Callable[[Callable[[int], None]], None]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, data, tmp_path / "c.pt", after(3, ctrl_c))
    before = (tmp_path / "c.pt").read_bytes()

    def twice(step: int) -> None:
        if step == 2:
            ctrl_c()
            ctrl_c()

    hooked(twice)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, data, tmp_path / "c.pt")
    assert (tmp_path / "c.pt").read_bytes() == before
    assert same(train(CONFIG, data, tmp_path / "c.pt"), whole)


def test_killed_between_checkpoints_resumes_from_the_last(
    data: Dataset, whole: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.train, "_CHECKPOINT_S", -1.0)  # after every step

    class PowerCut(BaseException):
        pass

    def cut() -> None:
        raise PowerCut

    with pytest.raises(PowerCut):
        train(CONFIG, data, tmp_path / "c.pt", after(5, cut))
    seen: list[int] = []
    assert same(train(CONFIG, data, tmp_path / "c.pt", lambda progress: seen.append(progress.step)), whole)
    assert seen[0] == 5, "the report comes before the checkpoint: step 5 is done again"


def test_early_stopping_keeps_the_best(data: Dataset) -> None:
    config = replace(CONFIG, epochs=40, evaluations_per_epoch=1, patience=2, learning_rate=0.05, embedding_learning_rate=0.1)
    trained = train(config, data)
    curve = [entry["validation_auc"] for entry in trained.curve]
    assert len(curve) < 40 and len(curve) == int(np.argmax(curve)) + 1 + 2, "two worse validations end it"
    probability = predict(trained.model, data.log, data.vocabulary, data.validation).reshape(-1)
    assert auc(data.validation.labels(np.arange(len(data.validation.chosen))), probability) == max(curve) > curve[-1]


def test_a_stopped_training_resumes_as_stopped(data: Dataset, tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=40, evaluations_per_epoch=1, patience=1, learning_rate=0.05, embedding_learning_rate=0.1)
    plain = train(config, data)
    last = int(plain.curve[-1]["step"])
    with pytest.raises(KeyboardInterrupt):
        train(config, data, tmp_path / "c.pt", after(last, ctrl_c))
    seen: list[int] = []
    assert same(train(config, data, tmp_path / "c.pt", lambda progress: seen.append(progress.step)), plain) and seen == []


@pytest.fixture
def checkpoint(data: Dataset, tmp_path: Path) -> Path:
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, data, tmp_path / "checkpoint.pt", after(2, ctrl_c))
    return tmp_path / "checkpoint.pt"


@pytest.mark.parametrize("change", [{"seed": 7}, {"epochs": 3}, {"learning_rate": 0.003}, {"model": replace(CONFIG.model, kept=9)}])
def test_a_checkpoint_of_another_configuration_is_refused(data: Dataset, checkpoint: Path, change: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match=rf"{checkpoint}: .*another configuration.*--fresh"):
        train(replace(CONFIG, **change), data, checkpoint)  # type: ignore[arg-type]


def test_a_checkpoint_of_other_data_is_refused_even_if_it_looks_alike(data: Dataset, checkpoint: Path) -> None:
    """One purchase of another item: as many behaviors, users, items and the same times, yet another training."""
    item = data.log.item.copy()
    item[7] = (item[7] + 1) % 80
    other = replace(data, log=replace(data.log, item=item))
    assert other.log.describe() == data.log.describe()
    with pytest.raises(CheckpointError, match="other data"):
        train(CONFIG, other, checkpoint)


@pytest.mark.parametrize("content", [b"", b"garbage", "cut", "list", "fewer"])
def test_an_unreadable_checkpoint_is_refused_by_name(data: Dataset, checkpoint: Path, content: bytes | str) -> None:
    whole = checkpoint.read_bytes()
    if content == "list":
        torch.save([1, 2], checkpoint)
    elif content == "fewer":
        kept = torch.load(checkpoint, weights_only=True)
        torch.save({"fingerprint": kept["fingerprint"]}, checkpoint)
    else:
        checkpoint.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    with pytest.raises(CheckpointError, match=rf"{checkpoint}: .*--fresh"):
        train(CONFIG, data, checkpoint)


def test_a_checkpoint_runs_no_code(data: Dataset, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "owned",)

    (tmp_path / "c.pt").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(CheckpointError):
        train(CONFIG, data, tmp_path / "c.pt")
    torch.save({"fingerprint": Malicious()}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError):
        train(CONFIG, data, tmp_path / "c.pt")
    assert not (tmp_path / "owned").exists()


def test_a_diverged_training_says_so(data: Dataset) -> None:
    config = replace(CONFIG, model=replace(CONFIG.model, init_std=1e30))
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at step \d+ of \d+; lower the learning rates"):
        train(config, data)


def test_the_published_recipe_trains_both_heads(log: InteractionLog) -> None:
    config = replace(paper_preset(0), min_item_count=3, epochs=8, patience=8, rows_per_step=256, taste_width=4)
    assert config.model.objectives == (AUXILIARY,) and not (config.model.mass or config.model.features or config.model.same_item_bonus)
    assert (config.model.longest, config.model.kept, config.learning_rate, config.embedding_learning_rate) == (200, 20, 0.01, 0.01)
    data = prepare(log, config)
    assert data.train.extra.shape[2] == 0
    assert np.bincount(data.train.targets.user[data.train.chosen]).max() <= 20
    before, trained = build(config, data).state_dict(), train(config, data)
    after = trained.model.state_dict()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert {
        "head.last.weight",
        "objectives.0.head.last.weight",
        *(f"tables.{name}.weight" for name in ("0.item", "1.item", "1.recency")),
    } <= moved
    assert not after["tables.0.item.weight"][0].any() and not after["tables.1.category.weight"][0].any(), "padding is never trained"
    labels = data.test.labels(np.arange(len(data.test.chosen)))
    assert auc(labels, predict(trained.model, log, data.vocabulary, data.test).reshape(-1)) > 0.55


def test_prediction_is_the_same_row_by_row_and_leaves_the_mode_alone(data: Dataset, whole: Trained) -> None:
    together = predict(whole.model, data.log, data.vocabulary, data.test)
    rows = np.random.default_rng(0).permutation(len(data.test.chosen))[:12]
    test = data.test
    single = [replace(test, chosen=test.chosen[[r]], extra=test.extra[[r]], never_seen=test.never_seen[[r]]) for r in rows]
    alone = [predict(whole.model, data.log, data.vocabulary, examples)[0] for examples in single]
    np.testing.assert_allclose(alone, together[rows], atol=1e-6)
    whole.model.train()
    try:
        np.testing.assert_array_equal(predict(whole.model, data.log, data.vocabulary, data.test), together)
        assert whole.model.training
    finally:
        whole.model.eval()


def test_what_is_served_is_evaluated_as_what_was_trained(tiny: Tiny) -> None:
    probability = predict(tiny.trained.model, tiny.log, tiny.data.vocabulary, tiny.data.test)
    expected = evaluate_examples(probability, tiny.data.test, tiny.data.vocabulary)
    reported: list[tuple[int, int]] = []
    found = evaluate_runtime(ScoringRuntime.load(tiny.artifacts), tiny.log, lambda done, total: reported.append((done, total)))
    assert found.keys() == expected.keys() >= {"auc", "gauc", "log_loss", "ece", "auc_never_seen", "num_test"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=2e-4 if name == "ece" else 2e-5)
    assert reported[0][0] == 0 and reported[-1] == (found["num_test"], found["num_test"])


def test_every_training_row_comes_once_an_epoch_beside_its_own_users(data: Dataset) -> None:
    user = data.train.targets.user[data.train.chosen]
    for size in (1, 7, 128):
        chunks = data.train.chunks(size, np.random.default_rng(0))
        assert sorted(np.concatenate(chunks).tolist()) == list(range(len(user)))
        assert all(len(chunk) <= size and len(set(user[chunk].tolist())) == 1 for chunk in chunks)
    first, again, other = ([c.tolist() for c in data.train.chunks(7, np.random.default_rng(seed))] for seed in (0, 0, 1))
    assert first == again != other
    taken = list(steps([np.arange(3)] * 7, 6))
    assert [sum(map(len, step)) for step in taken] == [6, 6, 6, 3]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: TrainConfig(epochs=0), "epochs must be at least 1, got 0"),
        (lambda: TrainConfig(enough_steps=0), "enough_steps must be at least 1 or None, got 0"),
        (lambda: TrainConfig(feature_epochs=-1), "feature_epochs must be at least 0, got -1"),
        (lambda: TrainConfig(rows_per_step=-1), "rows_per_step.*-1"),
        (lambda: TrainConfig(learning_rate=1.5), "learning_rate.*1.5"),
        (lambda: TrainConfig(embedding_learning_rate=float("nan")), "embedding_learning_rate.*nan"),
        (lambda: TrainConfig(seed=-1), "seed.*-1"),
        (lambda: TrainConfig(min_item_count=0), "min_item_count.*0"),
        (lambda: ModelConfig(kept=0), "kept must be an integer in 1..1024, got 0"),
        (lambda: ModelConfig(attn_width=2000), "attn_width.*2000"),
        (lambda: ModelConfig(longest=0), "longest.*0"),
        (lambda: ModelConfig(hidden=(0, 3)), "hidden"),
        (lambda: ModelConfig(init_std=0.0), "init_std.*0.0"),
    ],
)
def test_an_impossible_configuration_is_refused_by_name(make: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()


def test_features_alone_train_what_reads_them_and_nothing_else(data: Dataset) -> None:
    model = build(CONFIG, data)
    before = copy.deepcopy(model.state_dict())
    optimizer, learned = optimizer_of(model, CONFIG), model.head.learned
    losses = []
    for chunks in feature_steps(CONFIG, data.train, 0)[:20]:
        losses.append(feature_step(model, optimizer, (data.log, data.vocabulary, data.train), chunks, Ranks()))
    after = model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {name for name in moved if not name.startswith("head.")} == set()
    assert {f"head.{name}" for name in ("first.weight", "first.bias", "last.weight", "given_norm.running_mean")} <= moved
    assert "head.norm.running_mean" not in moved
    assert torch.equal(after["head.first.weight"][:, :learned], before["head.first.weight"][:, :learned])
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_whole_epochs_begin_at_full_rates_without_moments_and_are_evaluated_alone(data: Dataset) -> None:
    seen: list[tuple[float, bool]] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append((optimizer.param_groups[1]["lr"], bool(optimizer.state))))
    try:
        trained = train(CONFIG, data)
    finally:
        hook.remove()
    alone, whole = len(feature_steps(CONFIG, data.train, 0)), [len(epoch_steps(CONFIG, data.train, i)) for i in range(CONFIG.epochs)]
    assert len(seen) == alone + sum(whole)
    rates, moments = zip(*seen, strict=True)
    assert rates[: alone + 1] == (CONFIG.learning_rate,) * (alone + 1)
    np.testing.assert_allclose(rates[alone:], CONFIG.learning_rate * (1 - np.arange(sum(whole)) / sum(whole)))
    assert [step for step, had in enumerate(moments) if not had] == [0, alone]
    first = alone + np.array([0, whole[0]])
    assert [entry["step"] for entry in trained.curve] == [int(first[i]) + round(whole[i] * part / 2) for i in (0, 1) for part in (1, 2)]


def test_whole_epochs_begin_at_the_mean_of_the_heads_latest_weights(data: Dataset, tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []
    alone, checkpoint = len(feature_steps(CONFIG, data.train, 0)), tmp_path / "c.pt"
    last = [name for name, _ in build(CONFIG, data).named_parameters() if not name.startswith("tables.")].index("head.last.weight")
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[1]["params"][last].detach().clone()))
    try:
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, data, checkpoint, after(alone, ctrl_c))
    finally:
        hook.remove()
    mean = seen[0]
    for step, weight in enumerate(seen[1:], start=2):
        mean = mean + (weight - mean) * 9 / (8 + step)
    torch.testing.assert_close(torch.load(checkpoint, weights_only=True)["model"]["head.last.weight"], mean)
    assert len(seen) == alone > 3 and (mean - seen[-1]).abs().max() > 1e-5


def test_a_model_without_features_has_no_epochs_of_them(log: InteractionLog) -> None:
    config = replace(CONFIG, epochs=1, evaluations_per_epoch=1, model=replace(CONFIG.model, features=False))
    data = prepare(log, config)
    assert same(train(config, data), train(replace(config, feature_epochs=0), data))


def test_an_epoch_of_features_alone_has_every_row_once_in_an_order_of_its_own(data: Dataset) -> None:
    first, again, second = ([np.concatenate(step).tolist() for step in feature_steps(CONFIG, data.train, i)] for i in (0, 0, 1))
    assert first == again != second
    assert sorted(i for step in first for i in step) == list(range(len(data.train.chosen)))


def test_rates_fall_over_all_epochs_or_within_each(data: Dataset) -> None:
    config = replace(CONFIG, feature_epochs=1, epochs=3)
    alone, (first, second, third) = len(feature_steps(config, data.train, 0)), [len(epoch_steps(config, data.train, i)) for i in range(3)]
    once, each = (Schedule.of(replace(config, rates_restart=restart), data.train) for restart in (False, True))
    whole = first + second + third
    assert once.validate_after == each.validate_after and len(once.steps) == len(each.steps) == alone + whole
    np.testing.assert_allclose(once.fallen, [0.0] * alone + [i / whole for i in range(whole)])
    np.testing.assert_allclose(each.fallen, [0.0] * alone + [i / n for n in (first, second, third) for i in range(n)])


def test_no_epoch_begins_once_there_are_enough_steps(data: Dataset) -> None:
    config = replace(CONFIG, feature_epochs=0, epochs=3)
    length = len(epoch_steps(config, data.train, 0))
    epochs = {
        enough: len(Schedule.of(replace(config, enough_steps=enough), data.train).validate_after) // 2 for enough in (1, length, length + 1)
    }
    assert epochs == {1: 1, length: 1, length + 1: 2}
    assert len(Schedule.of(replace(config, enough_steps=10**6), data.train).steps) == len(Schedule.of(config, data.train).steps)


def test_presets_are_what_they_say() -> None:
    assert TrainConfig().model.longest is None and TrainConfig().protocol.train_targets is None, "whole histories, all targets"
    assert paper_preset(3).seed == paper_preset(3).protocol.seed == 3
    assert ProtocolConfig().negatives == 2 and ProtocolConfig().first_target == 50


def test_the_order_of_targets_is_drawn_anew_for_each_seed_and_epoch() -> None:
    draws = {(seed, epoch): epoch_rng(replace(CONFIG, seed=seed), epoch).random() for seed in (0, 1) for epoch in (0, 1)}
    assert len(set(draws.values())) == 4
    assert epoch_rng(CONFIG, 0).random() == draws[CONFIG.seed, 0]
