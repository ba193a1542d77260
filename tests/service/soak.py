"""A soak: one service on a shared store under half of the load that it can take, for half an hour, with a model version coming in now and
then; then 100 versions in turn.

`python -m tests.service.soak` prints what was measured and writes it, with a plot, to `--out`; status 1 when a target was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil

from loadtest.connections import Connections
from loadtest.open_loop import LATENCY, Measured, run
from loadtest.survey import Population, survey
from loadtest.workload import RECOMMEND, SCORE, Request, Workload
from model.artifact import current_version
from model.data.tidy import read_tidy
from service.commands.serving import load_into
from service.heap import TRIM_S
from service.redis_store import RedisStore
from tests.service.model_versions import rewrite
from tests.service.redis_server import RedisServer, free_port
from tests.service.soak_figures import LEAST_WINDOWS, Window, misses, plot, table

MOST_SWAP_GROWTH = 0.05
"""Of the highest resident memory, from the first to the last period of swaps after the tenth."""
_SWAP_S = 1.5
"""From one of the swaps at the end to the next, or as long as one takes."""
_PERIOD = round(TRIM_S / _SWAP_S)
"""Swaps in which the heap gives back once what is free: memory rises from one such moment to the next, and is compared over all of it."""
_STOPPED_MS = 1000.0
"""A generator that was late by this much stood still: the whole soak may have been stopped for another measurement. What such a window
measured is counted apart."""
_CACHES = {"DARE_USER_CACHE_BYTES": str(64 * 10**6), "DARE_STORE_CACHE_BYTES": str(16 * 10**6)}
"""Small enough to be full before the slopes begin: a cache that fills is growth, but no leak."""
_CALLERS = 3
_WARM_PARTS = 6
_CAPACITY_PARTS = 3
_OVERLOADED = "503 urn:dare:problem:overloaded"
_MB = 1e6


@dataclass
class Soaked:
    """`rate` in requests a second, `capacity` what it is half of; `warm_mb` resident memory after each part of the warm-up; `errors` by
    kind; `stopped` windows that the generator stood still in, with their requests and what was refused; `swaps` beside the load; `swap_mb`
    resident and anonymous memory after each of those at the end, `swap_errors` and `swap_ms` (latency) of the requests meanwhile."""

    rate: float
    capacity: float
    warm_mb: list[float] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    stopped: int = 0
    stopped_requests: int = 0
    stopped_failed: int = 0
    swaps: int = 0
    swap_mb: list[tuple[float, float]] = field(default_factory=list)
    swap_errors: Counter[str] = field(default_factory=Counter)
    swap_ms: list[float] = field(default_factory=list)
    swap_requests: int = 0
    swap_s: float = 0.0

    def missed(self) -> list[str]:
        """Targets that were not reached. Refusals of an overloaded service count in both parts."""
        found = misses(self.windows, dict(self.errors))
        found += [f"while swapping, {count} times {kind}" for kind, count in self.swap_errors.items()]
        if self.swap_growth()[0] > MOST_SWAP_GROWTH:
            found.append(f"resident memory {self.swap_growth()[0]:+.1%} over the swaps")
        return found

    def swap_growth(self) -> tuple[float, float]:
        """Of the highest resident and anonymous memory, from the period after the tenth swap to the last; 0 for too few swaps."""
        if len(self.swap_mb) < 10 + 2 * _PERIOD:
            return 0.0, 0.0
        first, last = (np.max(part, axis=0) for part in (self.swap_mb[10 : 10 + _PERIOD], self.swap_mb[-_PERIOD:]))
        resident, anonymous = last / first - 1
        return float(resident), float(anonymous)


class Service:
    """A `dare serve` in a process of its own, and what it holds."""

    def __init__(self, artifacts: Path, store: RedisServer, folder: Path) -> None:
        log_file, self._store, port = folder / "serve.log", store, free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "service", "serve", "--artifacts", str(artifacts), "--store", store.url, "--port", str(port)]
        with log_file.open("w") as log:
            environment = os.environ | _CACHES | {"DARE_DEVELOPMENT": "true", "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(command, stderr=log, env=environment)
        while not self._answers():
            if self._process.poll() is not None:
                raise RuntimeError(f"the service did not start:\n{log_file.read_text()}")
            time.sleep(0.05)
        self._seen = psutil.Process(self._process.pid)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=30):
                return True
        except OSError:
            return False

    def resident_mb(self) -> float:
        """Resident memory."""
        return float(self._seen.memory_info().rss / _MB)

    def anonymous_mb(self) -> float:
        """Resident memory that is no file's."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024 / _MB  # type: ignore[index]

    def window(self, at_s: float, measured: Measured) -> Window:
        """What was measured, and what the process holds now."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            cached = float(re.search(r"^dare_user_cache_bytes (\S+)", answer.read().decode(), re.MULTILINE)[1])  # type: ignore[index]
        p50_ms, p99_ms = np.percentile(latencies(measured) or [np.nan], [50, 99])
        return Window(
            at_s=at_s,
            sent=measured.sent,
            failed=measured.failed,
            p50_ms=float(p50_ms),
            p99_ms=float(p99_ms),
            late_p99_ms=float(np.percentile(measured.late_ms, 99)),
            resident_mb=self.resident_mb(),
            anonymous_mb=self.anonymous_mb(),
            cached_mb=cached / _MB,
            descriptors=self._seen.num_fds(),
            threads=self._seen.num_threads(),
            store_mb=int(self._store.client.info("memory")["used_memory"]) / _MB,
            machine_load=os.getloadavg()[0],
        )

    def close(self) -> None:
        """Stop it as an operator would."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def latencies(measured: Measured) -> list[float]:
    """Of the answers with scores, ms."""
    return measured.times.of(SCORE, LATENCY) + measured.times.of(RECOMMEND, LATENCY)


