"""The open loop keeps its rate whatever the service does, counts from the intended time, and names every error."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable

import pytest

from loadtest.open_loop import LATENCY, Measured, Objective, main, report, run
from loadtest.report import StageTimes
from loadtest.workload import BEHAVIORS, SCORE, Request
from tests.loadtest.conftest import TIMING, TinyService
from tests.patience import PATIENCE_S

REQUEST = Request(SCORE, b"{}")


def measure(url: str, requests: list[Request], rate: float, **options: float) -> Measured:
    return asyncio.run(run(url, requests, rate, **options))  # type: ignore[arg-type]


def test_answers_are_measured_by_stage(service: TinyService) -> None:
    measured = measure(service.url, [REQUEST, Request(BEHAVIORS, b"{}")] * 10, rate=500, connections=4)
    assert (measured.sent, measured.failed) == (20, 0)
    assert measured.times.of(SCORE, "search") == [2.25] * 10
    assert len(measured.times.of(BEHAVIORS, LATENCY)) == 10
    assert measured.times.of(BEHAVIORS, "search") == []
    assert service.connections <= 4, "connections are used again"


def test_a_stalled_service_costs_every_request_that_should_have_left_meanwhile(service: TinyService) -> None:
    """A closed loop would wait and record one slow answer; here each intended send counts its own wait."""
    arrived = threading.Barrier(21)

    def hold(path: str) -> tuple[int, dict[str, str], dict[str, object]]:
        arrived.wait(PATIENCE_S)
        return 200, TIMING, {}

    service.reply = hold
    measured = measure(service.url, [REQUEST] * 21, rate=100, timeout_s=PATIENCE_S)
    latency = sorted(measured.times.of(SCORE, LATENCY))
    # Nothing is answered before the 21st request arrives, 200 ms after the first was due.
    assert latency[-1] >= 200
    assert latency[10] >= 95


def test_waiting_for_a_connection_counts(service: TinyService) -> None:
    first, release = threading.Event(), threading.Event()

    def slow_first(path: str) -> tuple[int, dict[str, str], dict[str, object]]:
        if not first.is_set():
            first.set()
            release.wait(0.2)
        return 200, TIMING, {}

    service.reply = slow_first
    measured = measure(service.url, [REQUEST] * 5, rate=1000, connections=1)
    assert min(measured.times.of(SCORE, LATENCY)) >= 190
    assert service.connections == 1


def test_refusals_are_counted_by_their_problem(service: TinyService) -> None:
    service.reply = lambda path: (503, {"Retry-After": "1"}, {"type": "urn:dare:problem:overloaded"})
    measured = measure(service.url, [REQUEST] * 3, rate=1000)
    assert dict(measured.errors) == {"/v1/score: 503 urn:dare:problem:overloaded": 3}
    assert len(measured.error_ms) == 3
    assert measured.times.rows() == [], "a refusal is no answer: it must not make the latency look good"


def test_a_service_that_is_gone_is_an_error_of_its_own() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    measured = measure(f"http://127.0.0.1:{port}", [REQUEST] * 2, rate=1000)
    ((kind, count),) = measured.errors.items()
    assert "ConnectionRefusedError" in kind
    assert count == 2


@pytest.mark.parametrize(
    ("sent_back", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "closed before the answer was complete"),
        (b"", "closed before the answer was complete"),
        (b"SMTP ready\r\n\r\n", "not an HTTP/1.1 answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nServer-Timing: total;dur=x\r\n\r\n", "'total' is not a number"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "neither a Content-Length nor chunks"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "not a chunk size"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", "headers are longer"),
    ],
)
def test_broken_answers_are_named(sent_back: bytes, kind: str) -> None:
    measured = answered_with(lambda connection: connection.sendall(sent_back))
    (error,) = measured.errors
    assert kind in error


def test_chunked_answers_are_read() -> None:
    body = b"2;x=y\r\n{}\r\n1\r\n \r\n0\r\nTrailer: t\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nServer-Timing: total;dur=3\r\nConnection: close\r\n\r\n"
    assert answered_with(lambda connection: connection.sendall(head + body)).times.of(SCORE, "total") == [3.0]


def test_no_answer_is_a_timeout() -> None:
    done = threading.Event()
    measured = answered_with(lambda _: done.wait(10), timeout_s=0.1, finished=done)
    assert dict(measured.errors) == {"/v1/score: no answer within 0.1 s": 1}


def answered_with(answer: Callable[[socket.socket], object], timeout_s: float = 10.0, finished: threading.Event | None = None) -> Measured:
    """One request to a server that does just this."""

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65_536)
            answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        measured = measure(f"http://127.0.0.1:{listening.getsockname()[1]}", [REQUEST], 1000, timeout_s=timeout_s)
        if finished is not None:
            finished.set()
        thread.join()
    return measured


@pytest.mark.parametrize(("url", "rate"), [("https://x", 1.0), ("x:1", 1.0), ("http://x/path", 1.0), ("http://x", 0.0), ("http://x", -1.0)])
def test_what_cannot_be_run_is_named(url: str, rate: float) -> None:
    with pytest.raises(ValueError, match=r"http://HOST:PORT|rate must be positive"):
        measure(url, [REQUEST], rate)


@pytest.mark.parametrize(
    ("latencies", "errors", "met"), [([10.0] * 99, 0, True), ([10.0] * 90 + [60.0] * 9, 0, False), ([10.0] * 99, 2, False), ([], 3, False)]
)
def test_the_objective(latencies: list[float], errors: int, met: bool) -> None:
    measured = Measured(times=StageTimes(), sent=len(latencies) + errors, seconds=1.0)
    for value in latencies:
        measured.times.add(SCORE, LATENCY, value)
    measured.errors["/v1/score: 503 x"] += errors
    verdict = report(measured, 10, Objective(50, 0.01))["objective"]
    assert verdict["met"] is met


def test_the_command(service: TinyService, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--url", service.url, "--rate", "200", "--seconds", "0.2", "--users", "3", "--candidates", "5", "--json"]
    assert main([*command, "--objective-p99-ms", "5000"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["sent"], result["answered"], result["errors"]) == (40, 40, {})
    assert {row["stage"] for row in result["rows"] if row["path"] == SCORE} == {LATENCY, "queue", "search", "rank", "total"}
    scored = [body for path, body in service.asked if path == SCORE]
    assert all(len(body["candidates"]) == 5 for body in scored)
    assert {body["user_id"] for body in scored} <= {"user 0/é", "user 1/é", "user 2/é"}
    assert main([*command, "--objective-p99-ms", "0.0001"]) == 1
    assert main([*command[:2], "--rate", "1", "--seconds", "0"]) == 2
    assert "sends nothing" in capsys.readouterr().err
