"""Data-parallel training with real processes: the curve of one process, killed and resumed or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.config import AUXILIARY
from model.data.tidy import read_tidy
from model.data_parallel import Ranks, joined
from model.dataset import Dataset, prepare
from model.train import train
from tests.conftest import tiny_config, write_tidy
from tests.model.parallel_training import Job, double_precision, event, finish, refused_job, start, train_job

CONFIG = replace(
    tiny_config(kept=8, hidden=(12, 6), objectives=(AUXILIARY,)),
    feature_epochs=1,
    epochs=2,
    evaluations_per_epoch=1,
    rows_per_step=192,
    targets_per_chunk=64,  # most steps are one chunk or two: a rank is often left without
    taste_width=4,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    log = read_tidy(write_tidy(tmp_path_factory.mktemp("small"), users=15, items=80, categories=5, longest=140))
    return prepare(log, CONFIG)


@pytest.fixture(scope="module")
def alone(data: Dataset) -> list[tuple[int, float]]:
    """Loss of every step in one process, in double precision: in single, Adam makes a thousandth of what the order of a sum rounds off."""
    found: list[tuple[int, float]] = []
    with double_precision():
        train(CONFIG, data, report=lambda progress: found.append((progress.step, progress.loss)))
    return found


@pytest.fixture(scope="module")
def together(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two ranks made of the same training."""
    out = tmp_path_factory.mktemp("together")
    assert finish(start(2, train_job, Job(CONFIG, data, out), event())) == [0, 0]
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_ranks_have_the_loss_curve_of_one(alone: list[tuple[int, float]], together: list[dict[str, Any]]) -> None:
    losses = together[0]["losses"]
    assert len(losses) == len(alone) > 10
    np.testing.assert_allclose(losses, alone, rtol=1e-6)


def test_all_ranks_hold_the_same_weights_bit_for_bit(together: list[dict[str, Any]]) -> None:
    one, other = (done["weights"] for done in together)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert together[0]["losses"] == together[1]["losses"] and together[0]["curve"] == together[1]["curve"]


def test_killed_with_sigkill_and_resumed_is_uninterrupted(data: Dataset, together: list[dict[str, Any]], tmp_path: Path) -> None:
    held, checkpoint = event(), tmp_path / "deep" / "checkpoint.pt"
    job = Job(CONFIG, data, tmp_path, checkpoint, hold_at=7)
    ranks = start(2, train_job, job, held)
    assert held.wait(300)
    for rank in ranks:
        rank.kill()
    assert finish(ranks) == [-9, -9]
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint.pt"] and not list(tmp_path.glob("*.pt"))
    assert finish(start(2, train_job, replace(job, hold_at=None), held)) == [0, 0]
    done = torch.load(tmp_path / "0.pt", weights_only=True)
    assert done["losses"] == together[0]["losses"][6:], "step 7 was reported, not yet saved: it is done again"
    assert all(torch.equal(done["weights"][name], weight) for name, weight in together[0]["weights"].items())


def test_ctrl_c_on_one_rank_stops_all_after_the_same_step_and_one_process_continues(
    data: Dataset, alone: list[tuple[int, float]], tmp_path: Path
) -> None:
    held, checkpoint = event(), tmp_path / "checkpoint.pt"
    ranks = start(2, train_job, Job(CONFIG, data, tmp_path, checkpoint, interrupt_at=5), held)
    assert finish(ranks) == [1, 1] and held.is_set()
    rest: list[tuple[int, float]] = []
    with double_precision():
        train(CONFIG, data, checkpoint, lambda progress: rest.append((progress.step, progress.loss)))
    assert rest[0][0] == 6
    np.testing.assert_allclose(rest, alone[5:], rtol=1e-6)


def test_ranks_with_different_data_refuse_to_train(data: Dataset, tmp_path: Path) -> None:
    item = data.log.item.copy()
    item[7] = (item[7] + 1) % 80
    other = replace(data, log=replace(data.log, item=item))
    ranks = start(2, refused_job, Job(CONFIG, data, tmp_path), Job(CONFIG, other, tmp_path))
    assert finish(ranks) == [0, 0]


def test_chunks_are_dealt_to_the_rank_with_the_least_work() -> None:
    chunks = [np.arange(size) for size in (5, 1, 4, 2)]
    ranks = [Ranks(0, 2), Ranks(1, 2)]
    assert [[len(chunk) for chunk in rank.take(chunks, len)] for rank in ranks] == [[5, 1], [4, 2]]
    assert [rank.share for rank in ranks] == [0.5, 0.5]
    assert [[len(chunk) for chunk in rank.take(chunks[:1], len)] for rank in ranks] == [[5], [5]], (
        "with nothing left a rank repeats the first chunk"
    )
    assert [rank.share for rank in ranks] == [1.0, 0.0]
    assert [len(chunk) for chunk in Ranks().take(chunks, len)] == [5, 1, 4, 2]


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with joined() as ranks:
        assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=r"torchrun sets RANK, .*; here WORLD_SIZE is not set"), joined():
        pass
