"""The locust scenario, run by locust itself."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.loadtest.conftest import TinyService

ROOT = Path(__file__).parents[2]


LONGEST_S = 60


def locust(url: str, until: Callable[[], bool], *options: str) -> tuple[int, str]:
    """Exit status and output of locust, which is told to end by SIGINT once `until` holds: a busy machine takes longer, not less."""
    command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--host", url, "--only-summary"]
    run = [*command, "-u", "4", "-r", "4", "-t", f"{LONGEST_S}s", "--candidates", "3", *options]
    with subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        while not until() and running.poll() is None:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=2 * LONGEST_S)
    return running.returncode, output


def scored(service: TinyService) -> bool:
    """Whether some scores have been asked for."""
    return sum(path == "/v1/score" for path, _ in service.asked) > 5


def test_stages_are_rows_of_their_own(service: TinyService, tmp_path: Path) -> None:
    html, stages = tmp_path / "load.html", tmp_path / "stages.json"
    files = ("--html", str(html), "--json-file", str(tmp_path / "load"), "--stage-report", str(stages))
    status, output = locust(service.url, lambda: scored(service), *files)
    assert status == 0, output
    rows = {(row["method"], row["name"]): row for row in json.loads((tmp_path / "load.json").read_text())}
    score, search = rows["POST", "/v1/score"], rows["stage", "/v1/score search"]
    assert score["num_requests"] == search["num_requests"] > 0
    assert search["total_response_time"] / search["num_requests"] == pytest.approx(2.25)
    # The totals count requests alone, without the stages' rows; the two files are written moments apart, while four users may finish.
    sent = sum(row["num_requests"] for (kind, _), row in rows.items() if kind == "POST")
    (total,) = re.findall(r'"name": "Aggregated", "num_failures": 0, "num_requests": (\d+)', html.read_text())
    assert 0 <= sent - int(total) <= 4
    assert "/v1/score search" in html.read_text()
    exact = {(row["path"], row["stage"]): row for row in json.loads(stages.read_text())["rows"]}
    assert exact["/v1/score", "search"]["p99_ms"] == 2.25


def test_a_refusal_fails_the_run(service: TinyService) -> None:
    service.reply = lambda path: (503, {}, {"type": "urn:dare:problem:overloaded"})
    status, output = locust(service.url, lambda: scored(service))
    assert status == 1
    assert "status 503" in output


def test_a_service_that_is_gone_ends_the_run_at_once() -> None:
    status, output = locust("http://127.0.0.1:1", lambda: False)
    assert status == 2
    assert "127.0.0.1:1/console/users" in output
