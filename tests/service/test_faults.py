"""What breaks inside is answered outside: by a document, with the request's id, and nothing else lost."""

from __future__ import annotations

import logging

import pytest

from service.behavior_store import Appended, BehaviorSequence, NewBehavior, StoreFull
from service.memory_store import MemoryStore
from service.settings import Settings
from tests.conftest import Tiny
from tests.service.conftest import Server


class FailingStore(MemoryStore):
    """A store whose disk is gone."""

    def read(self, user_id: str) -> BehaviorSequence:
        raise OSError(f"secret detail about {user_id}")

    def append(self, behaviors: list[NewBehavior]) -> Appended:  # type: ignore[override]
        raise StoreFull("the behavior log cannot be written: No space left on device")


def test_an_unforeseen_error_is_a_500_with_its_id_and_no_trace(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(Settings(artifacts=tiny.artifacts), FailingStore())
    try:
        ask = {"user_id": "u", "candidates": ["item-1"]}
        response = server.client.post("/v1/score", json=ask, headers={"X-Request-ID": "find-me"})
        assert response.status_code == 500 and response.headers["content-type"] == "application/problem+json"
        assert response.headers["X-Request-ID"] == response.json()["request_id"] == "find-me"
        assert "secret" not in response.text and "Traceback" not in response.text
        (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert "find-me" in record.getMessage() and record.exc_info and "secret detail about u" in str(record.exc_info[1])
        full = server.client.post("/v1/behaviors", json={"behaviors": [{"user_id": "u", "item_id": "i", "timestamp": 1}]})
        assert full.status_code == 503 and int(full.headers["Retry-After"]) >= 1 and "No space left" in full.json()["detail"]
        inline = server.client.post("/v1/score", json={"behaviors": [{"item_id": "item-2", "timestamp": 1}], "candidates": ["item-1"]})
        assert inline.status_code == 200, "what needs no store goes on"
        assert 'dare_requests_total{route="/v1/score",status="500"} 1.0' in server.client.get("/metrics").text
    finally:
        server.stop()
