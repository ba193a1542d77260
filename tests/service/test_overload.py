"""What happens when the threads are busy: bounded waiting, refusals that say when to come back, probes unharmed."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from service.behavior_store import Appended, BehaviorSequence, NewBehavior
from service.memory_store import MemoryStore
from service.settings import Settings
from tests.conftest import Tiny
from tests.patience import PATIENCE_S, until
from tests.service.conftest import Server

SCORE = {"user_id": "u", "candidates": ["item-1"]}
POSTED = {"behaviors": [{"user_id": "u", "item_id": "item-1", "timestamp": 1}]}


class HeldStore(MemoryStore):
    """A store whose work begins at once and ends when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()

    def read(self, user_id: str) -> BehaviorSequence:
        self.hold()
        return super().read(user_id)

    def append(self, behaviors: Sequence[NewBehavior]) -> Appended:
        self.hold()
        return super().append(behaviors)

    def hold(self) -> None:
        self.begun.release()
        assert self.go_on.wait(PATIENCE_S)


@contextmanager
def busy(tiny: Tiny, path: str, body: dict[str, Any], **limits: Any) -> Iterator[tuple[Server, Any]]:
    """A server whose only thread for `path` is held; yields it and the answer to come."""
    store = HeldStore()
    server = Server(Settings(artifacts=tiny.artifacts, inference_threads=1, store_threads=1, **limits), store)
    try:
        with ThreadPoolExecutor(1) as caller:
            under_way = caller.submit(server.client.post, path, json=body)
            assert store.begun.acquire(timeout=PATIENCE_S)
            try:
                yield server, under_way
            finally:
                store.go_on.set()
            assert under_way.result().status_code == 200
    finally:
        server.stop()


def refused(response: httpx.Response) -> str:
    assert response.status_code == 503 and response.headers["Retry-After"] == "7" and response.json()["retry_after_s"] == 7
    assert response.headers["content-type"] == "application/problem+json" and response.json()["type"] == "urn:dare:problem:overloaded"
    return str(response.json()["detail"])


@pytest.mark.parametrize(("path", "body", "work"), [("/v1/score", SCORE, "score"), ("/v1/behaviors", POSTED, "store")])
def test_beyond_the_queue_a_request_is_refused_at_once(tiny: Tiny, path: str, body: dict[str, Any], work: str) -> None:
    with busy(tiny, path, body, queue_length=0, queue_wait_ms=60_000, retry_after_s=7) as (server, under_way):
        assert "waiting already" in refused(server.client.post(path, json=body))
        assert server.client.get("/livez").status_code == server.client.get("/readyz").status_code == 200
        metrics = server.client.get("/metrics").text
        assert f'dare_refused_total{{reason="queue_full",work="{work}"}} 1.0' in metrics
        assert f'dare_in_flight{{work="{work}"}} 1.0' in metrics
        assert not under_way.done()


