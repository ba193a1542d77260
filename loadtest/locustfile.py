"""Closed-loop load with locust: `locust -f loadtest/locustfile.py --headless --host URL -u 4 -r 4 -t 30s --html build/load.html`.

Each stage of an answer's `Server-Timing` becomes a row of type `stage` in locust's tables and HTML report. Locust rounds percentiles to
whole milliseconds; the exact ones are printed at the end, and written to `--stage-report`.
"""

from __future__ import annotations

import json
import logging
import uuid
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from locust import FastHttpUser, between, events, task
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner
from rich.console import Console

from loadtest.report import StageTimes, parse_server_timing, show
from loadtest.survey import SurveyError, survey
from loadtest.workload import DEFAULT_CANDIDATES, DEFAULT_MIX, DEFAULT_ZIPF, Workload

_log = logging.getLogger("loadtest")


class Load:
    """One process's traffic and what it measured; made anew for each test run."""

    def __init__(self, environment: Environment) -> None:
        options = environment.parsed_options
        assert options is not None, "locust parses its options before a test starts"
        file = None if options.user_file is None else Path(options.user_file)
        if environment.host is None:
            raise ValueError("--host is missing: the running service, http://HOST:PORT")
        population = survey(environment.host, options.distinct_users, options.candidates, file)
        self.workload = Workload(
            population,
            candidates=options.candidates,
            seed=options.traffic_seed,
            zipf=options.zipf,
            mix=options.mix,
            run_id=uuid.uuid4().hex,
        )
        self.times = StageTimes()


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _options(parser: ArgumentParser) -> None:
    parser.add_argument("--distinct-users", type=int, default=100, help="users of the service drawn from")
    parser.add_argument("--user-file", help="one user id per line, instead of the users the service's console lists")
    parser.add_argument("--candidates", type=int, default=DEFAULT_CANDIDATES, help="candidates of a /v1/score")
    parser.add_argument("--mix", default=DEFAULT_MIX, help="shares of the requests")
    parser.add_argument("--zipf", type=float, default=DEFAULT_ZIPF, help="exponent of the users' Zipf law, 0 = uniform")
    parser.add_argument("--traffic-seed", type=int, default=0, help="seed of the traffic")
    parser.add_argument("--stage-report", help="write the exact percentiles per stage to this JSON file")


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _survey(environment: Environment, **_: Any) -> None:
    if isinstance(environment.runner, MasterRunner):
        return
    try:
        environment.load = Load(environment)  # type: ignore[attr-defined]
    except (SurveyError, ValueError) as error:
        _log.error("%s", error)
        # Ends the process at once; locust's own quit would first wait for the whole run time.
        raise SystemExit(2) from error


@events.test_stop.add_listener  # type: ignore[untyped-decorator]
def _report(environment: Environment, **_: Any) -> None:
    load: Load | None = getattr(environment, "load", None)
    # In a distributed run the samples are in the workers; the master's tables have the stage rows.
    if load is None or isinstance(environment.runner, WorkerRunner):
        return
    result = {"title": "Stages from Server-Timing, ms", "rows": load.times.rows()}
    show(result, Console(stderr=True))
    assert environment.parsed_options is not None, "locust parses its options before a test starts"
    if environment.parsed_options.stage_report is not None:
        Path(environment.parsed_options.stage_report).write_text(json.dumps(result, indent=1) + "\n", "utf-8")


class Shopper(FastHttpUser):
    """Sends the workload's next request after a short pause."""

    wait_time = between(0.05, 0.25)

    @task
    def send(self) -> None:
        """One request; an answer that is not 2xx counts as a failure, named by its status."""
        load: Load = self.environment.load
        request = load.workload.draw()
        with self.client.post(
            request.path, data=request.body.decode(), headers={"Content-Type": "application/json"}, name=request.path, catch_response=True
        ) as answer:
            if not 200 <= answer.status_code < 300:
                answer.failure(f"status {answer.status_code}: {(answer.text or '')[:200]}")
                return
        for stage, value_ms in parse_server_timing(answer.headers.get("Server-Timing", "")).items():
            load.times.add(request.path, stage, value_ms)
            # Straight into the row: as an event it would count as one more request in the totals.
            self.environment.stats.get(f"{request.path} {stage}", "stage").log(value_ms, 0)
