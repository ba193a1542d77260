"""The `dare` command, really run: what it prints, its exit codes, and that what the user can mend is one line naming the value."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer

from model.artifact import activate, current_version
from model.item_hash import hash_item_ids
from service.cli import app, main
from service.file_store import FileStore
from tests.conftest import Tiny, write_tidy

Dare = Callable[..., "Ran"]
ROOT = Path(__file__).parents[2]


class Ran:
    """One run of the command: exit code, standard output and standard error."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        """Standard output, which must be JSON and nothing else."""
        return json.loads(self.out)


@pytest.fixture
def dare(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Dare:
    """Runs `dare` with arguments in this process, through its real entry point."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["dare", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return Ran(int(end.value.code or 0), printed.out, printed.err)

    return run


def refused(ran: Ran, *named: str) -> None:
    assert ran.code == 2 and ran.out == "", ran.err
    assert "Traceback" not in ran.err
    for text in named:
        assert text in ran.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tidy folder small enough to train on in a second."""
    return write_tidy(tmp_path_factory.mktemp("commands") / "data", users=15, items=80, categories=5, longest=140)


def every_command(command: Any, path: str = "dare") -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from every_command(inner, f"{path} {name}")


COMMANDS = dict(every_command(typer.main.get_command(app)))


def test_there_are_the_commands_that_the_documents_name() -> None:
    assert {"dare data check", "dare data complete-journey", "dare train", "dare evaluate", "dare load", "dare serve"} <= set(COMMANDS)
    assert {"dare demo", "dare doctor"} <= set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS)
def test_help_says_what_a_command_and_each_of_its_options_do(path: str, dare: Dare) -> None:
    ran = dare(*path.split()[1:], "--help")
    assert ran.code == 0 and path in ran.out
    command = COMMANDS[path]
    assert command.help and command.help.rstrip().endswith(".")
    for parameter in command.params:
        text = getattr(parameter, "help", None)
        assert text and text[0].islower() == (text != "Show this message and exit."), f"{path} {parameter.name}: {text!r}"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["train"], "Missing option '--data'"),
        (["train", "--data", "x", "--prset", "demo"], "No such option: --prset"),
        (["train", "--data", "x", "--seed", "-1"], "Invalid value for '--seed': "),
        (["train", "--data", "x", "--epochs", "0"], "Invalid value for '--epochs': "),
        (["train", "--data", "x", "--longest", "many"], "Invalid value for '--longest': "),
        (["serve", "--port", "65536"], "Invalid value for '--port'"),
        (["serve", "--workers", "0"], "Invalid value for '--workers': "),
        (["load", "--data", "x"], "Missing option '--store'"),
        (["data", "check"], "Missing argument"),
    ],
)
def test_wrong_usage_names_the_value(dare: Dare, arguments: list[str], named: str) -> None:
    ran = dare(*arguments)
    assert ran.code == 2 and named in " ".join(ran.err.replace("│", " ").split())


@pytest.mark.parametrize("arguments", [[], ["data"]])
def test_no_command_shows_the_help(dare: Dare, arguments: list[str]) -> None:
    ran = dare(*arguments)
    assert "Usage: dare" in ran.out and "Commands" in ran.out


def test_help_loads_none_of_the_heavy_packages() -> None:
    code = "import sys; from service.cli import main\ntry: main()\nexcept SystemExit: print(sorted(HEAVY & set(sys.modules)))"
    heavy = "HEAVY = {'torch', 'polars', 'fastapi', 'numpy', 'onnxruntime', 'sklearn'}\n"
    done = subprocess.run([sys.executable, "-c", heavy + code, "train", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_check_describes_a_folder(dare: Dare, folder: Path) -> None:
    ran = dare("data", "check", folder, "--json")
    assert ran.code == 0 and ran.json["users"] == 15 and ran.json["items"] == 80 and ran.json["skipped_rows"] == 0
    for name, value in ran.json.items():
        assert name in ran.err and f"{value:,}" in ran.err
    silent = dare("data", "check", folder)
    assert silent.code == 0 and silent.out == "" and "behaviors" in silent.err


def test_bad_rows_are_refused_or_listed_and_counted(dare: Dare, tmp_path: Path) -> None:
    pl.DataFrame({"user_id": ["a"] * 14, "item_id": ["x"] * 14, "timestamp": [1, *[-5] * 12, 2]}).write_parquet(
        tmp_path / "interactions.parquet"
    )
    refused(dare("data", "check", tmp_path), "error: interactions.parquet: row 2: timestamp is outside 0..4294967295: -5", "(and 7 more)")
    ran = dare("data", "check", tmp_path, "--skip-bad-rows", "--json")
    assert ran.code == 0 and ran.json["behaviors"] == 2 and ran.json["skipped_rows"] == 12
    assert "left out interactions.parquet: row 11: timestamp is outside 0..4294967295: -5" in ran.err
    assert "12 rows left out in all" in ran.err and "row 13" not in ran.err


@pytest.mark.parametrize("command", [["data", "check"], ["train", "--data"], ["load", "--store", "file:unused", "--data"]])
def test_a_folder_that_is_none_is_named(dare: Dare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    refused(dare(*command, tmp_path / "nowhere"), "error: ", str(tmp_path / "nowhere"), "neither interactions.parquet nor")


def test_a_folder_with_brackets_in_its_name_is_only_a_name(dare: Dare, folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "[/red] [bold]data"
    odd.mkdir(parents=True)
    for file in folder.iterdir():
        (odd / file.name).write_bytes(file.read_bytes())
    ran = dare("data", "check", odd)
    assert ran.code == 0 and "[/red][bold]data" in "".join(ran.err.split()), "the title of the table may wrap"


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
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("model.depth=3", "ModelConfig: unknown key 'depth'"),
        ("depth=3", "TrainConfig: unknown key 'depth'"),
        ("model.kept", "--set must be KEY=JSON"),
        ("data.kept=3", "got 'data.kept=3'"),
        ("model.ages=True", "'True' is not JSON"),
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
        "model.ages=true",
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
    assert config["model"]["ages"] and not config["model"]["features"] and config["train"]["protocol"]["train_targets"] == 3


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


def test_load_fills_a_store_that_lasts(dare: Dare, tiny: Tiny, tmp_path: Path) -> None:
    for _ in range(2):  # the second time replaces
        ran = dare("load", "--data", tiny.folder, "--store", f"file:{tmp_path / 's'}")
        assert ran.code == 0 and f"{tiny.log.num_behaviors:,} behaviors of {tiny.log.num_users:,} users" in " ".join(ran.err.split())
    store = FileStore(tmp_path / "s")
    assert dict(store.users()) == dict(
        zip(tiny.log.user_id, (int(n) for n in tiny.log.user_start[1:] - tiny.log.user_start[:-1]), strict=True)
    )
    held = store.read("user-3")
    rows = slice(*tiny.log.user_start[tiny.log.user_id.index("user-3") :][:2])
    assert held.timestamp.tolist() == tiny.log.timestamp[rows].tolist()
    assert held.item_hash.tolist() == hash_item_ids(tiny.log.item_id)[tiny.log.item[rows]].tolist()
    store.close()


@pytest.mark.parametrize(
    ("store", "named"),
    [
        ("memory:", "--store memory: would be gone when this command ends"),
        ("nonsense", "store 'nonsense' is not known"),
        ("file:", "store 'file:' is not known"),
        ("file:/proc/none", "/proc/none"),
    ],
)
def test_load_refuses_a_store_that_keeps_nothing(dare: Dare, folder: Path, store: str, named: str) -> None:
    refused(dare("load", "--data", folder, "--store", store), "error: ", named)


@pytest.mark.parametrize("store", ["memory:", "file:somewhere"])
def test_serve_refuses_workers_that_would_not_share_the_store(
    dare: Dare, tiny: Tiny, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = dare("serve", "--artifacts", tiny.artifacts, "--store", store, "--workers", 2)
    refused(ran, f"store '{store}' lives in one process and workers is 2; use --workers 1")
    assert list(tmp_path.iterdir()) == [], "refused before the store was opened"


def test_serve_refuses_what_it_cannot_serve(dare: Dare, tiny: Tiny, tmp_path: Path) -> None:
    refused(dare("serve", "--artifacts", tmp_path), str(tmp_path), "train one with `dare train`")
    refused(dare("serve", "--artifacts", tiny.artifacts, "--store", "nonsense"), "store 'nonsense' is not known")


def test_doctor_finds_nothing_wrong(dare: Dare, tiny: Tiny) -> None:
    ran = dare("doctor", "--artifacts", tiny.artifacts, "--json")
    assert ran.code == 0 and "no problem found" in ran.err
    assert ran.json["models"] == [{"version": tiny.version, "state": "sound, current"}] and ran.json["problems"] == []
    assert ran.json["packages"]["numpy"] and {"search_backends", "ranking_backends", "python", "cores", "machine"} <= set(ran.json)
    for name, (_, why) in ran.json["search_backends"].items():
        assert name in ran.err and why, "each backend says why"


def test_doctor_without_models_is_no_problem(dare: Dare, tmp_path: Path) -> None:
    ran = dare("doctor", "--artifacts", tmp_path / "none")
    assert ran.code == 0 and "train one with `dare train`" in ran.err


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "rank.onnx").write_bytes(b"x"), "rank.onnx: differs from its checksum"),
        (lambda folder: (folder / "attn_item.npy").unlink(), "attn_item.npy: No such file"),
        (lambda folder: (folder.parent / "CURRENT").write_text("dare-none\n"), "CURRENT names 'dare-none'"),
        (lambda folder: (folder.parent / "CURRENT").write_text("../\n"), "'../' is not a plain lower-case name"),
        (lambda folder: (folder.parent / "CURRENT").unlink(), "CURRENT cannot be read"),
    ],
)
def test_doctor_finds_what_serve_would_stumble_over(
    dare: Dare, tiny: Tiny, tmp_path: Path, damage: Callable[[Path], object], named: str
) -> None:
    target = tmp_path / tiny.version
    target.mkdir()
    for file in (tiny.artifacts / tiny.version).iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    activate(tmp_path, tiny.version)
    damage(target)
    ran = dare("doctor", "--artifacts", tmp_path, "--json")
    assert ran.code == 1 and len(ran.json["problems"]) == 1 and named in ran.json["problems"][0]
    assert f"problem: {ran.json['problems'][0]}" in ran.err
    refused(dare("serve", "--artifacts", tmp_path), "error: ")


def test_complete_journey_is_written(dare: Dare, tmp_path: Path) -> None:
    ran = dare("data", "complete-journey", "--out", tmp_path / "cj", "--seed", 1)
    assert ran.code == 0 and "1,469,307" in ran.err and "2,469" in ran.err
    assert sorted(path.name for path in (tmp_path / "cj").iterdir()) == ["interactions.parquet", "items.parquet"]
