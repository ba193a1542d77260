"""Writing a tidy folder: order, interruption, kills and what was there before."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from model.data.raw_log import RawDataError, ReadReport
from model.data.taobao import write_taobao
from model.data.tidy_writer import TidyWriter

FRAME = pl.DataFrame({"user_id": [2, 1, 2, 1], "item_id": [1, 2, 3, 4], "timestamp": [5, 9, 5, 4]})


def write(folder: Path, items: pl.DataFrame | None) -> ReadReport:
    report = ReadReport(read=4)
    with TidyWriter(folder, 1, ("timestamp",)) as writer:
        writer.add(FRAME)
        writer.join(report)
        writer.publish(items, report)
    return report


def broken(writer: TidyWriter) -> None:
    with writer:
        writer.add(FRAME)
        writer.join(ReadReport())


def test_equal_times_keep_the_order_of_the_source(tmp_path: Path) -> None:
    report = write(tmp_path, None)
    assert pl.read_parquet(tmp_path / "interactions.parquet").rows() == [(1, 4, 4), (1, 2, 9), (2, 1, 5), (2, 3, 5)]
    assert report.written == {"behaviors": 4, "users": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["interactions.parquet"]


def test_another_sets_items_are_not_left_beside(tmp_path: Path) -> None:
    write(tmp_path, pl.DataFrame({"item_id": [1], "category_id": [7]}))
    before = (tmp_path / "interactions.parquet").read_bytes()
    with pytest.raises(RawDataError, match=r"items\.parquet is already there"):
        write(tmp_path, None)
    assert (tmp_path / "interactions.parquet").read_bytes() == before


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, None)
    before = (tmp_path / "interactions.parquet").read_bytes()
    writer = TidyWriter(tmp_path, 1, ("no_such_column",))
    with pytest.raises(pl.exceptions.ColumnNotFoundError):
        broken(writer)
    assert (tmp_path / "interactions.parquet").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["interactions.parquet"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_command_leaves_nothing_half_written(tmp_path: Path, how: signal.Signals) -> None:
    source, out = tmp_path / "UserBehavior.csv", tmp_path / "out"
    with source.open("w") as file:
        for block in range(40):
            file.writelines(f"{n % 977},{n % 313},{n % 7},pv,{1511539200 + n}\n" for n in range(block * 10_000, block * 10_000 + 10_000))
    program = (
        "import sys\nfrom pathlib import Path\nfrom model.data import raw_log\nfrom service.cli import app\n"
        "raw_log.PIECE_BYTES = 20_000\napp(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, "data", "taobao", str(source), "--out", str(out)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not list(out.glob(".partial/bucket-*")):
        assert running.poll() is None and time.monotonic() < deadline, "it ended before it could be stopped"
        time.sleep(0.005)
    running.send_signal(how)
    running.communicate(timeout=30)
    assert running.returncode != 0
    assert not list(out.glob("*.parquet"))
    if how == signal.SIGINT:
        assert not list(out.iterdir())
    write_taobao(source, out)
    assert sorted(path.name for path in out.iterdir()) == ["interactions.parquet", "items.parquet"]
    assert len(pl.read_parquet(out / "interactions.parquet")) == 400_000
