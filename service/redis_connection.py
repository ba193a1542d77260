"""Connections to Redis or Valkey on which no call outlasts its deadline, whatever the other end does."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, SupportsIndex
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.behavior_store import StoreError


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a server is, and who we are there; the password never appears in a message."""

    host: str
    port: int
    db: int
    username: str | None
    password: str | None

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Read `redis://[[user]:password@]host[:port][/db]`. Raises: StoreError."""
        try:
            parts = urlsplit(url)
            db, port = parts.path.lstrip("/") or "0", parts.port or 6379
        except ValueError as error:
            raise StoreError(f"store {url.rpartition('@')[2]!r}: {error}") from None
        if parts.scheme != "redis" or not parts.hostname or not db.isdecimal() or parts.query or parts.fragment:
            shown = url.rpartition("@")[2]
            raise StoreError(f"store {shown!r} is not of the form redis://[[user]:password@]host[:port][/db]")
        username = unquote(parts.username) if parts.username else None
        return cls(parts.hostname, port, int(db), username, unquote(parts.password) if parts.password else None)

    def __str__(self) -> str:
        return f"redis://{self.host}:{self.port}/{self.db}"


class Deadlines:
    """The deadline of each thread's current call: every wait on a socket ends there. Args: `clock` monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._local = threading.local()
        self._clock = clock

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Give the calls of this thread so long altogether."""
        self._local.at = self._clock() + seconds
        try:
            yield
        finally:
            self._local.at = math.inf

    def left_s(self) -> float:
        """Time left, infinite outside `within`. Raises: TimeoutError when it is over."""
        at: float = getattr(self._local, "at", math.inf)
        left = at - self._clock()
        if left <= 0:
            raise TimeoutError("the call's deadline has passed")
        return left


class _Socket(socket.socket):
    """A socket whose waits end at the deadline: the timeout of a plain one starts again with every byte that drips in."""

    deadlines: Deadlines

    def recv_into(self, *arguments: Any) -> int:
        self._bound()
        return super().recv_into(*arguments)

    def sendall(self, data: Any, flags: SupportsIndex = 0) -> None:
        self._bound()
        super().sendall(data, int(flags))

    def _bound(self) -> None:
        left = self.deadlines.left_s()
        if left < math.inf:
            self.settimeout(left)


class Resolved:
    """The addresses behind a host name, looked up off the request path: a name server may take seconds to say no."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._found: list[tuple[int, Any]] = []

    def addresses(self) -> list[tuple[int, Any]]:
        """(family, socket address), looked up when nothing is known yet. Raises: OSError."""
        return self._found or self.refresh()

    def refresh(self) -> list[tuple[int, Any]]:
        """Look them up again. Raises: OSError."""
        found = socket.getaddrinfo(self._address.host, self._address.port, type=socket.SOCK_STREAM)
        self._found = [(family, address) for family, _, _, _, address in found]
        return self._found


class _Connection(redis.Connection):
    def __init__(self, *, deadlines: Deadlines, resolved: Resolved, **others: Any) -> None:
        super().__init__(**others)  # type: ignore[no-untyped-call]
        self._deadlines, self._resolved = deadlines, resolved

    def _connect(self) -> _Socket:
        failure: OSError | None = None
        for family, address in self._resolved.addresses():
            connecting = _Socket(family, socket.SOCK_STREAM)
            connecting.deadlines = self._deadlines
            try:
                connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connecting.settimeout(min(self.socket_connect_timeout or math.inf, self._deadlines.left_s()))
                connecting.connect(address)
            except OSError as error:
                connecting.close()
                failure = error
            else:
                connecting.settimeout(self.socket_timeout)
                return connecting
        raise failure or OSError("the name has no address")


def client_of(address: RedisAddress, resolved: Resolved, deadlines: Deadlines, connections: int, timeout_s: float) -> redis.Redis:
    """A client that never tries twice: a repeated append would be a second behavior.

    Args: `connections` at most; `timeout_s` of one wait on a socket outside `Deadlines.within`.
    """
    pool = redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]
        connection_class=_Connection,
        max_connections=connections,
        timeout=timeout_s,
        deadlines=deadlines,
        resolved=resolved,
        host=address.host,
        port=address.port,
        db=address.db,
        username=address.username,
        password=address.password,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        socket_read_size=2**18,
        retry=Retry(NoBackoff(), 0),
        retry_on_timeout=False,
        health_check_interval=0,
        protocol=2,
        driver_info=None,
    )
    return redis.Redis(connection_pool=pool)
