"""A process told to stop is not ready first, answers meanwhile, and loses nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx

from service.file_store import FileStore
from tests.conftest import Tiny

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


def test_draining_then_stopping_without_ever_importing_torch(tiny: Tiny, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _SERVE, str(tiny.artifacts), str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{int(process.stdout.readline())}", timeout=30) as client:
            assert client.get("/readyz").status_code == 200
            process.send_signal(signal.SIGTERM)
            while client.get("/readyz").status_code == 200:
                assert process.poll() is None
            ready = client.get("/readyz")
            assert ready.status_code == 503 and ready.json()["type"] == "urn:dare:problem:draining" and "Retry-After" in ready.headers
            posted = [{"user_id": "u", "item_id": "item-1", "timestamp": 5, "event_id": "e"}]
            assert client.post("/v1/behaviors", json={"behaviors": posted}).json()["accepted"] == 1
            score = client.post("/v1/score", json={"user_id": "u", "candidates": ["item-1"]}).json()
            assert score["sequence_length_used"] == 1
            assert client.get("/livez").status_code == 200
        # A second signal does not wait for the end of the drain.
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    finally:
        process.kill()
        rest = process.stdout.read()
        process.stdout.close()
        process.wait()
    assert process.returncode == 0 and rest == "[]\n"
    store = FileStore(tmp_path)
    assert dict(store.users()) == {"u": 1}
    store.close()
