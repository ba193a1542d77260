"""`dare train` and `dare evaluate`, really run: what they write, that they resume, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from model.artifact import activate, current_version
from tests.conftest import write_tidy
from tests.service.dare_command import ROOT, Dare, dare, refused

__all__ = ["dare"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tidy folder small enough to train on in a second."""
    return write_tidy(tmp_path_factory.mktemp("commands") / "data", users=15, items=80, categories=5, longest=140)


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An artifacts directory that `dare train` has written, and its version."""
    artifacts = tmp_path_factory.mktemp("commands-trained") / "artifacts"
    arguments = ["train", "--data", str(folder), "--out", str(artifacts), "--preset", "demo"]
    done = subprocess.run([sys.executable, "-m", "service", *arguments, "--json"], capture_output=True, text=True, check=True, cwd=ROOT)
    answer = json.loads(done.stdout)
    assert answer["version"] == current_version(artifacts) and answer["version"] in done.stderr
    assert {"version", "test", "curve", "seconds", "rows_per_s"} <= set(answer)
    assert {"auc", "gauc", "log_loss", "ece", "auc_never_seen", "num_test"} <= set(answer["test"])
    assert json.loads((artifacts / answer["version"] / "metrics.json").read_text())["test"] == answer["test"]
    assert not (artifacts / ".training" / "checkpoint.pt").exists()
    return artifacts, answer["version"]


def test_train_and_evaluate_agree(dare: Dare, folder: Path, trained: tuple[Path, str]) -> None:
    artifacts, version = trained
    ran = dare("evaluate", "--data", folder, "--artifacts", artifacts, "--counts", "--json")
    assert ran.code == 0 and ran.json["model_version"] == version
    test = json.loads((artifacts / version / "metrics.json").read_text())["test"]
    for name in ("auc", "gauc", "log_loss", "auc_never_seen", "num_test", "num_rows"):
        assert ran.json[name] == pytest.approx(test[name], abs=1e-4)
    assert 0 <= ran.json["ece"] < 1
    counts = ran.json["counts"]
    assert counts["num_test"] == ran.json["num_test"] and 0.5 < counts["auc"] < 1 and counts.keys() == test.keys()
    assert "counts" in ran.err and version in ran.err


def test_evaluate_names_the_version_and_needs_no_torch(folder: Path, trained: tuple[Path, str]) -> None:
    artifacts, version = trained
    code = "import sys; from service.cli import main\ntry: main()\nexcept SystemExit as end: print(end.code, 'torch' in sys.modules)"
    arguments = ["evaluate", "--data", str(folder), "--artifacts", str(artifacts), "--version", version]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "0 False\n"


def test_training_the_same_again_gives_the_same_version(dare: Dare, folder: Path, trained: tuple[Path, str]) -> None:
    artifacts, version = trained
    ran = dare("train", "--data", folder, "--out", artifacts, "--preset", "demo", "--json")
    assert ran.code == 0 and ran.json["version"] == version
    other = dare("train", "--data", folder, "--out", artifacts, "--preset", "demo", "--longest", 30, "--seed", 3, "--json")
    assert other.code == 0 and other.json["version"] != version and current_version(artifacts) == other.json["version"]
    config = json.loads((artifacts / other.json["version"] / "config.json").read_text())
    assert config["model"]["longest"] == 30 and config["train"]["seed"] == 3
    activate(artifacts, version)


def test_training_refuses_a_preset_it_does_not_know_and_too_little_data(dare: Dare, folder: Path, tmp_path: Path) -> None:
    refused(
        dare("train", "--data", folder, "--out", tmp_path, "--preset", "best"), "--preset must be one of default, demo, paper, got 'best'"
    )
    users = [f"u{i // 5}" for i in range(500)]
    small = {"user_id": users, "item_id": [i % 9 for i in range(500)], "timestamp": list(range(500))}
    pl.DataFrame(small).write_parquet(tmp_path / "interactions.parquet")
    refused(dare("train", "--data", tmp_path, "--out", tmp_path / "a"), "error: no training target: it needs 50 earlier behaviors")
    # Stages that are served by a graph read no ages: the preset's are left out, where somebody asks for them they are refused.
    refused(dare("train", "--data", tmp_path, "--out", tmp_path / "a", "--model", "sdim"), "error: no training target")
    asked = ("--model", "sdim", "--set", "model.ages=true")
    refused(dare("train", "--data", tmp_path, "--out", tmp_path / "a", *asked), "ages are served with exact search", "model.ages=false")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("model.depth=3", "ModelConfig: unknown key 'depth'"),
        ("depth=3", "TrainConfig: unknown key 'depth'"),
        ("model.kept", "--set must be KEY=JSON"),
        ("data.kept=3", "got 'data.kept=3'"),
        ("model.ages=True", "'True' is not JSON"),
        ('statistics="live"', "the service keeps no counters of items"),
        ("model.kept=0", "kept must be an integer in 1..1024, got 0"),
        ('model.search={"name": "telepathy"}', "no search stage is called 'telepathy'"),
        ('model.pooling={"name": "din", "options": {"depth": 1}}', "unknown option 'depth'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_training(dare: Dare, folder: Path, tmp_path: Path, setting: str, named: str) -> None:
    refused(dare("train", "--data", folder, "--out", tmp_path, "--set", setting), named)
    assert not list(tmp_path.iterdir())


def test_any_field_of_the_configuration_can_be_set(dare: Dare, folder: Path, tmp_path: Path) -> None:
    settings = (
        "--set",
        "model.ages=false",
        "--set",
        "model.features=false",
        "--set",
        "model.feature_bins=0",
        "--set",
        "protocol.train_targets=3",
        "--set",
        'name="mine"',
    )
    ran = dare("train", "--data", folder, "--out", tmp_path, "--preset", "demo", *settings, "--json")
    assert ran.code == 0 and ran.json["version"].startswith("mine-"), ran.err
    config = json.loads((tmp_path / ran.json["version"] / "config.json").read_text())
    assert not config["model"]["ages"] and not config["model"]["features"] and config["train"]["protocol"]["train_targets"] == 3


_INTERRUPTED = """
import os, signal
from torch.optim.optimizer import register_optimizer_step_post_hook
steps = iter(range(1, 10**6))
register_optimizer_step_post_hook(lambda *_: os.kill(os.getpid(), signal.SIGINT) if next(steps) == 2 else None)
from service.cli import main
main()
"""
_KILLED = """
import os, signal, torch
import model.train
model.train._CHECKPOINT_S = -1.0
saves, save = iter(range(1, 10**6)), torch.save
def dying(content, path):
    save(content, path)
    if next(saves) == 3:  # in the middle of the third write: half a file, and the process is gone
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = dying
from service.cli import main
main()
"""


LONG = ["--preset", "default", "--epochs", "4"]


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The version that a training without interruption gives."""
    arguments = ["train", "--data", str(folder), "--out", str(tmp_path_factory.mktemp("uninterrupted")), *LONG, "--json"]
    done = subprocess.run([sys.executable, "-m", "service", *arguments], capture_output=True, text=True, check=True, cwd=ROOT)
    return str(json.loads(done.stdout)["version"])


