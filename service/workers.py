"""Several worker processes on one listening socket: started together, restarted when one dies, stopped together.

Each is a whole service of its own on the shared store; the tables are mapped from the artifact's files, so that there is one copy of them.
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import FrameType

import uvicorn
from prometheus_client import multiprocess

from service.listening import bound_socket
from service.settings import Settings

METRICS_DIR = "PROMETHEUS_MULTIPROC_DIR"
_GRACE_S = 15.0
_AGAIN_S = 0.5
_log = logging.getLogger("dare.service")


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    ours: Connection
    """Says "ready" once; closed when this process ends, however it ends, which tells the worker to stop."""
    ready: bool = False
    passed_on: int | None = None
    """A signal to be passed on once it is ready: before, it would end the worker."""

    def said_so(self) -> None:
        """It is ready. Raises: EOFError when it has ended instead."""
        self.ours.recv()
        self.ready = True
        if self.passed_on is not None:
            self.take(self.passed_on)

    def take(self, number: int) -> None:
        """Pass a signal on, now or as soon as it is ready."""
        if not self.ready:
            self.passed_on = number
        elif self.process.pid is not None and self.process.exitcode is None:
            os.kill(self.process.pid, number)


class Workers:
    """The processes that serve `settings`, `settings.workers` of them.

    Raises: OSError when the address cannot be listened on.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._context = multiprocessing.get_context("spawn")
        self._stopping: int | None = None
        self._worker: list[_Worker] = []
        self._socket = bound_socket(settings)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then end by that signal. Raises: RuntimeError when a worker cannot start at all."""
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        if self._settings.api_keys is not None:
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._pass_on)
        with tempfile.TemporaryDirectory(prefix="dare-metrics-") as metrics:
            os.environ[METRICS_DIR] = metrics
            try:
                self._worker = [self._started() for _ in range(self._settings.workers)]
                if self._all_ready():
                    _log.info("listening on port %d with %d workers", self._socket.getsockname()[1], len(self._worker))
                while self._stopping is None:
                    self._replace_the_dead(metrics)
            finally:
                self._stop()
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.raise_signal(self._stopping or signal.SIGTERM)

    def _started(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._settings, self._socket, theirs), name="dare-worker")
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _all_ready(self) -> bool:
        for worker in self._worker:
            while self._stopping is None and not worker.ours.poll(_AGAIN_S):
                pass
            if self._stopping is not None:
                return False
            try:
                worker.said_so()
            except EOFError:
                worker.process.join()
                raise RuntimeError(f"a worker could not start (status {worker.process.exitcode}); its reason is above") from None
        return True

    def _replace_the_dead(self, metrics: str) -> None:
        starting = [worker for worker in self._worker if not worker.ready]
        ended: list[int | Connection] = [worker.process.sentinel for worker in self._worker]
        multiprocessing.connection.wait(ended + [worker.ours for worker in starting], timeout=_AGAIN_S)
        for worker in starting:
            with suppress(EOFError, OSError):  # it has ended, which is seen below
                if worker.ours.poll():
                    worker.said_so()
        for place, worker in enumerate(self._worker):
            if worker.process.exitcode is not None and self._stopping is None:
                _log.error("worker %s ended with status %s; starting another", worker.process.pid, worker.process.exitcode)
                worker.ours.close()
                multiprocess.mark_process_dead(worker.process.pid, metrics)  # type: ignore[no-untyped-call]
                self._worker[place] = self._started()
                time.sleep(_AGAIN_S)  # one that dies at once must not keep the machine busy

    def _stop(self) -> None:
        for worker in self._worker:
            worker.process.terminate()
        deadline = time.monotonic() + self._settings.drain_s + _GRACE_S
        for worker in self._worker:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.exitcode is None:
                _log.error("worker %s does not stop; killed", worker.process.pid)
                worker.process.kill()
                worker.process.join()
            worker.ours.close()
        self._socket.close()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        for worker in self._worker:
            worker.take(number)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stopping is not None:
            for worker in self._worker:
                worker.process.terminate()
        self._stopping = number


def _serve(settings: Settings, listening: socket.socket, parent: Connection) -> None:
    """What a worker does. Imported here, so that the metrics see the directory they share."""
    from service.app import create_app
    from service.commands.failures import expected_failures
    from service.commands.serving import log_to_stderr
    from service.heap import keep_what_there_is, share_one_heap
    from service.listening import server_options

    log_to_stderr()
    share_one_heap()
    try:
        app = create_app(settings)
    except expected_failures() as error:
        sys.exit(f"error: {error}")

    class Announcing(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            parent.send("ready")
            threading.Thread(target=_stop_with, args=(parent,), daemon=True).start()

    keep_what_there_is()
    Announcing(uvicorn.Config(app, **server_options(settings, app.state.metrics, app.state.gate))).run(sockets=[listening])


def _stop_with(parent: Connection) -> None:
    try:
        parent.recv()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)