def raw(body: bytes, *headers: str) -> bytes:
    lines = ["POST /v1/score HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def test_a_refusal_comes_without_reading_and_leaves_the_connection_usable(tiny: Tiny) -> None:
    with busy(tiny, "/v1/score", SCORE, queue_length=0, retry_after_s=7) as (server, _):
        with socket.create_connection((server.client.base_url.host, server.client.base_url.port), timeout=30) as connection:
            answers = connection.makefile("rb")

            def answer() -> tuple[bytes, dict[str, str], bytes]:
                status = answers.readline()
                headers = http.client.parse_headers(answers)
                return status, dict(headers), answers.read(int(headers["content-length"]))

            # Neither is JSON: nobody looks. The second request is on its way before the first is answered.
            first = raw(b"x" * 100_000, "X-Request-ID: mine")
            connection.sendall(first[:150])
            connection.sendall(first[150:] + raw(b"", 'X-Request-ID: "bad'))
            status, headers, body = answer()
            assert status == b"HTTP/1.1 503 Service Unavailable\r\n" and headers["retry-after"] == "7"
            assert headers["x-request-id"] == "mine" and json.loads(body)["request_id"] == "mine"
            assert len(json.loads(answer()[2])["request_id"]) == 32
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer()[0] == b"HTTP/1.1 200 OK\r\n"
            connection.sendall(raw(b"x", "Connection: close"))
            assert answer()[0] == b"HTTP/1.1 503 Service Unavailable\r\n" and answers.read() == b""
        metrics = server.client.get("/metrics").text
        assert 'dare_requests_total{route="/v1/score",status="503"} 3.0' in metrics
        assert 'dare_refused_total{reason="queue_full",work="score"} 3.0' in metrics


@pytest.mark.parametrize("path", ["/v1/score:batch", "/v1/recommend", "/v2/models/dare/infer"])
def test_whatever_needs_a_thread_is_refused(tiny: Tiny, path: str) -> None:
    infer = {"inputs": [{"name": n, "shape": [1], "datatype": "BYTES", "data": ["u"]} for n in ("user_id", "candidates")]}
    bodies: dict[str, Any] = {"/v1/recommend": {"user_id": "u"}, "/v2/models/dare/infer": infer}
    with busy(tiny, "/v1/score", SCORE, queue_length=0, retry_after_s=7) as (server, _):
        answer = server.client.post(path, json=bodies.get(path))
        assert "waiting already" in refused(answer)
        if path.startswith("/v2"):
            assert "waiting already" in answer.json()["error"]


def test_what_a_caller_who_has_gone_posted_is_not_stored(tiny: Tiny) -> None:
    with busy(tiny, "/v1/behaviors", POSTED, queue_wait_ms=60_000) as (server, _):
        later = {"behaviors": [{"user_id": "u", "item_id": "item-2", "timestamp": 2}]}
        with socket.create_connection((server.client.base_url.host, server.client.base_url.port), timeout=30) as caller:
            caller.sendall(raw(json.dumps(later).encode()).replace(b"/v1/score", b"/v1/behaviors", 1))
            until(lambda: 'dare_waiting{work="store"} 1.0' in server.client.get("/metrics").text)
        until(lambda: 'dare_refused_total{reason="client_gone",work="store"} 1.0' in server.client.get("/metrics").text)
        server.store.go_on.set()  # type: ignore[attr-defined]
        assert server.client.get("/v1/users/u/behaviors").json()["sequence_length"] == 1


def test_a_wait_too_long_is_refused(tiny: Tiny) -> None:
    with busy(tiny, "/v1/score", SCORE, queue_wait_ms=1, retry_after_s=7) as (server, _):
        assert "within 1 ms" in refused(server.client.post("/v1/score", json=SCORE))


def test_a_budget_ends_the_wait_before_it_costs_anything(tiny: Tiny) -> None:
    with busy(tiny, "/v1/score", SCORE, queue_wait_ms=60_000) as (server, _):
        for budget_ms in (1, 2, 3, 5, 8) * 10:
            # A timer that ends early must not turn any of them into a 503, which asks to try again.
            response = server.client.post("/v1/score", json=SCORE | {"budget_ms": budget_ms})
            assert response.status_code == 504 and "budget_ms" in response.json()["detail"]
        batch = server.client.post("/v1/score:batch", json={"requests": [SCORE | {"budget_ms": 5}, {"candidates": []}]}).json()
        assert [answer["status"] for answer in batch["answers"]] == [504, 422]


def test_a_busy_store_leaves_inline_scoring_alone(tiny: Tiny) -> None:
    with busy(tiny, "/v1/behaviors", POSTED, queue_length=0) as (server, _):
        inline = {"behaviors": [{"item_id": "item-2", "timestamp": 1}], "candidates": ["item-1"]}
        assert server.client.post("/v1/score", json=inline).status_code == 200
        assert server.client.get("/v1/users/u/behaviors").status_code == 503


def test_afterwards_it_is_healthy_at_once(tiny: Tiny) -> None:
    with busy(tiny, "/v1/score", SCORE, queue_wait_ms=1) as (server, under_way):
        for _ in range(5):
            assert server.client.post("/v1/score", json=SCORE).status_code == 503
        server.store.go_on.set()  # type: ignore[attr-defined]
        under_way.result()
        assert server.client.post("/v1/score", json=SCORE).status_code == 200
        assert 'dare_in_flight{work="score"} 0.0' in server.client.get("/metrics").text