@pytest.mark.parametrize(("code", "status"), [(_INTERRUPTED, 130), (_KILLED, -9)], ids=["Ctrl-C", "SIGKILL"])
def test_an_interrupted_training_resumes_to_the_very_same_model(
    dare: Dare, folder: Path, tmp_path: Path, uninterrupted: str, code: str, status: int
) -> None:
    arguments = ["train", "--data", str(folder), "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *arguments, *LONG], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == status, done.stderr
    checkpoint = tmp_path / ".training" / "checkpoint.pt"
    assert checkpoint.exists() and not (tmp_path / "CURRENT").exists()
    if status == 130:
        said = " ".join(done.stderr.split())
        assert "is kept, run the same command again to resume" in said and "Traceback" not in said
    refused(dare(*arguments), "another configuration or other data", "--fresh")
    resumed = dare(*arguments, *LONG, "--json")
    assert resumed.code == 0 and "resuming from" in resumed.err and resumed.json["version"] == uninterrupted
    assert not checkpoint.exists()


def test_fresh_starts_again(dare: Dare, folder: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / ".training" / "checkpoint.pt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"garbage")
    refused(dare("train", "--data", folder, "--out", tmp_path, "--preset", "demo"), "checkpoint.pt: not a readable checkpoint", "--fresh")
    ran = dare("train", "--data", folder, "--out", tmp_path, "--preset", "demo", "--fresh", "--json")
    assert ran.code == 0 and "resuming" not in ran.err


def test_evaluating_without_a_model_says_how_to_get_one(dare: Dare, folder: Path, tmp_path: Path, trained: tuple[Path, str]) -> None:
    refused(dare("evaluate", "--data", folder, "--artifacts", tmp_path), str(tmp_path), "train one with `dare train`")
    refused(dare("evaluate", "--data", folder, "--artifacts", trained[0], "--version", "dare-none"), "dare-none")
    refused(dare("evaluate", "--data", tmp_path, "--artifacts", trained[0]), str(tmp_path), "neither interactions.parquet nor")
