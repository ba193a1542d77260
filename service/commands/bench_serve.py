"""`dare bench serve`: the whole request beside other ways to serve the same model, what a behavior costs, what processes share."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from service.bench.litserve_rival import can_run, litserve
from service.bench.requests import Drawn, fill
from service.bench.shared_memory import can_measure, held_by, together
from service.bench.sides import OUTSIDE, Side, dare_serve, free_port, started
from service.commands.terminal import console, emit, table

_USERS = 8
_TOLERANCE = 1e-5


def bench_serve(
    artifacts: Path,
    length: int,
    candidates: int,
    seconds: float,
    rounds: int,
    connections: int,
    as_json: bool,
    litserve_in: Path,
    lengths: list[int],
    processes: list[int],
) -> None:
    """See `dare bench serve`. Raises: RuntimeError when the services do not agree."""
    drawn = Drawn.of(artifacts)
    result: dict[str, Any] = {
        "length": length,
        "candidates": candidates,
        "connections": connections,
        "cores": os.cpu_count() or 1,
        "model_version": drawn.version,
    }
    result |= _compared(drawn, artifacts, length, candidates, seconds, rounds, connections, litserve_in)
    result["by_length"] = _by_length(drawn, artifacts, lengths, candidates, seconds / max(1, len(lengths)))
    result["memory"] = _memory(drawn, artifacts, processes, length, candidates)
    emit(result, as_json)
    if not as_json:
        _show(result)


def _compared(
    drawn: Drawn, artifacts: Path, length: int, candidates: int, seconds: float, rounds: int, connections: int, litserve_in: Path
) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    users = [f"u{i}" for i in range(_USERS)]
    item_hash, timestamp = drawn.histories(rng, _USERS, length)
    bodies = drawn.bodies(rng, users, candidates, 32)
    cores, skipped = os.cpu_count() or 1, dict[str, str]()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        histories = Path(folder) / "histories.npz"
        np.savez(histories, item_hash=item_hash, timestamp=timestamp)
        sides = [running.enter_context(dare_serve(artifacts, fill(Path(folder) / "store", users, item_hash, timestamp), cores))]
        for threads in sorted({1, cores}):
            sides.append(running.enter_context(_torch(artifacts, histories, threads)))
        able, reason = can_run(litserve_in)
        if able:
            sides.append(running.enter_context(litserve(litserve_in, artifacts, histories, cores)))
        else:
            skipped["LitServe + torch"] = reason
            console.print(f"LitServe is left out: {reason}", markup=False)
        difference = _check(sides, bodies)
        for side in sides:
            side.load(bodies, connections, min(seconds, 2.0), keep=False)
        for number in range(rounds):
            # Sides take turns, and the order turns too: whatever else the machine does falls on all of them.
            for side in sides if number % 2 == 0 else sides[::-1]:
                side.load(bodies, connections, seconds / rounds)
    ours, *others = (side.summary() for side in sides)
    return {
        "largest_difference": difference,
        "sides": {side.name: side.summary() for side in sides},
        "left_out": skipped,
        "times_the_throughput": ours["answers_per_s"] / max(other["answers_per_s"] for other in others),
    }


def _by_length(drawn: Drawn, artifacts: Path, lengths: list[int], candidates: int, seconds: float) -> list[dict[str, Any]]:
    """One caller, one prepared user of each length: stage times, and the nanoseconds of a behavior and candidate."""
    rng, rows = np.random.default_rng(1), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        for length in lengths:
            item_hash, timestamp = drawn.histories(rng, 1, length)
            bodies = drawn.bodies(rng, ["u"], candidates, 8)
            with dare_serve(artifacts, fill(Path(folder) / str(length), ["u"], item_hash, timestamp), 1) as side:
                side.load(bodies, 1, min(seconds, 0.5), keep=False)
                side.load(bodies, 1, seconds)
            median = {name: times["p50"] for name, times in side.summary()["stages_ms"].items()}
            stages = {name: median[name] for name in ("total", "search", "rank", OUTSIDE)}
            rows.append({"length": length, "ns_a_pair": median["search"] * 1e6 / (length * candidates)} | stages)
    return rows


def _memory(drawn: Drawn, artifacts: Path, processes: list[int], length: int, candidates: int) -> list[dict[str, Any]]:
    """N processes serve the same artifact, each with one user asked for: what they hold together."""
    able, reason = can_measure()
    if not able:
        console.print(f"memory is left out: {reason}", markup=False)
        return []
    rng, rows = np.random.default_rng(2), list[dict[str, Any]]()
    item_hash, timestamp = drawn.histories(rng, 1, length)
    bodies = drawn.bodies(rng, ["u"], candidates, 8)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        sides = list[Side]()
        for count in sorted(processes):
            while len(sides) < count:
                store = fill(Path(folder) / str(len(sides)), ["u"], item_hash, timestamp)
                sides.append(running.enter_context(dare_serve(artifacts, store, 1)))
            for side in sides:
                side.load(bodies, 1, 0.2, keep=False)
            rows.append({"processes": count} | together([held_by(side.pid, artifacts) for side in sides]))
    return rows


@contextmanager
def _torch(artifacts: Path, histories: Path, threads: int) -> Iterator[Side]:
    port = free_port()
    command = [sys.executable, "-m", "service.bench.torch_server", str(artifacts), str(histories), str(port), str(threads)]
    with started(command, {}, port) as pid:
        yield Side(f"FastAPI + torch, {threads} thread{'s' * (threads > 1)} a request", port, pid)


def _check(sides: list[Side], bodies: list[bytes]) -> float:
    """Largest difference between the services' scores. Raises: RuntimeError above the tolerance: nothing is timed then."""
    largest = 0.0
    for body in bodies[:_USERS]:
        scores = []
        for side in sides:
            connection = side.connected()
            scores.append(np.array(json.loads(side.post(connection, body)[0])["scores"]))
            connection.close()
        largest = max(largest, *(float(np.abs(other - scores[0]).max()) for other in scores[1:]))
    if largest > _TOLERANCE:
        raise RuntimeError(f"the services' scores differ by {largest:.1e}, more than {_TOLERANCE:g}: nothing to compare")
    return largest


def _show(result: dict[str, Any]) -> None:
    rows = []
    for name, side in result["sides"].items():
        head = {"service": name, "answers/s": f"{side['answers_per_s']:.1f}"}
        for stage, times in ({"latency": side["latency_ms"]} | side["stages_ms"]).items():
            rows.append({**head, "stage": stage, "p50 ms": f"{times['p50']:.3f}", "p99 ms": f"{times['p99']:.3f}"})
            head = {"service": "", "answers/s": ""}
    table(
        f"{result['candidates']} candidates, {result['length']:,} behaviors, {result['connections']} callers, {result['cores']} cores; "
        f"scores differ by at most {result['largest_difference']:.0e}; {result['times_the_throughput']:.1f} times the throughput",
        rows,
    )
    if result["by_length"]:
        named = {"length": "behaviors", "ns_a_pair": "search, ns a behavior and candidate"}
        rows = [{named.get(name, f"{name}, ms p50"): value for name, value in row.items()} for row in result["by_length"]]
        table(f"one caller, one prepared user, {result['candidates']} candidates", rows)
    if result["memory"]:
        table("processes of one artifact together, MB (proportional: a page of n processes counts 1/n in each)", result["memory"])
