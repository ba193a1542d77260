"""SIGTERM under load: behind something that asks /readyz, no request that was sent goes unanswered."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import Tiny
from tests.patience import PATIENCE_S

_SERVE = """
import sys, uvicorn
from pathlib import Path
from service.app import create_app
from service.listening import server_options
from service.settings import Settings

class Announcing(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)

settings = Settings(artifacts=Path(sys.argv[1]), port=0, drain_s=float(sys.argv[2]), queue_wait_ms=60_000)
app = create_app(settings)
Announcing(uvicorn.Config(app, **server_options(settings, app.state.metrics, app.state.gate))).run()
"""
BODY = json.dumps({"user_id": "u", "candidates": [f"item-{i}" for i in range(200)]}).encode()


def ended_under_load(tiny: Tiny, drain_s: float) -> tuple[int, int]:
    """Start, load with six callers, terminate; returns requests sent and answered with 200 up to the end of the process."""
    command = [sys.executable, "-c", _SERVE, str(tiny.artifacts), str(drain_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    sent, answered, leaving, told = [0] * 6, [0] * 6, threading.Event(), threading.Event()
    try:
        port = int(process.stdout.readline())

        def call(place: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            while not leaving.is_set():
                sent[place] += 1
                connection.request("POST", "/v1/score", BODY)
                response = connection.getresponse()
                response.read()
                answered[place] += response.status == 200
                if sum(answered) >= 60 and place == 0 and not told.is_set():
                    told.set()
                    process.send_signal(signal.SIGTERM)
            connection.close()

        def balance() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            ready = 200
            while ready == 200:
                connection.request("GET", "/readyz")
                response = connection.getresponse()
                response.read()
                ready = response.status
            leaving.set()
            connection.close()

        with ThreadPoolExecutor(7) as threads:
            running = [threads.submit(balance), *(threads.submit(call, place) for place in range(6))]
            for thread in running:
                thread.result()
        if drain_s > 1:
            process.send_signal(signal.SIGTERM)  # everybody has left: nothing is gained by the rest of the drain
        process.wait(PATIENCE_S)
    finally:
        leaving.set()
        process.kill()
        process.stdout.close()
        process.wait()
    return sum(sent), sum(answered)


def test_no_request_goes_unanswered(tiny: Tiny) -> None:
    # How long callers take to leave is the machine's affair: on a busy one more than the half second of the long form.
    sent, answered = ended_under_load(tiny, 20.0)
    assert sent == answered >= 60


@pytest.mark.faults
def test_20_terminations_under_load(tiny: Tiny, figure: Callable[[int, str], None]) -> None:
    runs = [ended_under_load(tiny, 0.5) for _ in range(20)]
    sent, answered = (sum(of_run) for of_run in zip(*runs, strict=True))
    figure(10, f"20 SIGTERMs under load, drain 0.5 s: {sent - answered} of {sent} requests failed (0)")
    assert sent == answered
