"""`dare serve` and `dare load`."""

from __future__ import annotations

import contextlib
import logging
import socket
from pathlib import Path

import numpy as np
import uvicorn

from service.app import create_app, open_store, refuse_workers
from service.behavior_store import BehaviorStore
from service.commands.terminal import console, progress_bar
from service.heap import keep_what_there_is, share_one_heap
from service.listening import bound_socket, server_options
from service.settings import Settings

_log = logging.getLogger("dare.service")


def serve_command(artifacts: Path, store: str, host: str, port: int, workers: int) -> None:
    """See `dare serve`."""
    settings = Settings(artifacts=artifacts, store=store, host=host, port=port, workers=workers)
    if workers == 1:
        run(settings)
        return
    from service.workers import Workers

    refuse_workers(settings)
    log_to_stderr()
    Workers(settings).run()


def log_to_stderr() -> None:
    """One line per event, with its time."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("faiss").setLevel(logging.WARNING)


def run(settings: Settings, store: BehaviorStore | None = None, listening: socket.socket | None = None) -> None:
    """Serve until stopped. Args: `listening` at the settings' address already, None for a new one."""
    log_to_stderr()
    share_one_heap()
    with contextlib.suppress(KeyboardInterrupt), listening or bound_socket(settings) as listened:
        app = create_app(settings, store)
        server = uvicorn.Server(uvicorn.Config(app, **server_options(settings, app.state.metrics, app.state.gate)))
        _log.info("listening on port %d", listened.getsockname()[1])
        keep_what_there_is()
        server.run([listened])


def load_command(data: Path, store: str, skip_bad_rows: bool) -> None:
    """See `dare load`."""
    if store == "memory:":
        raise ValueError("--store memory: would be gone when this command ends; use file:DIR or redis://HOST:PORT/DB")
    opened = open_store(store)
    try:
        users, behaviors = load_into(opened, data, skip_bad_rows)
    finally:
        opened.close()
    console.print(f"{behaviors:,} behaviors of {users:,} users are in {store}", markup=False, soft_wrap=True)


def load_into(store: BehaviorStore, data: Path, skip_bad_rows: bool = False) -> tuple[int, int]:
    """Fill a store with every user of a tidy folder; returns users and behaviors."""
    from model.item_hash import hash_item_ids
    from service.commands.data import read

    log = read(data, skip_bad_rows)
    item_hash = hash_item_ids(log.item_id)
    loaded = 0
    with progress_bar() as bar:
        task = bar.add_task("filling the behavior store", total=log.num_users, note="users")
        for user, user_id in enumerate(log.user_id):
            bar.update(task, completed=user + 1)
            rows = slice(int(log.user_start[user]), int(log.user_start[user + 1]))
            if rows.stop > rows.start:
                loaded += store.load(user_id, item_hash[log.item[rows]], log.timestamp[rows].astype(np.int64))
    return log.num_users, loaded
