"""`dare bench serve`: the whole request, side by side with a straightforward FastAPI + torch service of the same model."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from model.artifact import Artifact
from model.item_hash import hash_item_ids
from service.commands.terminal import emit, table
from service.file_store import FileStore

_USERS = 8
_TOLERANCE = 1e-5
_START_S = 120.0


@dataclass
class Side:
    """One of the services: its name and port, and what was measured of it. Latencies as the caller sees them and stages, ms."""

    name: str
    port: int
    seconds: float = 0.0
    latency_ms: list[float] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Answers per second, and percentiles."""
        total, *parts = (np.array(self.stages_ms.get(name, [])) for name in ("total", "queue", "search", "rank"))
        # Waiting for a thread is the load's doing, not the service's.
        overhead: list[float] = (total - sum(parts)).tolist()
        stages = self.stages_ms | ({"outside queue and kernels": overhead} if overhead else {})
        return {
            "answers_per_s": len(self.latency_ms) / self.seconds,
            "latency_ms": _percentiles(self.latency_ms),
            "stages_ms": {name: _percentiles(values) for name, values in stages.items()},
        }


def bench_serve(artifacts: Path, length: int, candidates: int, seconds: float, rounds: int, connections: int, as_json: bool) -> None:
    """See `dare bench serve`. Raises: RuntimeError when the two services do not agree."""
    rng = np.random.default_rng(0)
    artifact = Artifact(artifacts)
    ids, start = artifact.array("item_id"), artifact.array("item_id_start")
    items = [bytes(ids[start[i] : start[i + 1]]).decode() for i in range(len(start) - 1)]
    now = int(artifact.config["as_of"])
    history = rng.integers(0, len(items), (_USERS, length))
    timestamp = np.sort(rng.integers(now - 300 * 86_400, now, (_USERS, length)), axis=1)
    item_hash = hash_item_ids(items)[history]
    bodies = [
        json.dumps(
            {"user_id": f"u{i % _USERS}", "candidates": [items[j] for j in rng.integers(0, len(items), candidates)], "timestamp": now}
        ).encode()
        for i in range(32)
    ]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        store = FileStore(Path(folder) / "store")
        for user in range(_USERS):
            store.load(f"u{user}", item_hash[user], timestamp[user])
        store.close()
        np.savez(Path(folder) / "histories.npz", item_hash=item_hash, timestamp=timestamp)
        cores = os.cpu_count() or 1
        sides = [running.enter_context(_ours(artifacts, Path(folder) / "store", cores))]
        for threads in sorted({1, cores}):
            sides.append(running.enter_context(_torch(artifacts, Path(folder) / "histories.npz", threads)))
        difference = _check(sides, bodies)
        for side in sides:
            _load(side, bodies, connections, min(seconds, 2.0), keep=False)
        for number in range(rounds):
            # Sides take turns, and the order turns too: whatever else the machine does falls on all of them.
            for side in sides if number % 2 == 0 else sides[::-1]:
                _load(side, bodies, connections, seconds / rounds, keep=True)
    result: dict[str, Any] = {
        "length": length,
        "candidates": candidates,
        "connections": connections,
        "cores": cores,
        "model_version": artifact.version,
        "largest_difference": difference,
        "sides": {side.name: side.summary() for side in sides},
    }
    best = max(result["sides"][side.name]["answers_per_s"] for side in sides[1:])
    result["times_the_throughput"] = result["sides"][sides[0].name]["answers_per_s"] / best
    emit(result, as_json)
    if not as_json:
        _show(result)


@contextmanager
def _ours(artifacts: Path, store: Path, threads: int) -> Iterator[Side]:
    port = _free_port()
    command = ["-m", "service", "serve", "--artifacts", str(artifacts), "--store", f"file:{store}", "--port", str(port)]
    limits = {"DARE_DEVELOPMENT": "true", "DARE_INFERENCE_THREADS": str(threads), "DARE_QUEUE_WAIT_MS": "60000", "OMP_NUM_THREADS": "1"}
    with _process(command, limits, port):
        yield Side("dare serve", port)


@contextmanager
def _torch(artifacts: Path, histories: Path, threads: int) -> Iterator[Side]:
    port = _free_port()
    command = ["-m", "service.commands.torch_server", str(artifacts), str(histories), str(port), str(threads)]
    with _process(command, {}, port):
        yield Side(f"FastAPI + torch, {threads} thread{'s' * (threads > 1)} a request", port)


@contextmanager
def _process(command: list[str], environment: dict[str, str], port: int) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, *command], env=os.environ | environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        until = time.monotonic() + _START_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command[:3])} ended with status {process.returncode}: {process.stderr.read()[-500:]}")
            if time.monotonic() > until:
                raise RuntimeError(f"{' '.join(command[:3])} did not listen within {_START_S:.0f} s")
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def _check(sides: list[Side], bodies: list[bytes]) -> float:
    """Largest difference between the services' scores. Raises: RuntimeError above the tolerance: nothing is timed then."""
    largest = 0.0
    for body in bodies[:_USERS]:
        scores = []
        for side in sides:
            connection = http.client.HTTPConnection("127.0.0.1", side.port, timeout=60)
            status, content, _ = _post(connection, body)
            connection.close()
            if status != 200:
                raise RuntimeError(f"{side.name} answered {status}: {content[:300]!r}")
            scores.append(np.array(json.loads(content)["scores"]))
        largest = max(largest, *(float(np.abs(other - scores[0]).max()) for other in scores[1:]))
    if largest > _TOLERANCE:
        raise RuntimeError(f"the services' scores differ by {largest:.1e}, more than {_TOLERANCE:g}: nothing to compare")
    return largest


def _load(side: Side, bodies: list[bytes], connections: int, seconds: float, keep: bool) -> None:
    """Keep `connections` callers busy, who never wait between requests."""
    until = time.perf_counter() + seconds
    collected: list[tuple[float, str]] = []

    def call(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", side.port, timeout=60)
        place = first
        while time.perf_counter() < until:
            began = time.perf_counter()
            status, content, timing = _post(connection, bodies[place % len(bodies)])
            if status != 200:
                raise RuntimeError(f"{side.name} answered {status}: {content[:300]!r}")
            collected.append(((time.perf_counter() - began) * 1e3, timing))
            place += 1
        connection.close()

    began = time.perf_counter()
    with ThreadPoolExecutor(connections) as callers:
        list(callers.map(call, range(connections)))
    if keep:
        side.seconds += time.perf_counter() - began
        side.latency_ms += [latency for latency, _ in collected]
        for _, timing in collected:
            for name, value in re.findall(r"(\w+);dur=([\d.]+)", timing):
                side.stages_ms.setdefault(name, []).append(float(value))


def _post(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, bytes, str]:
    connection.request("POST", "/v1/score", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read(), response.headers.get("Server-Timing", "")


def _percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(values, p)), 3) for p in (50, 99)}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


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