async def capacity(url: str, workload: Workload, seconds: float) -> float:
    """Answers a second to callers who never wait between requests."""
    pool, answered, until = Connections(url, _CALLERS), 0, time.monotonic() + seconds

    async def call() -> None:
        nonlocal answered
        while time.monotonic() < until:
            answer = await pool.send(workload.draw(), 30.0)
            answered += answer.status == 200

    await asyncio.gather(*(call() for _ in range(_CALLERS)))
    await pool.close()
    return answered / seconds


async def warmed(url: str, workload: Workload, requests: int) -> None:
    """So many requests by callers who never wait."""
    pool, left = Connections(url, _CALLERS), iter(range(requests))

    async def call() -> None:
        for _ in left:
            await pool.send(workload.draw(), 30.0)

    await asyncio.gather(*(call() for _ in range(_CALLERS)))
    await pool.close()


async def loaded(url: str, workload: Workload, rate: float, seconds: float, version: str | None = None) -> Measured:
    """A piece of the load; its requests are made before its clock starts. Args: `version` to be activated meanwhile."""
    load = run(url, [workload.draw() for _ in range(max(1, int(rate * seconds)))], rate)
    if version is None:
        return await load
    measured, refused = await asyncio.gather(load, activated(url, version))
    measured.errors.update(refused)
    return measured


async def activated(url: str, version: str) -> list[str]:
    """Activate a version; returns what went wrong, if anything did."""
    pool = Connections(url, 1)
    try:
        answer = await pool.send(Request(f"/v1/models/{version}:activate", b""), 60.0)
    finally:
        await pool.close()
    return [] if answer.status == 200 else [f"activate: {answer.status} {answer.body[:200]!r}"]


async def swapped(service: Service, workload: Workload, soaked: Soaked, versions: Sequence[str], swaps: int) -> None:
    """Activate the versions in turn, as fast as they come in but for `_SWAP_S`, while the load goes on."""
    ended, began = asyncio.Event(), time.monotonic()

    async def load() -> None:
        while not ended.is_set():
            measured = await loaded(service.url, workload, soaked.rate, 2.0)
            soaked.swap_errors.update(measured.errors)
            soaked.swap_requests += measured.sent
            soaked.swap_ms += latencies(measured)

    loading = asyncio.create_task(load())
    try:
        for swap in range(swaps):
            soon = asyncio.create_task(asyncio.sleep(_SWAP_S))
            soaked.swap_errors.update(await activated(service.url, versions[swap % len(versions)]))
            await soon
            soaked.swap_mb.append((service.resident_mb(), service.anonymous_mb()))
    finally:
        ended.set()
        await loading
    soaked.swap_s = time.monotonic() - began


