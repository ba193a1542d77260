"""`dare bench store`: what a shared store costs a request, when one behavior came since the last one."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from service.app import open_store
from service.behavior_store import BehaviorStore
from service.bench.requests import Drawn
from service.bench.sides import Side, dare_serve, note_stages, percentiles
from service.commands.terminal import emit, table

_WARM = 10
_STAGES = ("store", "prepare", "search", "rank", "total")


def bench_store(artifacts: Path, store: str, lengths: list[int], users: list[int], candidates: int, rounds: int, as_json: bool) -> None:
    """See `dare bench store`. Raises: ValueError for a store that is not shared."""
    if not store.startswith("redis:"):
        raise ValueError(f"--store must be redis://HOST:PORT/DB, a store that is shared, got {store!r}")
    drawn, rng, rows = Drawn.of(artifacts), np.random.default_rng(0), list[dict[str, Any]]()
    with closing(open_store(store)) as opened, dare_serve(artifacts, store, 1) as side:
        for length in lengths:
            for together in users:
                with _stored(opened, drawn, rng, together, length) as names:
                    stages_ms = _asked(side, drawn, rng, names, candidates, rounds)
                rows.append({"behaviors": length, "users": together} | {name: percentiles(stages_ms[name]) for name in _STAGES})
    emit({"model_version": drawn.version, "candidates": candidates, "rounds": rounds, "rows": rows}, as_json)
    if not as_json:
        shown = [{**row, **{name: f"{row[name]['p50']:.3f} / {row[name]['p99']:.3f}" for name in _STAGES}} for row in rows]
        table(f"one new behavior of each user, {candidates} candidates each; stages in ms, p50 / p99", shown)


@contextmanager
def _stored(store: BehaviorStore, drawn: Drawn, rng: np.random.Generator, users: int, length: int) -> Iterator[list[str]]:
    """Users of the length in the store, erased on leaving; yields their names."""
    names = [f"bench-{secrets.token_hex(8)}" for _ in range(users)]
    try:
        for name, item_hash, timestamp in zip(names, *drawn.histories(rng, users, length), strict=True):
            store.load(name, item_hash, timestamp)
        yield names
    finally:
        for name in names:
            store.delete(name)


def _asked(side: Side, drawn: Drawn, rng: np.random.Generator, names: list[str], candidates: int, rounds: int) -> dict[str, list[float]]:
    """Times of each stage of `rounds` requests for all the users, ms: a batch where they are several."""
    stages_ms: dict[str, list[float]] = {name: [] for name in _STAGES}
    connection = side.connected()
    for number in range(_WARM + rounds):
        now = drawn.now + 1 + number
        new = [{"user_id": name, "item_id": drawn.item_id[int(rng.integers(len(drawn.item_id)))], "timestamp": now} for name in names]
        side.post(connection, json.dumps({"behaviors": new}).encode(), "/v1/behaviors")
        wanted = [json.loads(body) | {"timestamp": now} for body in drawn.bodies(rng, names, candidates, len(names))]
        path, body = ("/v1/score", wanted[0]) if len(names) == 1 else ("/v1/score:batch", {"requests": wanted})
        _, head = side.post(connection, json.dumps(body).encode(), path)
        if number >= _WARM:
            note_stages(stages_ms, head)
    connection.close()
    return stages_ms
