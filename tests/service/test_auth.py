"""Keys: who has none is refused everywhere, who has one gets its scopes, its tenant's users and its quota, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from service.app import create_app
from service.auth import Callers, Quota
from service.commands.keys import key_command
from service.memory_store import MemoryStore
from service.settings import Settings
from tests.conftest import Tiny
from tests.service.conftest import NOW, Server

KEYS: dict[str, dict[str, Any]] = {
    "shop": {"scopes": ["score", "behaviors"], "tenant": "shop"},
    "rival": {"scopes": ["score", "behaviors"], "tenant": "rival"},
    "plain": {"scopes": ["score", "behaviors", "admin"]},
    "reader": {"scopes": ["score"], "tenant": "shop"},
    "slow": {"scopes": ["score"], "requests_per_s": 0.01, "burst": 3},
}
ASK = {"user_id": "u", "candidates": ["item-1"], "timestamp": NOW}
OPEN = {
    ("GET", path)
    for path in ("/livez", "/readyz", "/metrics", "/", "/docs", "/openapi.json", "/console/{name}", "/v2/health/live", "/v2/health/ready")
} | {("HEAD", path) for path in ("/livez", "/readyz", "/metrics")}


def key_file(folder: Path, **changed: Any) -> Path:
    entries = [{"name": name, "sha256": hashlib.sha256(f"secret-{name}".encode()).hexdigest()} | key for name, key in KEYS.items()]
    entries[0] |= changed
    (folder / "keys.json").write_text(json.dumps({"keys": entries}))
    return folder / "keys.json"


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer secret-{name}"}


@pytest.fixture
def locked(tiny: Tiny, tmp_path: Path) -> Iterator[Server]:
    server = Server(Settings(artifacts=tiny.artifacts, api_keys=key_file(tmp_path), development=False), MemoryStore())
    yield server
    server.stop()


def refused(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["request_id"] == response.headers["X-Request-ID"]
    return problem


def test_every_route_but_probes_and_pages_asks_for_a_key(locked: Server) -> None:
    every = [inner for route in locked.app.routes for inner in getattr(getattr(route, "original_router", None), "routes", [route])]
    routes = {(method, route.path) for route in every if isinstance(route, APIRoute) for method in route.methods}
    assert len(routes - OPEN) >= 11
    for method, path in sorted(routes - OPEN):
        filled = path.replace("{user_id:path}", "u").replace("{version}", "v").replace("{model}", "dare")
        answer = locked.client.request(method, filled, json=ASK if method == "POST" else None)
        refused(answer, 401)
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_probes_and_pages_never_ask(locked: Server) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/", "/docs", "/openapi.json", "/console/console.js"):
        assert locked.client.get(path).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer wrong",
        "secret-shop",
        "Basic secret-shop",
        "Bearer secret-shop2",
        "Bearer secret-sho",
        "Bearer \xff",
    ],
)
def test_what_is_no_key_is_a_401_that_tells_nothing(locked: Server, header: str) -> None:
    problem = refused(locked.client.post("/v1/score", json=ASK, headers={"Authorization": header.encode("latin-1")}), 401)
    assert "secret" not in json.dumps(problem)


def test_a_key_opens_its_scopes_alone(locked: Server) -> None:
    assert locked.client.post("/v1/score", json=ASK, headers=bearer("reader")).status_code == 200
    assert "behaviors" in refused(locked.client.delete("/v1/users/u", headers=bearer("reader")), 403)["detail"]
    refused(locked.client.get("/v1/models", headers=bearer("shop")), 403)
    refused(locked.client.post("/v1/models:rollback", headers=bearer("shop")), 403)
    assert locked.client.get("/v1/models", headers=bearer("plain")).status_code == 200


def test_tenants_share_no_user_whatever_its_name(locked: Server) -> None:
    posted = {"behaviors": [{"user_id": "u", "item_id": "item-1", "timestamp": 5}]}
    for tenant, times in (("shop", 1), ("rival", 2), ("plain", 3)):
        for _ in range(times):
            assert locked.client.post("/v1/behaviors", json=posted, headers=bearer(tenant)).json()["accepted"] == 1
    for tenant, times in (("shop", 1), ("rival", 2), ("plain", 3), ("reader", 1)):
        answer = locked.client.post("/v1/score", json=ASK, headers=bearer(tenant)).json()
        assert answer["sequence_length"] == times
        batch = locked.client.post("/v1/score:batch", json={"requests": [ASK]}, headers=bearer(tenant)).json()
        assert batch["answers"][0]["answer"]["sequence_length"] == times
        assert locked.client.post("/v1/recommend", json={"user_id": "u"}, headers=bearer(tenant)).json()["sequence_length"] == times
    for tenant, times in (("shop", 1), ("rival", 2), ("plain", 3)):
        listed = locked.client.get("/v1/users/u/behaviors", headers=bearer(tenant)).json()
        assert (listed["user_id"], listed["sequence_length"]) == ("u", times)
        assert locked.client.get("/console/users", headers=bearer(tenant)).json() == [{"user_id": "u", "length": times}]
    assert locked.client.delete("/v1/users/u", headers=bearer("rival")).json()["erased"] == 2
    assert locked.client.post("/v1/score", json=ASK, headers=bearer("shop")).json()["sequence_length"] == 1
    for guess in ("shop:u", "shop\x1fu", "shop%1Fu"):
        answer = locked.client.post("/v1/score", json=ASK | {"user_id": guess}, headers=bearer("plain"))
        assert answer.status_code == 422 or answer.json()["sequence_length"] == 0


def test_over_its_quota_a_key_is_told_when_to_come_back(locked: Server) -> None:
    statuses = [locked.client.post("/v1/score", json=ASK, headers=bearer("slow")).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    late = locked.client.post("/v1/score", json=ASK, headers=bearer("slow"))
    assert refused(late, 429)["type"] == "urn:dare:problem:over-quota" and 30 <= int(late.headers["Retry-After"]) <= 100
    assert locked.client.post("/v1/score", json=ASK, headers=bearer("plain")).status_code == 200


def test_a_batch_counts_each_of_its_requests(locked: Server) -> None:
    batch = {"requests": [ASK] * 3}
    assert locked.client.post("/v1/score:batch", json=batch, headers=bearer("slow")).status_code == 200
    refused(locked.client.post("/v1/score", json=ASK, headers=bearer("slow")), 429)


def test_a_quota_fills_again_with_time() -> None:
    now = 0.0
    quota = Quota(2.0, 4, lambda: now)
    assert [quota.take(1) for _ in range(5)] == [0.0] * 4 + [0.5]
    now = 0.5
    assert [quota.take(1), quota.take(1)] == [0.0, 0.5]
    now = 1000.0
    assert quota.take(4) == 0.0 and quota.take(1) == 0.5, "no more than the burst is saved up"
    now = 1002.0
    assert quota.take(10) == 0.0 and quota.take(1) == 3.5, "what is larger than the burst is granted, and paid for"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"scopes": ["everything"]}, "everything"),
        ({"scopes": []}, "scopes"),
        ({"sha256": "secret-shop"}, "sha256"),
        ({"name": "rival"}, "same name"),
        ({"tenant": "A b"}, "tenant"),
        ({"key": "secret"}, "key"),
        ({"requests_per_s": 0}, "requests_per_s"),
    ],
)
def test_a_key_file_that_cannot_be_used_stops_the_start(tiny: Tiny, tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        create_app(Settings(artifacts=tiny.artifacts, api_keys=key_file(tmp_path, **changed)))


def test_a_key_file_that_is_not_there_stops_the_start(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json"):
        create_app(Settings(artifacts=tiny.artifacts, api_keys=tmp_path / "none.json"))


def test_without_keys_only_development_on_loopback_starts(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="DARE_API_KEYS"):
        create_app(Settings(artifacts=tiny.artifacts, development=False))
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):
        with pytest.raises(ValueError, match="loopback"):
            create_app(Settings(artifacts=tiny.artifacts, development=True, host=host))
    with pytest.raises(ValueError, match="loopback"):
        create_app(Settings(artifacts=tiny.artifacts, development=True, host="0.0.0.0", published_address="10.0.0.1"))
    for host in ("127.0.0.1", "::1", "localhost"):
        create_app(Settings(artifacts=tiny.artifacts, development=True, host=host))
    create_app(Settings(artifacts=tiny.artifacts, development=True, host="0.0.0.0", published_address="127.0.0.1"))


def test_without_keys_another_sites_page_cannot_reach_it(server: Server) -> None:
    host = f"{server.client.base_url.host}:{server.client.base_url.port}"
    refused(server.client.post("/v1/score", json=ASK, headers={"Origin": "https://evil.example"}), 403)
    refused(server.client.delete("/v1/users/u", headers={"Origin": "null"}), 403)
    assert server.client.post("/v1/score", json=ASK, headers={"Origin": f"http://{host}"}).status_code == 200


def test_without_keys_a_name_that_another_site_gave_this_address_is_refused(server: Server) -> None:
    """DNS rebinding: to the browser such a page is of one origin with the service, and a GET says nothing of where it came from."""
    for name in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[::1", "localhost.example"):
        refused(server.client.get("/v1/users/u/behaviors", headers={"Host": name}), 403)
    for name in ("localhost:8000", "dare:8000", "127.0.0.1", "[::1]:8000", "demo.localhost"):
        assert server.client.get("/v1/users/u/behaviors", headers={"Host": name}).status_code == 200, name


def test_a_key_that_the_command_made_opens_the_service(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.json"
    key_command("shop", ["score"], "shop", 0.01, 2, file)
    key = capsys.readouterr().out.strip()
    assert key not in file.read_text() and file.stat().st_mode & 0o077 == 0
    for name, scopes, named in (("shop", ["score"], "already"), ("other", ["everything"], "everything")):
        with pytest.raises(ValueError, match=named):
            key_command(name, scopes, "", None, 10, file)
    server = Server(Settings(artifacts=tiny.artifacts, api_keys=file, development=False), MemoryStore())
    try:
        statuses = [server.client.post("/v1/score", json=ASK, headers={"Authorization": f"Bearer {key}"}).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
    finally:
        server.stop()


def test_keys_read_again_keep_what_is_left_of_their_quota(tiny: Tiny, tmp_path: Path) -> None:
    callers = Callers(Settings(artifacts=tiny.artifacts, api_keys=key_file(tmp_path), development=False))
    before = {key.name: caller for _, key, caller in callers._caller}
    key_file(tmp_path, scopes=["score"])
    callers.reload()
    after = {key.name: caller for _, key, caller in callers._caller}
    assert after["slow"] is before["slow"] and after["slow"].quota is not None
    assert after["shop"] is not before["shop"] and after["shop"].scopes == {"score"}
    (tmp_path / "keys.json").write_text("{")
    with pytest.raises(ValueError, match=r"keys\.json"):
        callers.reload()
    assert {key.name: caller for _, key, caller in callers._caller} == after
