"""Several worker processes are one service: any of them reads what another stored, forgets whom another erased, and may die."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import Tiny
from tests.patience import PATIENCE_S, until
from tests.service.redis_server import GivenServer, RedisServer

SCORE = {"user_id": "u", "candidates": ["item-1"], "timestamp": 2_000_000_000}


class Workers:
    """A `dare serve --workers 2`, and which of its processes a connection reaches."""

    def __init__(self, artifacts: Path, url: str, **environment: str) -> None:
        command = [sys.executable, "-m", "service", "serve", "--artifacts", str(artifacts), "--store", url, "--port", "0", "--workers", "2"]
        # Deadlines have tests of their own, and the machine may be busy.
        patient = {"DARE_STORE_TIMEOUT_MS": "5000", "DARE_STORE_WRITE_TIMEOUT_MS": "20000"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | patient | environment)
        assert self.process.stderr is not None
        self.log = ""
        for line in self.process.stderr:
            self.log += line
            if found := re.search(r"listening on port (\d+)", line):
                self.url = f"http://127.0.0.1:{found[1]}"
                return
        raise AssertionError(self.log)

    def children(self) -> list[int]:
        """Process ids of the workers: those that listen."""
        pids = map(int, Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split())
        return sorted(pid for pid in pids if b"spawn_main" in command_of(pid))

    def client_of(self, pid: int) -> httpx.Client:
        """A kept connection that this worker has accepted: the others stand still meanwhile."""
        others = [other for other in self.children() if other != pid]
        for other in others:
            os.kill(other, signal.SIGSTOP)
        try:
            client = httpx.Client(base_url=self.url, timeout=30)
            assert client.get("/livez").status_code == 200
        finally:
            for other in others:
                os.kill(other, signal.SIGCONT)
        return client


def command_of(pid: int) -> bytes:
    """What a process runs; nothing where it has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@contextmanager
def workers(tiny: Tiny, url: str, **environment: str) -> Iterator[Workers]:
    running = Workers(tiny.artifacts, url, **environment)
    try:
        yield running
    finally:
        for pid in running.children() if running.process.poll() is None else []:
            os.kill(pid, signal.SIGCONT)
        running.process.kill()
        assert running.process.stderr is not None
        running.process.stderr.close()
        running.process.wait()


def length(client: httpx.Client) -> int:
    answer = client.post("/v1/score", json=SCORE)
    assert answer.status_code == 200 and answer.json()["degraded"] is False, answer.text
    return int(answer.json()["sequence_length_used"])


def test_two_workers_are_one_service(tiny: Tiny, redis_server: RedisServer | GivenServer) -> None:
    with workers(tiny, redis_server.url) as running:
        first, second = running.children()
        with closing(running.client_of(first)) as one, closing(running.client_of(second)) as other:
            for step in range(40):
                writer, reader = (one, other) if step % 2 else (other, one)
                new = {"user_id": "u", "item_id": f"item-{step}", "timestamp": 1000 + step, "event_id": step}
                writer.post("/v1/behaviors", json={"behaviors": [new]}).raise_for_status()
                assert length(reader) == step + 1, "an acknowledged behavior is read on every worker"
            again = other.post("/v1/behaviors", json={"behaviors": [new]}).json()
            assert (again["accepted"], again["duplicates"]) == (0, 1)
            for client in (one, other):
                assert 'dare_behaviors_total{outcome="accepted"} 40.0' in client.get("/metrics").text
            assert one.delete("/v1/users/u").json()["erased"] == 40
            assert length(other) == length(one) == 0
            os.kill(second, signal.SIGKILL)
            with pytest.raises(httpx.TransportError):
                other.get("/livez")
            until(lambda: one.get("/readyz").status_code == 200 and len(set(running.children()) - {second}) == 2)
            (third,) = set(running.children()) - {first, second}
            with closing(running.client_of(third)) as new_one:
                assert length(new_one) == 0
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE_S) == -signal.SIGTERM
        for pid in (first, third):
            assert not Path(f"/proc/{pid}").exists()


