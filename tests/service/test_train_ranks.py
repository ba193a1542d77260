"""`dare train` as torchrun starts it: one model, written and reported once."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import write_tidy
from tests.model.parallel_training import dare_job, finish, start


def test_two_processes_write_and_report_one_model(tmp_path: Path) -> None:
    folder = write_tidy(tmp_path / "data", users=12, items=60, categories=4, longest=100)
    arguments = ["train", "--data", str(folder), "--out", str(tmp_path / "artifacts"), "--preset", "demo", "--json"]
    assert finish(start(2, dare_job, tmp_path, arguments)) == [0, 0]
    report = json.loads((tmp_path / "0.out").read_text())
    assert report["test"]["num_test"] > 0 and "2 processes share each step" in (tmp_path / "0.err").read_text()
    assert [(tmp_path / f"1.{stream}").read_text() for stream in ("out", "err")] == ["", ""]
    versions = sorted(path.name for path in (tmp_path / "artifacts").iterdir() if path.is_dir() and not path.name.startswith("."))
    assert versions == [report["version"]] and not list((tmp_path / "artifacts").glob(".training/*"))
