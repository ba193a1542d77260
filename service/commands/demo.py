"""`dare demo`: what `make serve` runs."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from model.artifact import current_version
from service.app import open_store
from service.behavior_store import BehaviorStore
from service.commands.serving import load_into, run
from service.commands.terminal import console
from service.listening import bound_socket
from service.settings import Settings

_DAY_S = 86_400
_INTERRUPTED = 130


def demo_command(data: Path, artifacts: Path, store: str, host: str, port: int) -> None:
    """See `dare demo`."""
    settings = Settings(artifacts=artifacts, store=store, host=host, port=port, development=True)
    # First, so that a port in use is known before a model is trained.
    with bound_socket(settings) as listening:
        if not any((data / f"interactions{suffix}").exists() for suffix in (".parquet", ".csv.gz", ".csv")):
            from service.commands.data import complete_journey

            complete_journey(data, 0)
        if not (artifacts / "CURRENT").exists():
            _train_apart(data, artifacts)
        current_version(artifacts)
        opened = _filled_store(store, data)
        _what_to_try(opened, host, listening.getsockname()[1])
        run(settings, opened, listening)


def _filled_store(url: str, data: Path) -> BehaviorStore:
    """The store, with every user of the data in it unless it has users already."""
    opened = open_store(url)
    # Stays when filling is cut short: half of the users in the store are not all of them.
    filling = data / ".filling-the-store"
    try:
        if filling.exists() or next(opened.users(), None) is None:
            filling.touch()
            load_into(opened, data)
            filling.unlink()
    except BaseException:
        opened.close()
        raise
    return opened


def _train_apart(data: Path, artifacts: Path) -> None:
    """Train in a process of its own: what serves afterwards has never imported torch."""
    console.print("no model yet: training one (a few minutes; Ctrl-C keeps a checkpoint, the same command resumes)")
    arguments = ["train", "--data", str(data), "--out", str(artifacts), "--preset", "demo"]
    # A session of its own, so that Ctrl-C comes once, through us, and the training has the time to finish its step and its checkpoint.
    with subprocess.Popen([sys.executable, "-m", "service", *arguments], start_new_session=True) as training:
        while True:
            try:
                training.wait()
                break
            except KeyboardInterrupt:
                training.send_signal(signal.SIGINT)
    if training.returncode == _INTERRUPTED:
        raise KeyboardInterrupt
    if training.returncode:
        raise RuntimeError(f"training ended with status {training.returncode}")


def _what_to_try(store: BehaviorStore, host: str, port: int) -> None:
    user_id, _ = max(store.users(), key=lambda user: user[1])
    timestamp = int(store.read(user_id).timestamp[-1]) + _DAY_S
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    body = json.dumps({"user_id": user_id, "limit": 5, "timestamp": timestamp})
    console.print(f"\n[bold]Open {url}/[/bold] for the console, {url}/docs for the API, or try:\n")
    console.print(f"  curl -s {url}/v1/recommend -d {shlex.quote(body)}\n", markup=False, soft_wrap=True)
    console.print(
        "(The demo's purchases are years old, so the request says when it is: a day after the user's newest behavior.) Ctrl-C stops.\n"
    )
