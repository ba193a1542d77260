"""An open-loop load test: requests leave at a fixed rate whether or not the earlier ones were answered.

Latency counts from the time at which a request should have left, so an overloaded service is not flattered by a generator that waits
for it (coordinated omission).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.connections import Answer, AnswerError, Connections
from loadtest.report import StageTimes, parse_server_timing, show, summary
from loadtest.survey import SurveyError, survey
from loadtest.workload import DEFAULT_CANDIDATES, DEFAULT_MIX, DEFAULT_ZIPF, SCORE, Request, Workload

LATENCY = "latency"
"""Row of the times from the intended send to the end of the answer, as the caller sees them; answered requests (2xx) alone."""


@dataclass(frozen=True)
class Objective:
    """What a run must reach: p99 of the latency of /v1/score in ms (of every path when the mix has no score), and a share of errors."""

    p99_ms: float
    max_error_share: float


@dataclass
class Measured:
    """What a run saw. `late_ms`: how long after its intended time each request really left; large values mean that the generator
    itself was short of processor time, and the figures say little about the service."""

    times: StageTimes = field(default_factory=StageTimes)
    errors: Counter[str] = field(default_factory=Counter)
    error_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    sent: int = 0
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """Requests that got no 2xx answer."""
        return self.errors.total()


async def run(url: str, requests: Sequence[Request], rate: float, *, connections: int = 512, timeout_s: float = 10.0) -> Measured:
    """Send the requests at `rate` per second, evenly spaced, and wait for the last answer.

    Args: `connections` most open at a time; a request that finds none free waits, and its latency counts the wait.
    Raises: ValueError for a rate that is not positive or a URL that cannot be used.
    """
    if not 0 < rate < float("inf"):
        raise ValueError(f"rate must be positive, got {rate}")
    pool, measured = Connections(url, connections), Measured()
    started = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as tasks:
            for number, request in enumerate(requests):
                intended = started + number / rate
                await asyncio.sleep(max(0.0, intended - time.perf_counter()))
                tasks.create_task(_one(pool, request, intended, timeout_s, measured))
    finally:
        await pool.close()
    measured.seconds = time.perf_counter() - started
    return measured


async def _one(pool: Connections, request: Request, intended: float, timeout_s: float, measured: Measured) -> None:
    measured.late_ms.append((time.perf_counter() - intended) * 1e3)
    measured.sent += 1
    stages: dict[str, float] = {}
    try:
        answer = await pool.send(request, timeout_s)
        error = _refusal(request, answer)
        stages = parse_server_timing(answer.headers.get("server-timing", ""))
    except TimeoutError:
        error = f"{request.path}: no answer within {timeout_s:g} s"
    except (OSError, AnswerError, ValueError) as failure:
        error = f"{request.path}: {type(failure).__name__}: {failure}"
    latency_ms = (time.perf_counter() - intended) * 1e3
    if error is not None:
        measured.errors[error] += 1
        measured.error_ms.append(latency_ms)
        return
    measured.times.add(request.path, LATENCY, latency_ms)
    for stage, value_ms in stages.items():
        measured.times.add(request.path, stage, value_ms)


def _refusal(request: Request, answer: Answer) -> str | None:
    """The kind of error an answer is; None for a 2xx."""
    if 200 <= answer.status < 300:
        return None
    try:
        problem = json.loads(answer.body)["type"]
    except (ValueError, KeyError, TypeError):
        problem = "no problem document"
    return f"{request.path}: {answer.status} {problem}"


def report(measured: Measured, rate: float, objective: Objective | None) -> dict[str, Any]:
    """The run as plain JSON values: `rows` per path and stage, `errors` by kind, `objective` with its verdict (null without one)."""
    answered = measured.sent - measured.failed
    result: dict[str, Any] = {
        "title": f"{measured.sent} requests at {rate:g}/s, {answered} answered in {measured.seconds:.1f} s; times in ms",
        "rate_per_s": rate,
        "sent": measured.sent,
        "answered": answered,
        "answered_per_s": round(answered / measured.seconds, 2),
        "seconds": round(measured.seconds, 3),
        "rows": measured.times.rows(),
        "errors": dict(measured.errors.most_common()),
        "error_answer": summary(measured.error_ms) if measured.error_ms else None,
        "generator_late": summary(measured.late_ms) if measured.late_ms else None,
        "objective": None,
    }
    if objective is not None:
        result["objective"] = _verdict(measured, objective)
    return result


def _verdict(measured: Measured, objective: Objective) -> dict[str, Any]:
    latencies = measured.times.of(SCORE, LATENCY) or [
        value for row in measured.times.rows() if row["stage"] == LATENCY for value in measured.times.of(row["path"], LATENCY)
    ]
    p99_ms = summary(latencies)["p99_ms"] if latencies else None
    error_share = measured.failed / measured.sent if measured.sent else 0.0
    met = p99_ms is not None and p99_ms <= objective.p99_ms and error_share <= objective.max_error_share
    seen = "nothing was answered" if p99_ms is None else f"p99 {p99_ms:.1f} ms (at most {objective.p99_ms:g})"
    text = f"{seen}, {error_share:.2%} errors (at most {objective.max_error_share:.2%})"
    return {"met": met, "text": text, "p99_ms": p99_ms, "error_share": error_share}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m loadtest.open_loop", description=__doc__)
    made.add_argument("--url", required=True, help="the running service, http://HOST:PORT")
    made.add_argument("--rate", type=float, required=True, help="requests per second")
    made.add_argument("--seconds", type=float, default=30.0, help="duration, s (default %(default)s)")
    made.add_argument("--users", type=int, default=100, help="users drawn from (default %(default)s)")
    made.add_argument("--user-file", type=Path, help="one user id per line, instead of the users the service's console lists")
    made.add_argument("--candidates", type=int, default=DEFAULT_CANDIDATES, help="candidates of a /v1/score (default %(default)s)")
    made.add_argument("--mix", default=DEFAULT_MIX, help="shares of the requests (default %(default)s)")
    made.add_argument("--zipf", type=float, default=DEFAULT_ZIPF, help="exponent of the users' Zipf law, 0 = uniform (default %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="seed of the traffic (default %(default)s)")
    made.add_argument("--connections", type=int, default=512, help="most open connections (default %(default)s)")
    made.add_argument("--timeout-s", type=float, default=10.0, help="longest wait for an answer, s (default %(default)s)")
    made.add_argument("--objective-p99-ms", type=float, help="pass only when the p99 of /v1/score is at most this; status 1 otherwise")
    made.add_argument("--max-errors", type=float, default=0.001, help="share of errors the objective allows (default %(default)s)")
    made.add_argument("--out", type=Path, help="also write the report to this file")
    made.add_argument("--json", action="store_true", help="print JSON alone to standard output")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the load test; returns 0, 1 when the objective was missed, 2 when it could not run."""
    asked = parser().parse_args(arguments)
    try:
        count = int(asked.rate * asked.seconds)
        if count < 1:
            raise ValueError(f"--rate {asked.rate:g} for --seconds {asked.seconds:g} sends nothing")
        population = survey(asked.url, asked.users, asked.candidates, asked.user_file)
        workload = Workload(
            population, candidates=asked.candidates, seed=asked.seed, zipf=asked.zipf, mix=asked.mix, run_id=uuid.uuid4().hex
        )
        # Made before the clock starts, so that making them delays nothing.
        requests = [workload.draw() for _ in range(count)]
        measured = asyncio.run(run(asked.url, requests, asked.rate, connections=asked.connections, timeout_s=asked.timeout_s))
    except (SurveyError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    objective = None if asked.objective_p99_ms is None else Objective(asked.objective_p99_ms, asked.max_errors)
    result = report(measured, asked.rate, objective)
    if asked.out is not None:
        asked.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    if asked.json:
        print(json.dumps(result))
    else:
        console = Console()
        show(result, console)
        console.print(f"the generator was late by p99 {result['generator_late']['p99_ms']:.2f} ms", markup=False)
    return 0 if result["objective"] is None or result["objective"]["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
