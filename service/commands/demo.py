"""`dare demo`: what `make serve` runs."""

from __future__ import annotations

import json
from pathlib import Path

from model.artifact import ArtifactError, current_version
from service.app import open_store
from service.behavior_store import BehaviorStore
from service.commands.serving import load_into, run
from service.commands.terminal import console
from service.settings import Settings

_DAY_S = 86_400


def demo_command(data: Path, artifacts: Path, store: str, host: str, port: int) -> None:
    """See `dare demo`."""
    settings = Settings(artifacts=artifacts, store=store, host=host, port=port, development=True)
    if not (data / "interactions.parquet").exists():
        from service.commands.data import complete_journey

        complete_journey(data, 0)
    try:
        current_version(artifacts)
    except ArtifactError:
        _train_apart(data, artifacts)
    opened = open_store(store)
    if next(opened.users(), None) is None:
        load_into(opened, data)
    _what_to_try(opened, host, port)
    run(settings, opened)


def _train_apart(data: Path, artifacts: Path) -> None:
    """Train in a process of its own: what serves afterwards has never imported torch."""
    import subprocess
    import sys

    console.print("no model yet: training one (a few minutes; Ctrl-C keeps a checkpoint, the same command resumes)")
    arguments = ["train", "--data", str(data), "--out", str(artifacts), "--preset", "demo"]
    done = subprocess.run([sys.executable, "-m", "service", *arguments], check=False)
    if done.returncode:
        raise RuntimeError(f"training ended with status {done.returncode}")


def _what_to_try(store: BehaviorStore, host: str, port: int) -> None:
    user_id, _ = max(store.users(), key=lambda user: user[1])
    timestamp = int(store.read(user_id).timestamp[-1]) + _DAY_S
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    body = json.dumps({"user_id": user_id, "limit": 5, "timestamp": timestamp})
    console.print(f"\n[bold]Open {url}/[/bold] for the console, {url}/docs for the API, or try:\n")
    console.print(f"  curl -s {url}/v1/recommend -d '{body}'\n", markup=False, soft_wrap=True)
    console.print(
        "(The demo's purchases are years old, so the request says when it is: a day after the user's newest behavior.) Ctrl-C stops.\n"
    )
