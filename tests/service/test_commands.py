"""The `dare` command, really run: what it prints, its exit codes, and that what the user can mend is one line naming the value."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer

from model.artifact import activate
from model.item_hash import hash_item_ids
from service.cli import app
from service.file_store import FileStore
from tests.conftest import Tiny, write_tidy
from tests.service.dare_command import Dare, dare, refused

__all__ = ["dare"]


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
        (["train", "--data", "x", "--seed", "-1"], "Invalid value for '--seed': Input should be greater than or equal to 0, got -1"),
        (["train", "--data", "x", "--epochs", "0"], "equal to 1, got 0"),
        (["train", "--data", "x", "--longest", "many"], "got many"),
        (["serve", "--port", "65536"], "equal to 65535, got 65536"),
        (["serve", "--workers", "0"], "equal to 1, got 0"),
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
