"""Connections that say nothing, too little, too much, or do not listen are let go; the others never notice."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.listening import bound_socket, connections_allowed
from service.memory_store import MemoryStore
from service.settings import Settings
from tests.conftest import Tiny
from tests.patience import until
from tests.service.conftest import Server, filled_store

HEAD = b"POST /v1/score HTTP/1.1\r\nHost: x\r\n"


@contextmanager
def patient(tiny: Tiny, **settings: Any) -> Iterator[Server]:
    server = Server(Settings(artifacts=tiny.artifacts, **settings), MemoryStore())
    try:
        yield server
    finally:
        server.stop()


def connected(server: Server, receive_buffer: int | None = None) -> socket.socket:
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(30)
    connection.connect((server.client.base_url.host, server.client.base_url.port))
    return connection


def until_closed(connection: socket.socket) -> bytes:
    received = b""
    try:
        while more := connection.recv(65_536):
            received += more
    except ConnectionResetError:
        pass
    return received


def let_go(server: Server, reason: str) -> float:
    """Connections let go so far. Read where they are counted: a client that asks, and pauses, would be let go itself."""
    counted: float | None = server.app.state.metrics.registry.get_sample_value("dare_connections_let_go_total", {"reason": reason})
    return counted or 0.0


@pytest.mark.parametrize("sent", [b"", b"G", HEAD, HEAD + b"X-Half: "], ids=["silent", "a letter", "half a head", "half a line"])
def test_a_head_that_does_not_come_ends_the_connection(tiny: Tiny, sent: bytes) -> None:
    with patient(tiny, idle_timeout_s=0.1) as server, connected(server) as connection:
        connection.sendall(sent)
        assert until_closed(connection) == b""


def test_a_drip_of_bytes_does_not_buy_time(tiny: Tiny) -> None:
    with patient(tiny, idle_timeout_s=1.0) as server, connected(server) as connection:
        connection.sendall(HEAD + b"X: ")
        connection.settimeout(0.01)  # between two drops
        dripped = 0
        while dripped < 2000:
            try:
                connection.sendall(b"y")
                if connection.recv(1) == b"":
                    break
            except TimeoutError:
                dripped += 1
            except OSError:
                break
        # Bytes come a hundredth of a second apart or more: without an end they would have gone on for twenty times the second.
        assert 0 < dripped < 2000


def test_silence_and_a_drip_after_an_answer_end_the_connection_too(tiny: Tiny) -> None:
    for more in (b"", b"G"):
        with patient(tiny, idle_timeout_s=1.0) as server, connected(server) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b'{"status":"alive"}'):
                received = connection.recv(65_536)
                assert received, answer
                answer += received
            connection.sendall(more)
            assert until_closed(connection) == b""


def test_who_does_not_read_the_answer_is_let_go(tiny: Tiny) -> None:
    with patient(tiny, idle_timeout_s=1.0) as server, connected(server, receive_buffer=4096) as connection:
        candidates = ",".join(f'"item-{i % 300}"' for i in range(4000)).encode()
        behaviors = ",".join(f'{{"item_id":"item-{i}","timestamp":{i}}}' for i in range(100)).encode()
        body = b'{"explain":20,"candidates":[' + candidates + b'],"behaviors":[' + behaviors + b"]}"
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        until(lambda: let_go(server, "not_reading") > 0)
        answer = until_closed(connection)
        declared = int(answer.partition(b"content-length: ")[2].partition(b"\r")[0])
        assert len(answer) < declared / 2, "what was in the buffers of the sockets, not the whole answer"


def test_heads_without_end_are_refused_while_they_come(tiny: Tiny) -> None:
    with patient(tiny) as server, connected(server) as connection:
        connection.sendall(HEAD)
        try:
            for _ in range(1000):
                connection.sendall(b"X-Padding: " + b"x" * 1000 + b"\r\n")
        except OSError:
            pass
        answer = until_closed(connection)
        assert answer.startswith(b"HTTP/1.1 431 ") or answer == b"", "reset before the answer was read"
    with patient(tiny) as server, connected(server) as connection:
        connection.sendall(HEAD + b"X-Padding: " + b"x" * 33_000)
        answer = until_closed(connection)
        assert answer.startswith(b"HTTP/1.1 431 ") and b"application/problem+json" in answer


def test_what_is_not_http_gets_a_problem_document(tiny: Tiny) -> None:
    with patient(tiny) as server, connected(server) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        answer = until_closed(connection)
        assert answer.startswith(b"HTTP/1.1 400 ") and b"urn:dare:problem:not-http" in answer and b"x-request-id" in answer


def test_connections_beyond_the_most_are_told_when_to_come_back(tiny: Tiny) -> None:
    with patient(tiny, max_connections=8, retry_after_s=7) as server, ExitStack() as opened:
        server.client.get("/livez")
        held = [opened.enter_context(connected(server)) for _ in range(7)]
        with connected(server) as one_more:
            answer = until_closed(one_more)
        assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: 7" in answer.lower()
        assert server.client.get("/livez").status_code == 200, "who is connected goes on"
        held[0].close()

        def answered() -> bool:
            with connected(server) as again:
                again.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return until_closed(again).startswith(b"HTTP/1.1 200")

        until(answered)


def test_descriptors_bound_the_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert connections_allowed(Settings(max_connections=100)) == 100
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


_SERVE = """
import resource, sys, uvicorn
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[2])))
from service.app import create_app
from service.listening import server_options
from service.settings import Settings

