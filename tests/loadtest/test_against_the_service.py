"""The load tests understand the service that they are for."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import uvicorn

from loadtest.open_loop import LATENCY, main
from loadtest.workload import BEHAVIORS, RECOMMEND, SCORE
from model.item_hash import hash_item_ids
from service.app import create_app
from service.memory_store import MemoryStore
from service.settings import Settings
from tests.conftest import Tiny
from tests.patience import until


def test_the_open_loop_runs_against_it(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    store, item_hash = MemoryStore(), hash_item_ids(tiny.log.item_id)
    for user in range(10):
        rows = slice(tiny.log.user_start[user], tiny.log.user_start[user + 1])
        store.load(tiny.log.user_id[user], item_hash[tiny.log.item[rows]], tiny.log.timestamp[rows].astype(np.int64))
    known = sum(length for _, length in store.users())
    app = create_app(Settings(artifacts=tiny.artifacts, queue_length=100, queue_wait_ms=10_000), store)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        assert server.started, "the server did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        status = main(["--url", f"http://127.0.0.1:{port}", "--rate", "50", "--seconds", "1", "--candidates", "20", "--json"])
        stored = sum(length for _, length in store.users()) - known
    finally:
        server.should_exit = True
        thread.join()
    result = json.loads(capsys.readouterr().out)
    assert (status, result["answered"], result["errors"]) == (0, 50, {})
    counted = {(row["path"], row["stage"]): row["count"] for row in result["rows"]}
    for path in (SCORE, RECOMMEND):
        for stage in ("queue", "store", "search", "rank", "total"):
            assert counted[path, stage] == counted[path, LATENCY]
    assert stored == counted[BEHAVIORS, LATENCY] > 0
