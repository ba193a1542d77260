"""Two tenants with a user of the same name on the shared store: no route of one shows, scores, changes or erases the other's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.redis_store import RedisStore
from service.settings import Settings
from tests.conftest import Tiny
from tests.service.conftest import NOW, Server
from tests.service.redis_server import GivenServer, RedisServer
from tests.service.test_auth import bearer, key_file

LENGTHS = {"shop": 2, "rival": 5, "plain": 3}
SCORE = {"user_id": "u", "candidates": ["item-1", "item-2"], "timestamp": NOW}
INFER = {"inputs": [{"name": name, "shape": [len(data)], "datatype": "BYTES", "data": data} for name, data in (
    ("user_id", ["u"]), ("candidates", ["item-1", "item-2"]))]}  # fmt: skip


@pytest.fixture
def shared(tiny: Tiny, tmp_path: Path, redis_server: RedisServer | GivenServer) -> Iterator[tuple[Server, Server]]:
    """Two processes, as it were, on one server; every tenant has posted its behaviors to the first."""
    settings = Settings(artifacts=tiny.artifacts, api_keys=key_file(tmp_path), development=False)
    first, second = (Server(settings, RedisStore(redis_server.url, read_s=30, write_s=30)) for _ in range(2))
    for tenant, length in LENGTHS.items():
        new = [{"user_id": "u", "item_id": f"item-{tenant}", "timestamp": NOW - 100 + step, "event_id": step} for step in range(length)]
        answer = first.client.post("/v1/behaviors", json={"behaviors": new}, headers=bearer(tenant)).json()
        assert (answer["accepted"], answer["duplicates"]) == (length, 0), "an event of another tenant is no duplicate"
    yield first, second
    first.stop()
    second.stop()


def seen(server: Server, tenant: str) -> list[Any]:
    """What every route that reads shows the tenant of its user."""
    client, key = server.client, bearer(tenant)
    score = client.post("/v1/score", json=SCORE, headers=key).json()
    (batched,) = client.post("/v1/score:batch", json={"requests": [SCORE]}, headers=key).json()["answers"]
    recommended = client.post("/v1/recommend", json={"user_id": "u", "timestamp": NOW}, headers=key).json()
    listed = client.get("/v1/users/u/behaviors", headers=key).json()
    items = {behavior["item_hash"] for behavior in listed["behaviors"]}
    inferred = client.post("/v2/models/dare/infer", json=INFER, headers=key).json()
    assert score["scores"] == batched["answer"]["scores"]
    np.testing.assert_allclose(inferred["outputs"][0]["data"], score["scores"], atol=1e-6)
    lengths = {answer["sequence_length"] for answer in (score, batched["answer"], recommended, listed)}
    return [lengths, client.get("/console/users", headers=key).json(), len(items), items]


def expected(length: int) -> list[Any]:
    return [{length}, [{"user_id": "u", "length": length}] if length else [], int(length > 0)]


def test_no_route_shows_another_tenants_user(shared: tuple[Server, Server]) -> None:
    every = dict[str, set[str]]()
    for server in shared:
        for tenant, length in LENGTHS.items():
            *shown, items = seen(server, tenant)
            assert shown == expected(length)
            every.setdefault(tenant, set()).update(items)
    assert len(set.union(*every.values())) == len(every) == 3, "each has its own item"


@pytest.mark.parametrize("erasing", list(LENGTHS))
def test_an_erasure_leaves_the_other_tenants_user(shared: tuple[Server, Server], erasing: str) -> None:
    first, second = shared
    for server in shared:
        for tenant in LENGTHS:
            seen(server, tenant)
    assert first.client.delete("/v1/users/u", headers=bearer(erasing)).json()["erased"] == LENGTHS[erasing]
    for server in (second, first):
        for tenant, length in LENGTHS.items():
            assert seen(server, tenant)[:3] == expected(0 if tenant == erasing else length)
    again = {"user_id": "u", "item_id": "item-1", "timestamp": NOW, "event_id": 0}
    for tenant in LENGTHS:
        answer = second.client.post("/v1/behaviors", json={"behaviors": [again]}, headers=bearer(tenant)).json()
        assert answer["accepted"] == (tenant == erasing), "what it sent before is forgotten with it, and with it alone"