class Announcing(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)

settings = Settings(artifacts=Path(sys.argv[1]), port=0)
app = create_app(settings)
Announcing(uvicorn.Config(app, **server_options(settings, app.state.metrics, app.state.gate))).run()
"""


@contextmanager
def with_descriptors(tiny: Tiny, count: int) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(tiny.artifacts), str(count)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{int(process.stdout.readline() or 0)}", timeout=30) as client:
            yield process, client
    finally:
        process.kill()
        process.stdout.close()
        process.stderr.close()
        process.wait()


def test_few_descriptors_refuse_connections_and_harm_nobody(tiny: Tiny, figure: Callable[[int, str], None]) -> None:
    ask = {"user_id": "u", "candidates": ["item-1"]}
    with with_descriptors(tiny, 96) as (process, client), ExitStack() as opened:
        assert client.post("/v1/score", json=ask).status_code == 200
        host, port = client.base_url.host, client.base_url.port
        for _ in range(150):
            opened.enter_context(socket.create_connection((host, port), timeout=30))
        answers = [client.post("/v1/score", json=ask).status_code for _ in range(50)]
        assert answers == [200] * 50
        descriptors = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        assert descriptors < 96
        opened.close()

        def answered() -> bool:
            assert process.poll() is None
            try:
                return httpx.post(f"http://{host}:{port}/v1/score", json=ask, timeout=30).status_code == 200
            except httpx.TransportError:
                return False

        until(answered)
    figure(20, f"96 descriptors, 150 idle connections: 50 of 50 requests answered, {descriptors} descriptors open")


def test_too_few_descriptors_stop_the_start_with_a_word(tiny: Tiny) -> None:
    command = [sys.executable, "-c", _SERVE, str(tiny.artifacts), "40"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0 and "may open 40 files" in done.stderr


def slow_connections(tiny: Tiny, count: int, idle_s: float) -> tuple[float, list[float]]:
    """Hold half-sent requests open while others score; returns how long until all were closed, and the others' latencies, ms."""
    server = Server(Settings(artifacts=tiny.artifacts, idle_timeout_s=idle_s, max_connections=count + 100), filled_store(tiny, 5))
    latencies, ask = [], {"user_id": "user-1", "candidates": [f"item-{i}" for i in range(50)]}
    try:
        with ExitStack() as opened, ThreadPoolExecutor(1) as closing:
            slow = [opened.enter_context(connected(server)) for _ in range(count)]
            began = time.monotonic()
            for place, connection in enumerate(slow):
                connection.sendall([b"", HEAD, HEAD + b"X-Half: "][place % 3])
            ended_s = list[float]()

            def all_closed() -> list[bytes]:
                said = [until_closed(connection) for connection in slow]
                ended_s.append(time.monotonic() - began)
                return said

            closed = closing.submit(all_closed)
            while not closed.done() or len(latencies) < 6:
                asked = time.perf_counter()
                assert server.client.post("/v1/score", json=ask).status_code == 200
                latencies.append((time.perf_counter() - asked) * 1e3)
            assert set(closed.result()) == {b""}
            return ended_s[0], latencies
    finally:
        server.stop()


def test_slow_connections_are_closed_and_harm_nobody(tiny: Tiny) -> None:
    seconds, latencies = slow_connections(tiny, 100, idle_s=1.0)
    # How soon, and how little it costs the others, is the long form's to measure: this one runs beside everything else.
    assert seconds < 30 and len(latencies) > 5


@pytest.mark.faults
def test_500_slow_connections(tiny: Tiny, figure: Callable[[int, str], None]) -> None:
    seconds, latencies = slow_connections(tiny, 500, idle_s=14.0)
    alone = slow_connections(tiny, 1, idle_s=5.0)[1]
    p99, p99_alone = np.percentile(latencies, 99), np.percentile(alone, 99)
    figure(13, f"500 slow connections closed after {seconds:.1f} s (<= 15); others p99 {p99:.1f} ms, without them {p99_alone:.1f} ms")
    assert seconds <= 15


def test_an_address_in_use_is_named(server: Server) -> None:
    port = server.client.base_url.port
    assert port is not None
    with pytest.raises(OSError, match=rf"127\.0\.0\.1, port {port}, cannot be listened on: "):
        bound_socket(Settings(artifacts=server.settings.artifacts, port=port))
