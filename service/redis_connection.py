"""Connections to Redis or Valkey on which no call outlasts its deadline, whatever the other end does."""

from __future__ import annotations

import math
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex, cast
from urllib.parse import unquote, urlsplit

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.behavior_store import StoreError

_MORE = object()
_READ_BYTES = 2**18


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

    def start(self, seconds: float) -> None:
        """Give the calls of this thread so long altogether, until `end`."""
        self._local.at = self._clock() + seconds

    def end(self) -> None:
        """Let them take as long as they do."""
        self._local.at = math.inf

    def left_s(self) -> float:
        """Time left, infinite without a deadline. Raises: TimeoutError when it is over."""
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
        self._poll, self._reader, self._received = select.poll(), hiredis.Reader(), bytearray()

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

    def exchange(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """See `Client.exchange`."""
        self._make_ready()
        cast(_Socket, self._sock).sendall(b"".join([hiredis.pack_command(tuple(command)) for command in commands]))
        return [self._reply() for _ in commands]

    def _make_ready(self) -> None:
        # Readable before anything was asked: closed by the other end, or a reply that nobody waits for.
        if self._sock is not None and (self._reader.has_data() or self._poll.poll(0)):
            self.disconnect()
        if self._sock is None:
            self.connect()  # type: ignore[no-untyped-call]
            self._poll = select.poll()
            self._poll.register(cast(_Socket, self._sock), select.POLLIN)
            self._reader = hiredis.Reader(redis.InvalidResponse, self._parser.parse_error, notEnoughData=_MORE)
            self._received = self._received or bytearray(_READ_BYTES)

    def _reply(self) -> Any:
        while (reply := self._reader.gets()) is _MORE:
            count = cast(_Socket, self._sock).recv_into(self._received)
            if count == 0:
                raise redis.ConnectionError("Connection closed by server.")
            self._reader.feed(self._received, 0, count)  # type: ignore[arg-type]
        if isinstance(reply, redis.ConnectionError):
            raise reply
        return reply


class Client(redis.Redis):
    """A client that never tries twice: a repeated append would be a second behavior. Its connections for `exchange` are its own."""

    def __init__(self, pool: redis.BlockingConnectionPool) -> None:
        super().__init__(connection_pool=pool)
        self._idle = deque[_Connection]()

    def exchange(self, commands: Sequence[Sequence[Any]], together: bool = False) -> list[Any]:
        """Send the commands at once; the reply of each, errors of the server among them.

        The short way: `execute_command`, its pool and its parser are 0.1 ms of Python where caches are cold, as they are within a request.

        Args: `together` nothing of another client comes between them.
        Raises: redis.ConnectionError, redis.TimeoutError, OSError; redis.ResponseError where the server refused all of them together.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = cast(_Connection, self.connection_pool.make_connection())
        try:
            replies = connection.exchange([("MULTI",), *commands, ("EXEC",)] if together else commands)
        except BaseException:
            connection.disconnect()  # type: ignore[no-untyped-call]
            raise
        finally:
            self._idle.append(connection)
        if not together:
            return replies
        if isinstance(replies[-1], redis.ResponseError):
            raise replies[-1]
        return list(replies[-1])


def client_of(address: RedisAddress, resolved: Resolved, deadlines: Deadlines, connections: int, timeout_s: float) -> Client:
    """A client of the server there.

    Args: `connections` of its pool at most; `timeout_s` of one wait on a socket without a deadline.
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
        retry=Retry(NoBackoff(), 0),
        retry_on_timeout=False,
        health_check_interval=0,
        protocol=2,
        driver_info=None,
    )
    return Client(pool)
