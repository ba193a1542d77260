"""Server-Timing is parsed, percentiles are times that were measured, a report survives being saved."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.report import StageTimes, main, parse_server_timing, show, summary


@pytest.mark.parametrize(
    ("header", "stages"),
    [
        ("queue;dur=0.020, total;dur=4", {"queue": 0.02, "total": 4.0}),
        ('search;desc="top k";dur="1.5",rank ; DUR = 2', {"search": 1.5, "rank": 2.0}),
        ("miss, cache;desc=x", {}),
        ("", {}),
    ],
)
def test_server_timing(header: str, stages: dict[str, float]) -> None:
    assert parse_server_timing(header) == stages


@pytest.mark.parametrize("value", ["fast", "", "nan", "inf"])
def test_a_duration_that_is_no_number_is_named(value: str) -> None:
    with pytest.raises(ValueError, match=f"'rank'.*dur={value}"):
        parse_server_timing(f"queue;dur=1, rank;dur={value}")


def test_percentiles_are_measured_times() -> None:
    row = summary([float(value) for value in range(1, 101)])
    assert row == {
        "count": 100,
        "mean_ms": 50.5,
        "p50_ms": 51.0,
        "p90_ms": 91.0,
        "p95_ms": 96.0,
        "p99_ms": 100.0,
        "p99.9_ms": 100.0,
        "max_ms": 100.0,
    }
    assert set(summary([3.0]).values()) == {1, 3.0}


def test_rows_and_table_keep_paths_and_stages_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = StageTimes()
    for value in (1.0, 2.0):
        times.add("/v1/score", "search", value)
    times.add("/v1/score", "rank", 7.0)
    times.add("/v1/recommend", "search", 9.0)
    rows = times.rows()
    assert [(row["path"], row["stage"], row["count"]) for row in rows] == [
        ("/v1/score", "search", 2),
        ("/v1/score", "rank", 1),
        ("/v1/recommend", "search", 1),
    ]
    assert times.of("/v1/recommend", "rank") == []
    report = {"rows": rows, "errors": {"/v1/score: 503 [x]": 4}, "objective": {"met": False, "text": "p99 9 ms"}}
    text = io.StringIO()
    show(report, Console(file=text, width=80))
    assert "4 x /v1/score: 503 [x]" in text.getvalue()
    assert "FAIL: p99 9 ms" in text.getvalue()
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report))
    assert main([str(file)]) == 0
    assert "/v1/recommend" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["{", "{}", '{"rows": 3}'])
def test_what_is_no_report_is_named(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "other.json"
    file.write_text(content)
    assert main([str(file)]) == 2
    assert "other.json: not a load-test report" in capsys.readouterr().err