def test_keys_are_read_again_on_every_worker(tiny: Tiny, redis_server: RedisServer | GivenServer, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"

    def write(*names: str) -> None:
        keys = [{"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "scopes": ["score"]} for name in names]
        file.write_text(json.dumps({"keys": keys}))

    def statuses(client: httpx.Client) -> list[int]:
        return [client.post("/v1/score", json=SCORE, headers={"Authorization": f"Bearer {name}"}).status_code for name in ("old", "new")]

    write("old")
    with workers(tiny, redis_server.url, DARE_API_KEYS=str(file), DARE_DEVELOPMENT="false") as running:
        for pid in running.children():
            with closing(running.client_of(pid)) as client:
                write("old")
                running.process.send_signal(signal.SIGHUP)
                until(lambda client=client: statuses(client) == [200, 401])
                write("new")
                running.process.send_signal(signal.SIGHUP)
                until(lambda client=client: statuses(client) == [401, 200])
        others = running.children()
        os.kill(pid, signal.SIGKILL)
        until(lambda: set(running.children()) - set(others))
        (started,) = set(running.children()) - set(others)
        running.process.send_signal(signal.SIGHUP)  # while it starts: it must not end by it
        with closing(running.client_of(started)) as client:
            assert statuses(client) == [401, 200] and started in running.children()
        pid = started
        file.write_text("nonsense")
        running.process.send_signal(signal.SIGHUP)
        assert running.process.stderr is not None
        until(lambda: "the keys stay as they were" in (said := next(iter(running.process.stderr))) and "ERROR" in said)
        with closing(running.client_of(pid)) as client:
            assert statuses(client) == [401, 200]


class Persistent:
    """A caller who posts a behavior and asks for a score, in turn, each of them once more where no answer came or a 5xx."""

    def __init__(self, url: str, user: str) -> None:
        self.user, self.asked, self.retried, self.failed = user, 0, 0, list[str]()
        self.acknowledged = list[int]()
        self._client = httpx.Client(base_url=url, timeout=PATIENCE_S)

    def run(self, ended: threading.Event) -> None:
        """Call until it has ended."""
        with self._client:
            step = 0
            while not ended.is_set():
                step += 1
                new = {"user_id": self.user, "item_id": f"item-{step}", "timestamp": 1000 + step, "event_id": step}
                if self._sent("/v1/behaviors", {"behaviors": [new]}):
                    self.acknowledged.append(step)
                self._sent("/v1/score", SCORE | {"user_id": self.user})

    def _sent(self, path: str, body: dict[str, object]) -> bool:
        self.asked += 1
        for attempt in range(2):
            try:
                answer = self._client.post(path, json=body)
                if answer.status_code == 200:
                    self.retried += attempt
                    return True
                wrong = f"{answer.status_code}: {answer.text}"
            except httpx.TransportError as error:
                wrong = repr(error)
        self.failed.append(wrong)
        return False


def killed_again_and_again(tiny: Tiny, url: str, kills: int, every_s: float) -> list[Persistent]:
    """What became of four callers while one of two workers, whichever, was killed so many times."""
    chance, ended = random.Random(9), threading.Event()
    with workers(tiny, url) as running, ThreadPoolExecutor(4) as threads:
        callers = [Persistent(running.url, f"u{place}") for place in range(4)]
        under_way = [threads.submit(caller.run, ended) for caller in callers]
        try:
            for _ in range(kills):
                enough = [caller.asked + 5 for caller in callers]
                ended.wait(every_s)
                until(lambda enough=enough: all(caller.asked >= least for caller, least in zip(callers, enough, strict=True)))
                until(running.children)
                os.kill(chance.choice(running.children()), signal.SIGKILL)
            ended.wait(every_s)
        finally:
            ended.set()
        for thread in under_way:
            thread.result()
        with httpx.Client(base_url=running.url, timeout=PATIENCE_S) as client:
            for caller in callers:
                held = client.get(f"/v1/users/{caller.user}/behaviors?limit=1000").raise_for_status().json()["behaviors"]
                steps = [behavior["timestamp"] - 1000 for behavior in held]
                newest = [step for step in caller.acknowledged if step >= min(steps, default=0)]
                assert len(set(steps)) == len(steps) and set(steps) >= set(newest), "an acknowledged behavior lost or doubled"
    return callers


@pytest.mark.faults
def test_a_worker_killed_every_two_seconds(tiny: Tiny, redis_server: RedisServer | GivenServer, figure: Callable[[int, str], None]) -> None:
    callers = killed_again_and_again(tiny, redis_server.url, 10, 2.0)
    asked, failed = sum(caller.asked for caller in callers), sum(len(caller.failed) for caller in callers)
    retried, stored = sum(caller.retried for caller in callers), sum(len(caller.acknowledged) for caller in callers)
    figure(
        9,
        f"10 workers of 2 killed, one every 2 s: {asked - failed} of {asked} requests succeeded ({1 - failed / asked:.2%}, >= 99 %), "
        f"{retried} of them at the second try; {stored} behaviors acknowledged, 0 lost or doubled",
    )
    assert failed <= 0.01 * asked, [caller.failed for caller in callers]


@pytest.mark.faults
def test_workers_end_with_the_process_that_started_them(tiny: Tiny, redis_server: RedisServer | GivenServer) -> None:
    with workers(tiny, redis_server.url) as running:
        pids = running.children()
        running.process.kill()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_start_that_cannot_succeed_ends_with_its_reason(tmp_path: Path, redis_server: RedisServer | GivenServer) -> None:
    options = ["--artifacts", str(tmp_path), "--store", redis_server.url, "--port", "0", "--workers", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "service", "serve", *options], capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False
    )
    assert done.returncode == 2 and "CURRENT" in done.stderr and "a worker could not start" in done.stderr
