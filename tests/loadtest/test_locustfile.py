"""The locust scenario, run by locust itself."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loadtest.conftest import TinyService

ROOT = Path(__file__).parents[2]


def locust(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--host", url, "--only-summary"]
    return subprocess.run(
        [*command, "-u", "4", "-r", "4", "-t", "2s", "--candidates", "3", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_stages_are_rows_of_their_own(service: TinyService, tmp_path: Path) -> None:
    html, stages = tmp_path / "load.html", tmp_path / "stages.json"
    done = locust(service.url, "--html", str(html), "--csv", str(tmp_path / "load"), "--stage-report", str(stages))
    assert done.returncode == 0, done.stderr
    with (tmp_path / "load_stats.csv").open() as file:
        rows = {(row["Type"], row["Name"]): row for row in csv.DictReader(file)}
    scored, search = rows["POST", "/v1/score"], rows["stage", "/v1/score search"]
    assert int(scored["Request Count"]) == int(search["Request Count"]) > 0
    assert float(search["Average Response Time"]) == pytest.approx(2.25)
    # The totals count requests alone.
    sent = sum(int(row["Request Count"]) for (kind, _), row in rows.items() if kind == "POST")
    assert int(rows["", "Aggregated"]["Request Count"]) == sent
    assert "/v1/score search" in html.read_text()
    exact = {(row["path"], row["stage"]): row for row in json.loads(stages.read_text())["rows"]}
    assert exact["/v1/score", "search"]["p99_ms"] == 2.25


def test_a_refusal_fails_the_run(service: TinyService) -> None:
    service.reply = lambda path: (503, {}, {"type": "urn:dare:problem:overloaded"})
    done = locust(service.url)
    assert done.returncode == 1
    assert "status 503" in done.stdout + done.stderr


def test_a_service_that_is_gone_ends_the_run_at_once() -> None:
    done = locust("http://127.0.0.1:1")
    assert done.returncode == 2
    assert "127.0.0.1:1/console/users" in done.stderr
