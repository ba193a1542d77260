"""`dare bench serve` really runs both services, compares their scores first, and times nothing that differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.commands import bench_serve as module
from service.commands.bench_serve import bench_serve
from tests.conftest import Tiny
from tests.service.model_versions import with_versions


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """One torch service instead of two: they start slowly."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)


NOWHERE = {"litserve_in": Path("no such environment"), "lengths": [], "processes": []}


def test_both_services_agree_and_are_timed(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = {"lengths": [30], "processes": [2]}
    bench_serve(tiny.artifacts, 300, 40, seconds=0.4, rounds=2, connections=2, as_json=True, **NOWHERE | shapes)
    result = json.loads(capsys.readouterr().out)
    assert result["largest_difference"] <= 1e-5 and result["model_version"] == tiny.version
    ours = result["sides"].pop("dare serve")
    baselines = result["sides"].values()
    assert len(baselines) >= 1 and all(side["answers_per_s"] > 0 for side in (ours, *baselines))
    assert set(ours["stages_ms"]) >= {"search", "rank", "total", "outside queue and kernels"}
    assert result["times_the_throughput"] == pytest.approx(
        ours["answers_per_s"] / max(side["answers_per_s"] for side in baselines), rel=1e-6
    )
    assert "venv" in result["left_out"]["LitServe + torch"], "what is left out says what to do"
    assert [row["length"] for row in result["by_length"]] == [30]
    assert all(row["ns_a_pair"] == pytest.approx(row["search"] * 1e6 / row["length"] / 40) for row in result["by_length"])
    (memory,) = result["memory"]
    assert memory["processes"] == 2 and 0 < memory["tables_proportional"] < memory["tables_resident"] < memory["resident"]
    # Both map the same files: a page counts half in each, and one more time for whoever else maps it.
    assert memory["tables_proportional"] <= memory["tables_resident"] * 0.75


def test_services_that_differ_are_not_timed(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, other = with_versions(tiny, tmp_path / "a", 0.1)
    original = module._torch
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / other).rename(tmp_path / "b" / other)
    (tmp_path / "b" / "CURRENT").write_text(other + "\n")
    monkeypatch.setattr(module, "_torch", lambda _, histories, threads: original(tmp_path / "b", histories, threads))
    with pytest.raises(RuntimeError, match="nothing to compare"):
        bench_serve(tmp_path / "a", 50, 5, seconds=0.1, rounds=1, connections=1, as_json=True, **NOWHERE)
