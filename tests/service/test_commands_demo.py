"""`dare demo` from a folder and nothing else to a scored request, and what it leaves when it is interrupted."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import polars as pl
import pytest

from model.artifact import ArtifactError, activate, current_version
from service.behavior_store import BehaviorStore
from service.commands import demo
from service.file_store import FileStore
from service.settings import Settings
from tests.conftest import Tiny, write_tidy

ROOT = Path(__file__).parents[2]


@pytest.fixture
def csv_folder(tmp_path: Path) -> Path:
    """A tidy folder with a compressed CSV, whose longest user has a quote in the name."""
    folder = write_tidy(tmp_path / "data", users=15, items=80, categories=5, longest=140)
    frame = pl.read_parquet(folder / "interactions.parquet")
    longest = frame["user_id"].value_counts(sort=True)["user_id"][0]
    frame = frame.with_columns(pl.col("user_id").replace(longest, "it's me"))
    (folder / "interactions.parquet").unlink()
    (folder / "interactions.csv.gz").write_bytes(gzip.compress(frame.write_csv().encode()))
    return folder


@contextmanager
def demonstrating(arguments: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "service", "demo", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **environment})
    assert process.stderr is not None
    try:
        yield process
    finally:
        process.kill()
        process.stderr.close()
        process.wait()


def said_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if text in line:
            return said
    raise AssertionError(f"ended with {process.wait()}: {said}")


def test_from_a_folder_to_a_scored_request(csv_folder: Path, tmp_path: Path) -> None:
    before = sorted(csv_folder.iterdir())
    arguments = ["--data", csv_folder, "--artifacts", tmp_path / "artifacts", "--store", f"file:{tmp_path / 'store'}", "--port", 0]
    with demonstrating([str(argument) for argument in arguments]) as process:
        said = said_until(process, "Ctrl-C stops")
        assert "no model yet: training one" in said and "on the test rows" in said
        curl = shlex.split(next(line for line in said.splitlines() if "curl" in line))
        url = curl[2].removesuffix("/v1/recommend")
        assert curl[:2] == ["curl", "-s"] and curl[3] == "-d" and f"Open {url}/" in said
        said_until(process, "serving")
        body = json.loads(curl[4])
        assert body["user_id"] == "it's me"
        with httpx.Client(base_url=url, transport=httpx.HTTPTransport(retries=8), timeout=30) as client:
            answer = client.post("/v1/recommend", content=curl[4]).raise_for_status().json()
            assert len(answer["items"]) == 5 and answer["model_version"] == current_version(tmp_path / "artifacts")
            assert "text/html" in client.get("/").raise_for_status().headers["content-type"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130, -signal.SIGINT)
    assert sorted(csv_folder.iterdir()) == before, "a CSV is data too: nothing else is put beside it"
    store = FileStore(tmp_path / "store")
    assert len(list(store.users())) == 15
    store.close()


_HEARD = """
import os, signal, sys
if "train" in sys.orig_argv:
    from torch.optim.optimizer import register_optimizer_step_post_hook
    def interrupt(*_):
        os.kill(os.getppid(), signal.SIGINT)
        while not signal.getsignal(signal.SIGINT).__self__.heard:
            pass
    register_optimizer_step_post_hook(interrupt)
"""


def test_ctrl_c_while_it_trains_reaches_the_training_which_keeps_a_checkpoint(csv_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_HEARD)
    arguments = ["--data", str(csv_folder), "--artifacts", str(tmp_path / "artifacts"), "--store", f"file:{tmp_path / 'store'}"]
    with demonstrating(arguments, PYTHONPATH=str(tmp_path / "site")) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(30) == 130 and "Traceback" not in said
        assert "is kept, run the same command again to resume" in said
    assert (tmp_path / "artifacts" / ".training" / "checkpoint.pt").exists()


def test_a_damaged_current_is_not_taken_for_no_model(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "CURRENT").write_text("../elsewhere\n")
    with pytest.raises(ArtifactError, match=r"'\.\./elsewhere' is not a plain lower-case name"):
        demo.demo_command(tiny.folder, tmp_path, "memory:", "127.0.0.1", 0)
    assert (tmp_path / "CURRENT").read_text() == "../elsewhere\n"


def test_filling_the_store_that_was_cut_short_is_done_again(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the users in the store are not all of them; users erased later are not brought back."""
    served: list[int] = []

    def served_by(settings: Settings, store: BehaviorStore, listening: socket.socket) -> None:
        served.append(len(list(store.users())))
        store.close()

    monkeypatch.setattr(demo, "run", served_by)
    data, artifacts, url = tmp_path / "data", tmp_path / "artifacts", f"file:{tmp_path / 'store'}"
    data.mkdir()
    (data / "interactions.parquet").symlink_to(tiny.folder / "interactions.parquet")
    artifacts.mkdir()
    (artifacts / tiny.version).symlink_to(tiny.artifacts / tiny.version)
    activate(artifacts, tiny.version)
    load, calls = FileStore.load, iter(range(1, 1000))

    def cut(store: FileStore, *behaviors: object) -> int:
        if next(calls) == 20:
            raise KeyboardInterrupt
        return load(store, *behaviors)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(FileStore, "load", cut)
        with pytest.raises(KeyboardInterrupt):
            demo.demo_command(data, artifacts, url, "127.0.0.1", 0)
    demo.demo_command(data, artifacts, url, "127.0.0.1", 0)
    store = FileStore(tmp_path / "store")
    store.delete("user-7")
    store.close()
    demo.demo_command(data, artifacts, url, "127.0.0.1", 0)
    assert served == [60, 59]
