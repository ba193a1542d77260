"""A process told to stop is not ready first, answers meanwhile, and loses nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from service.file_store import FileStore
from tests.conftest import Tiny
from tests.patience import PATIENCE_S, until

_SERVE = """
import signal, sys, uvicorn
from pathlib import Path
from service.app import create_app
from service.settings import Settings

class Announcing(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)

signal.signal(signal.SIGTERM, signal.SIG_IGN)  # uvicorn raises the signal again once it has stopped
app = create_app(Settings(artifacts=Path(sys.argv[1]), store="file:" + sys.argv[2], drain_s=600))
Announcing(uvicorn.Config(app, port=0, log_level="warning")).run()
print(sorted({"torch", "polars", "onnx"} & set(sys.modules)))
"""


@contextmanager
def serving(tiny: Tiny, folder: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    process = subprocess.Popen([sys.executable, "-c", _SERVE, str(tiny.artifacts), str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{int(process.stdout.readline())}", timeout=30) as client:
            yield process, client
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def test_draining_then_stopping_without_ever_importing_torch(tiny: Tiny, tmp_path: Path) -> None:
    with serving(tiny, tmp_path) as (process, client):
        assert client.get("/readyz").status_code == 200
        process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/readyz").status_code != 200)
        ready = client.get("/readyz")
        assert ready.status_code == 503 and ready.json()["type"] == "urn:dare:problem:draining" and "Retry-After" in ready.headers
        posted = [{"user_id": "u", "item_id": "item-1", "timestamp": 5, "event_id": "e"}]
        assert client.post("/v1/behaviors", json={"behaviors": posted}).json()["accepted"] == 1
        score = client.post("/v1/score", json={"user_id": "u", "candidates": ["item-1"]}).json()
        assert score["sequence_length_used"] == 1
        assert client.get("/livez").status_code == 200
        client.close()
        # A second signal does not wait for the end of the drain.
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert process.stdout is not None and process.stdout.read() == "[]\n"
    store = FileStore(tmp_path)
    assert dict(store.users()) == {"u": 1}
    store.close()


def test_a_killed_server_has_kept_what_it_acknowledged(tiny: Tiny, tmp_path: Path) -> None:
    acknowledged = []

    def post(process: subprocess.Popen[str], client: httpx.Client, caller: int) -> None:
        for step in range(1000):
            new = {"user_id": f"u{caller}", "item_id": f"item-{step}", "timestamp": step, "event_id": str(step)}
            try:
                client.post("/v1/behaviors", json={"behaviors": [new]}).raise_for_status()
            except httpx.TransportError:
                return
            acknowledged.append((f"u{caller}", step))
            if len(acknowledged) >= 200:
                process.kill()
        raise AssertionError("the server was not killed")

    with serving(tiny, tmp_path) as (process, client), ThreadPoolExecutor(4) as callers:
        list(callers.map(lambda caller: post(process, client, caller), range(4)))
    store = FileStore(tmp_path)
    held = {(user, int(time)) for user, _ in store.users() for time in store.read(user).timestamp}
    assert len(acknowledged) >= 200 and held >= set(acknowledged)
    assert sum(length for _, length in store.users()) == len(held) <= len(acknowledged) + 4, "at most those under way besides"
    store.close()
