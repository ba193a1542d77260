"""A real server on a real socket, serving the small world's model."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn

from model.item_hash import hash_item_ids
from service.app import create_app
from service.behavior_store import BehaviorStore
from service.listening import server_options
from service.memory_store import MemoryStore
from service.settings import Settings
from tests.conftest import Tiny
from tests.patience import PATIENCE_S, until
from tests.service.redis_server import GivenServer, RedisServer, contract_server

NOW = 1_700_000_000
_FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[int, str], None]:
    """Note a fault's figure for the report: number of the fault, and what was measured."""
    figures = request.config.stash.setdefault(_FIGURES, [])
    return lambda fault, measured: figures.append(f"| {fault} | {request.node.name} | {measured} |")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the figures; write them where `DARE_FAULTS_REPORT` says."""
    figures = sorted(config.stash.get(_FIGURES, []), key=lambda row: int(row.split("|")[1]))
    if report := os.environ.get("DARE_FAULTS_REPORT"):
        failed = [f"\nFAILED: {test.nodeid}" for test in terminalreporter.stats.get("failed", [])]
        Path(report).write_text("\n".join(["| fault | test | measured |", "|---|---|---|", *figures, *failed]) + "\n")
        terminalreporter.write_line("\n".join(figures))


class Server:
    """A running service: `client` talks HTTP to it; `store` is what it reads."""

    def __init__(self, settings: Settings, store: BehaviorStore, clock: Callable[[], float] = lambda: NOW) -> None:
        self.store = store
        self.settings = settings
        app = create_app(settings, store, clock)
        self.app, self.models = app, app.state.models
        self._server = uvicorn.Server(
            uvicorn.Config(app, **server_options(settings, app.state.metrics, app.state.gate) | {"port": 0, "log_level": "critical"})
        )
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        until(lambda: self._server.started or not self._thread.is_alive())
        assert self._server.started, "the server did not start"
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S)

    def stop(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join()


def filled_store(tiny: Tiny, users: int = 20) -> MemoryStore:
    store = MemoryStore()
    item_hash = hash_item_ids(tiny.log.item_id)
    for user in range(users):
        rows = slice(tiny.log.user_start[user], tiny.log.user_start[user + 1])
        store.load(tiny.log.user_id[user], item_hash[tiny.log.item[rows]], tiny.log.timestamp[rows].astype(np.int64))
    return store


@pytest.fixture(scope="session")
def contract_redis() -> Iterator[RedisServer | GivenServer]:
    """A server for tests that leave it running."""
    started = contract_server()
    yield started
    started.close()


@pytest.fixture
def redis_server(contract_redis: RedisServer | GivenServer) -> RedisServer | GivenServer:
    """The same, empty."""
    contract_redis.client.flushdb()
    return contract_redis


@pytest.fixture(scope="session")
def server(tiny: Tiny) -> Iterator[Server]:
    """A server with default limits, 20 users loaded."""
    running = Server(Settings(artifacts=tiny.artifacts), filled_store(tiny))
    yield running
    running.stop()


@pytest.fixture
def small_server(tiny_artifacts: Path) -> Iterator[Server]:
    """A server with tight limits and an empty store."""
    settings = Settings(artifacts=tiny_artifacts, max_body_bytes=20_000, max_candidates=10, max_inline_behaviors=50, max_posted_per_user=3)
    running = Server(settings, MemoryStore())
    yield running
    running.stop()
