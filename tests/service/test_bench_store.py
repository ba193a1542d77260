"""`dare bench store` measures a real service on a real store and leaves nothing in it."""

from __future__ import annotations

import json

import pytest

from service.commands.bench_store import bench_store
from tests.conftest import Tiny
from tests.service.redis_server import GivenServer, RedisServer


def test_stages_by_length_and_users(tiny: Tiny, redis_server: RedisServer | GivenServer, capsys: pytest.CaptureFixture[str]) -> None:
    bench_store(tiny.artifacts, redis_server.url, [30, 300], [1, 3], candidates=5, rounds=3, as_json=True)
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["behaviors"], row["users"]) for row in rows] == [(30, 1), (30, 3), (300, 1), (300, 3)]
    assert all(0 < row["store"]["p50"] <= row["total"]["p99"] for row in rows)
    assert redis_server.client.dbsize() == 0


def test_a_store_of_one_process_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match=r"--store must be redis://HOST:PORT/DB.*got 'memory:'"):
        bench_store(tiny.artifacts, "memory:", [30], [1], candidates=5, rounds=1, as_json=True)
