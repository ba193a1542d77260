"""Spans reach a collector: one per request below the caller's trace, one per stage inside it; without a collector nothing is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from service.memory_store import MemoryStore
from service.settings import Settings
from tests.conftest import Tiny
from tests.service.conftest import NOW, Server

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(HTTPServer):
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receive)
        self.spans = list[Span]()


class Receive(BaseHTTPRequestHandler):
    """OTLP over HTTP, protobuf."""

    server: Collector

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            content = gzip.decompress(content)
        assert self.path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(content).resource_spans:
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    collector = Collector()
    thread = threading.Thread(target=collector.serve_forever)
    thread.start()
    try:
        yield collector, f"http://127.0.0.1:{collector.server_address[1]}"
    finally:
        collector.shutdown()
        thread.join()
        collector.server_close()


@pytest.fixture
def plain(server: Server) -> Server:
    """A server without a collector."""
    return server


def test_a_request_is_a_span_below_the_callers_with_one_per_stage(tiny: Tiny, plain: Server) -> None:
    ask = {"user_id": "u", "candidates": ["item-1"], "timestamp": NOW}
    with collecting() as (collector, url):
        server = Server(Settings(artifacts=tiny.artifacts, otlp_endpoint=url), MemoryStore())
        try:
            server.client.get("/livez").raise_for_status()
            server.client.get("/v1/users/alice%2Fbob/behaviors").raise_for_status()
            server.client.delete("/v1/users/alice").raise_for_status()
            server.client.post("/v1/score", json=ask, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"}).raise_for_status()
            # With spans a request takes the framework's way, without them a shorter one (service/direct.py): both answer alike.
            for path, body in (("/v1/score", {"candidates": []}), ("/v1/recommend", {"user_id": ""}), ("/v1/behaviors", {})):
                answers = [one.client.post(path, json=body, headers={"X-Request-ID": "same"}) for one in (server, plain)]
                assert answers[0].status_code == answers[1].status_code == 422 and answers[0].json() == answers[1].json()
        finally:
            server.stop()
    users = [span for span in collector.spans if "/v1/users/" in span.name]
    assert len(users) == 2 and "alice" not in str(users) and "/v1/users/{user_id}/behaviors" in str(users[0].attributes)
    spans = {span.name: span for span in collector.spans if span.trace_id.hex() == TRACE}
    assert set(spans) == {"POST /v1/score", "queue", "store", "prepare", "search", "rank"}
    request = spans.pop("POST /v1/score")
    assert request.trace_id.hex() == TRACE and request.parent_span_id.hex() == PARENT
    ordered = [spans[name] for name in ("queue", "store", "prepare", "search", "rank")]
    for span in ordered:
        assert not span.attributes
        assert span.trace_id == request.trace_id and span.parent_span_id == request.span_id
        assert span.end_time_unix_nano >= span.start_time_unix_nano
    assert [span.start_time_unix_nano for span in ordered[1:]] == [span.end_time_unix_nano for span in ordered[:-1]]
    assert spans["search"].end_time_unix_nano > spans["search"].start_time_unix_nano


def test_without_a_collector_a_trace_costs_nothing_and_harms_nothing(server: Server) -> None:
    ask = {"user_id": "u", "candidates": ["item-1"]}
    for traceparent in (f"00-{TRACE}-{PARENT}-01", "nonsense", "00-0-0-00"):
        assert server.client.post("/v1/score", json=ask, headers={"traceparent": traceparent}).status_code == 200


def test_a_collector_without_the_extra_stops_the_start(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ValueError, match="extra `otel`"):
        Server(Settings(artifacts=tiny.artifacts, otlp_endpoint="http://127.0.0.1:1"), MemoryStore())