def soak(service: Service, workload: Workload, versions: Sequence[str], asked: argparse.Namespace) -> Soaked:
    """Warm, find out the capacity, load, swap."""
    warm_mb = list[float]()
    for _ in range(_WARM_PARTS):
        asyncio.run(warmed(service.url, workload, asked.warm // _WARM_PARTS))
        warm_mb.append(service.resident_mb())
        print(json.dumps({"warm_mb": warm_mb[-1]}), flush=True)
    # The best of several: whatever else the machine does only lowers it.
    able = max(asyncio.run(capacity(service.url, workload, asked.window)) for _ in range(_CAPACITY_PARTS))
    soaked = Soaked(asked.rate or able / 2, able, warm_mb)
    print(json.dumps({"capacity": soaked.capacity, "rate": soaked.rate}), flush=True)
    began = time.monotonic()
    while (at_s := time.monotonic() - began) < asked.seconds:
        version = None
        if asked.swap_every and at_s >= (soaked.swaps + 1) * asked.swap_every:
            version = versions[soaked.swaps % len(versions)]
            soaked.swaps += 1
        measured = asyncio.run(loaded(service.url, workload, soaked.rate, asked.window, version))
        if max(measured.late_ms) > _STOPPED_MS:
            soaked.stopped += 1
            soaked.stopped_requests += measured.sent
            soaked.stopped_failed += measured.failed
            print(json.dumps({"stopped_at_s": at_s, "late_ms": max(measured.late_ms), "errors": measured.errors}), flush=True)
            continue
        soaked.errors.update(measured.errors)
        soaked.windows.append(service.window(at_s, measured))
        print(json.dumps(asdict(soaked.windows[-1])), flush=True)
    asyncio.run(swapped(service, workload, soaked, versions, asked.swaps))
    return soaked


@contextmanager
def prepared(asked: argparse.Namespace) -> Iterator[tuple[Service, Population, list[str]]]:
    """A service with every user of the data in its store, several versions of the model, and the users to ask for."""
    with tempfile.TemporaryDirectory(prefix="dare-soak-") as made, closing(RedisServer(appendfsync="everysec")) as store:
        folder, version = Path(made), current_version(asked.artifacts)
        artifacts, others = folder / "artifacts", [f"{version}-{place}" for place in range(1, asked.versions)]
        for place, name in enumerate([version, *others]):
            shutil.copytree(asked.artifacts / version, artifacts / name)
            if place > 0:
                rewrite(artifacts / name, "head_b3", np.load(artifacts / name / "head_b3.npy") + np.float32(0.5 * place))
        (artifacts / "CURRENT").write_text(version + "\n")
        with closing(RedisStore(store.url, read_s=30, write_s=30)) as filled:
            load_into(filled, asked.data)
        users = folder / "users"
        users.write_text("\n".join(read_tidy(asked.data).user_id))
        with closing(Service(artifacts, store, folder)) as service:
            yield service, survey(service.url, asked.users, asked.candidates, users), [*others, version]


def report(soaked: Soaked, asked: argparse.Namespace, name: str) -> str:
    """The measured, as Markdown."""
    windows, missed = soaked.windows, soaked.missed()
    sent, failed = sum(window.sent for window in windows), sum(window.failed for window in windows)
    load = np.mean([window.machine_load for window in windows])
    late = np.median([window.late_p99_ms for window in windows])
    swap_p50_ms, swap_p99_ms = np.percentile(soaked.swap_ms or [np.nan], [50, 99])
    resident, anonymous = soaked.swap_growth()
    grown = windows[-1].store_mb - windows[0].store_mb
    user_mb, sequence_mb = (int(value) // 10**6 for value in _CACHES.values())
    return f"""# Soak, {name[:10]}

`{" ".join(["python -m tests.service.soak", *sys.argv[1:]])}`, {psutil.cpu_count()} cores shared by service, Valkey, generator and
whatever else ran: the machine's load average was {load:.1f}.

First {asked.warm:,} requests as fast as they were answered, until the caches are full and the heap between their entries has settled:
resident memory after each {asked.warm // _WARM_PARTS:,} of them {", ".join(f"{value:.0f}" for value in soaked.warm_mb)} MB.

{windows[-1].at_s / 60:.0f} minutes at {soaked.rate:.1f} requests a second ({_CALLERS} callers who never wait had got
{soaked.capacity:.0f}/s before, at the best of {_CAPACITY_PARTS} times {asked.window:g} s): {sent} requests, {failed} without a 2xx
answer. Sent late by p99 {late:.1f} ms (median over windows of {asked.window:g} s). Caches of {user_mb} MB (prepared users) and
{sequence_mb} MB (sequences); the store grew by {grown:.1f} MB of posted behaviors. Meanwhile {soaked.swaps} model versions were activated.
{soaked.stopped} further windows, in which the generator itself stood still for more than a second, are left out: {soaked.stopped_requests}
requests, {soaked.stopped_failed} without a 2xx answer.

{table(windows)}

Then {len(soaked.swap_mb)} times one of {asked.versions} model versions activated in turn within {soaked.swap_s:.1f} s under the same load:
{soaked.swap_requests} requests, {soaked.swap_errors.total()} without a 2xx answer, latency p50 {swap_p50_ms:.1f}, p99 {swap_p99_ms:.1f} ms;
the highest resident memory {resident:+.1%} (at most {MOST_SWAP_GROWTH:.0%}), anonymous {anonymous:+.1%}, from swaps 11 to {10 + _PERIOD} to
the last {_PERIOD}: as many as there are between two returns of free memory.

{"Missed: " + "; ".join(missed) if missed else "No target missed."}

![memory, latency and descriptors over time]({name}.png)
"""


def rate(text: str) -> float | None:
    """Requests a second; None for half of what the service can do. Raises: ValueError."""
    return None if text == "half" else float(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m tests.service.soak", description=__doc__)
    made.add_argument("--artifacts", type=Path, required=True, help="directory of model versions")
    made.add_argument("--data", type=Path, required=True, help="tidy folder whose users fill the store")
    made.add_argument("--seconds", type=float, default=1800.0, help="time under load before the swaps, s (default %(default)s)")
    made.add_argument("--warm", type=int, default=60_000, help="requests before that, to fill caches and heap (default %(default)s)")
    made.add_argument("--window", type=float, help="time between looks at the process, s (default: 10, or a 15th of less than 150 s)")
    made.add_argument("--swaps", type=int, default=100, help="model versions activated at the end (default %(default)s)")
    made.add_argument(
        "--swap-every", type=float, default=45.0, help="time between versions beside the load, s; 0: none (default %(default)s)"
    )
    made.add_argument("--versions", type=int, default=3, help="how many versions take turns, 2 or more (default %(default)s)")
    made.add_argument("--rate", type=rate, help="requests a second, or half of the measured capacity (default: half)")
    made.add_argument("--users", type=int, default=2000, help="users drawn from (default %(default)s)")
    made.add_argument("--candidates", type=int, default=500, help="candidates of a request (default %(default)s)")
    made.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the report (default %(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, report; returns 1 when a target was missed."""
    asked = parser().parse_args(arguments)
    asked.window = asked.window or min(10.0, asked.seconds / 15)
    if asked.seconds < LEAST_WINDOWS * asked.window:
        print(f"--seconds {asked.seconds:g} are less than {LEAST_WINDOWS} windows of {asked.window:g} s: no slope", file=sys.stderr)
        return 2
    name = f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}-soak"
    with prepared(asked) as (service, population, versions):
        workload = Workload(population, candidates=asked.candidates, run_id=name)
        soaked = soak(service, workload, versions, asked)
    asked.out.mkdir(parents=True, exist_ok=True)
    text = report(soaked, asked, name)
    (asked.out / f"{name}.md").write_text(text)
    plot(soaked.windows, asked.out / f"{name}.png")
    print(text)
    return 1 if soaked.missed() else 0


if __name__ == "__main__":
    sys.exit(main())
