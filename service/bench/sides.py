"""Services in processes of their own, loaded in turns over HTTP: what `dare bench serve` compares."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from service.bench.connection import Connection, posted

_START_S = 120.0
OUTSIDE = "outside queue and kernels"


@dataclass
class Side:
    """One of the services: its name, port and process, and what was measured of it. Latencies as the caller sees them and stages, ms."""

    name: str
    port: int
    pid: int
    seconds: float = 0.0
    latency_ms: list[float] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Answers per second, and percentiles."""
        total, *parts = (np.array(self.stages_ms.get(name, [])) for name in ("total", "queue", "search", "rank"))
        # Waiting for a thread is the load's doing, not the service's.
        overhead: list[float] = (total - sum(parts)).tolist()
        stages = self.stages_ms | ({OUTSIDE: overhead} if overhead else {})
        return {
            "answers_per_s": len(self.latency_ms) / self.seconds,
            "latency_ms": percentiles(self.latency_ms),
            "stages_ms": {name: percentiles(values) for name, values in stages.items()},
        }

    def load(self, bodies: list[bytes], connections: int, seconds: float, keep: bool = True) -> None:
        """Keep `connections` callers busy, who never wait between requests; `keep` what is measured. Raises: RuntimeError for an answer
        other than 200."""
        until = time.perf_counter() + seconds
        requests = [posted("/v1/score", body) for body in bodies]
        # Read once the load is over.
        collected: list[tuple[float, bytes]] = []

        def call(first: int) -> None:
            connection = self.connected()
            place = first
            while time.perf_counter() < until:
                began = time.perf_counter()
                head = self.answered(connection, requests[place % len(requests)])[1]
                collected.append(((time.perf_counter() - began) * 1e3, head))
                place += 1
            connection.close()

        began = time.perf_counter()
        with ThreadPoolExecutor(connections) as callers:
            list(callers.map(call, range(connections)))
        if keep:
            self.seconds += time.perf_counter() - began
            self.latency_ms += [latency for latency, _ in collected]
            for _, head in collected:
                note_stages(self.stages_ms, head)

    def connected(self) -> Connection:
        """A new connection."""
        return Connection(self.port)

    def post(self, connection: Connection, body: bytes, path: str = "/v1/score") -> tuple[bytes, bytes]:
        """One request's answer and its head. Raises: RuntimeError for an answer other than 200."""
        return self.answered(connection, posted(path, body))

    def answered(self, connection: Connection, request: bytes) -> tuple[bytes, bytes]:
        """The same of a whole request."""
        status, head, content = connection.exchange(request)
        if status != 200:
            raise RuntimeError(f"{self.name} answered {status}: {content[:300]!r}")
        return content, head


@contextmanager
def dare_serve(artifacts: Path, store: str, threads: int) -> Iterator[Side]:
    """`dare serve`, with as many requests at a time as `threads`, and a queue that nobody leaves."""
    port = free_port()
    command = ["-m", "service", "serve", "--artifacts", str(artifacts), "--store", store, "--port", str(port)]
    limits = {"DARE_DEVELOPMENT": "true", "DARE_INFERENCE_THREADS": str(threads), "DARE_QUEUE_WAIT_MS": "60000", "OMP_NUM_THREADS": "1"}
    with started([sys.executable, *command], limits, port) as pid:
        yield Side("dare serve", port, pid)


@contextmanager
def started(command: list[str], environment: dict[str, str], port: int) -> Iterator[int]:
    """A process that listens on `port`, ended on leaving; yields its id. Raises: RuntimeError when it ends or does not listen in time."""
    # A group of its own: a service may start processes that outlive it.
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, process_group=0
    )
    assert process.stderr is not None
    shown = " ".join(command[1:4])
    try:
        until = time.monotonic() + _START_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None:
                raise RuntimeError(f"{shown} ended with status {process.returncode}: {process.stderr.read()[-500:]}")
            if time.monotonic() > until:
                raise RuntimeError(f"{shown} did not listen within {_START_S:.0f} s")
            time.sleep(0.05)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


def note_stages(stages_ms: dict[str, list[float]], head: bytes) -> None:
    """Add what the `Server-Timing` in the head of an answer says to the times of each stage, ms."""
    for name, value in re.findall(rb"(\w+);dur=([\d.]+)", head):
        stages_ms.setdefault(name.decode(), []).append(float(value))


def percentiles(values: list[float]) -> dict[str, float]:
    """p50 and p99."""
    return {f"p{p}": round(float(np.percentile(values, p)), 3) for p in (50, 99)}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
