"""How connections are accepted and let go: bounded in number, in header bytes, in time without a request and without reading the answer.

uvicorn itself limits none of these but the time after an answer.
"""

from __future__ import annotations

import asyncio
import resource
import secrets
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import Problem, problem_response
from service.gate import Gate
from service.metrics import Metrics
from service.settings import Settings

_RESERVED = 64
"""File descriptors kept for what is not a connection: the store, the artifact, the log, the event loop."""
_FEWEST = 8
_PROGRESS_BYTES = 65_536


class BoundedConnection(HttpToolsProtocol):
    """One connection. `idle_s` longest time until a request's head is complete, and without progress of the answer; `most` connections at a
    time; `max_header_bytes` of one request's head; `gate` answers what is refused before it is read."""

    idle_s = 15.0
    most = 1000
    max_header_bytes = 32_768
    retry_after_s = 1
    metrics: Metrics
    gate: Gate

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._awaited: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_bytes = 0
        self._refusal: bytes | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self.metrics.connections_let_go.labels("too_many").inc()
            self._answer(Problem(503, f"{self.most} connections are open already", retry_after_s=self.retry_after_s, kind="overloaded"))
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._head_arrived()
            return
        # Between requests, and within a head, the first byte starts the clock; further bytes do not wind it back.
        self._await_head()
        self._head_bytes += len(data)
        if self._in_head and self._head_bytes > self.max_header_bytes and not self.transport.is_closing():
            self._answer(Problem(431, f"the headers have more than {self.max_header_bytes} bytes"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        answering = self.cycle is not None and not self.cycle.response_complete
        # Whoever waits for a 100, or still for another answer, takes the way of every request.
        if not (answering or self.expect_100_continue):
            self._refusal = self.gate.refusal(self.parser.get_method(), self.url, self.headers)
        if self._refusal is None:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._refusal is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._refusal is None:
            super().on_message_complete()
            return
        self.transport.write(self._refusal)
        self._refusal = None
        self._head_arrived()
        if not self.parser.should_keep_alive():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._answer(Problem(400, "the request is not HTTP", kind="not-http"))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_progress()

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def _await_head(self) -> None:
        if self._awaited is None:
            self._awaited = self.loop.call_later(self.idle_s, self._give_up)

    def _head_arrived(self) -> None:
        if self._awaited is not None:
            self._awaited.cancel()
            self._awaited = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.metrics.connections_let_go.labels("silent").inc()
            self.transport.close()

    def _await_progress(self) -> None:
        unread = self.transport.get_write_buffer_size()

        def check() -> None:
            if unread - self.transport.get_write_buffer_size() < _PROGRESS_BYTES:
                self.metrics.connections_let_go.labels("not_reading").inc()
                self.transport.abort()
            else:
                self._await_progress()

        self._stalled = self.loop.call_later(self.idle_s, check)

    def _cancel_timers(self) -> None:
        self._head_arrived()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _answer(self, problem: Problem) -> None:
        """Answer what no application will see, and close."""
        request_id = secrets.token_hex(16)
        response = problem_response(problem, request_id)
        headers = [*response.raw_headers, (b"x-request-id", request_id.encode()), (b"connection", b"close")]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (problem.status, problem.title.encode(), head, bytes(response.body)))
        self.transport.close()


def connections_allowed(settings: Settings) -> int:
    """Connections that can be open at a time within the process's file descriptors. Raises: ValueError when those are too few to serve."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + _RESERVED
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft - _RESERVED < _FEWEST:
            raise ValueError(f"the process may open {soft} files, {_RESERVED + _FEWEST} are the fewest to serve with (ulimit -n)")
        return min(settings.max_connections, soft - _RESERVED)
    return settings.max_connections


def bound_socket(settings: Settings) -> socket.socket:
    """A socket at the settings' address, not listening yet. Raises: OSError naming the address."""
    made = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((settings.host, settings.port))
    except OSError as error:
        made.close()
        raise OSError(f"{settings.host}, port {settings.port}, cannot be listened on: {error.strerror or error}") from None
    made.set_inheritable(True)
    return made


def server_options(settings: Settings, metrics: Metrics, gate: Gate) -> dict[str, Any]:
    """What `uvicorn.Config` and `uvicorn.run` are given beside the application: `gate` and `metrics` are its own."""
    limits = {
        "idle_s": settings.idle_timeout_s,
        "most": connections_allowed(settings),
        "max_header_bytes": settings.max_header_bytes,
        "retry_after_s": settings.retry_after_s,
        "metrics": metrics,
        "gate": gate,
    }
    return {
        "host": settings.host,
        "port": settings.port,
        "http": type("Connection", (BoundedConnection,), limits),
        "ws": "none",
        "log_level": "warning",
        "log_config": None,  # its lines are like ours, with their time, instead of in its own form
        "access_log": False,
        "proxy_headers": False,
        "backlog": settings.listen_backlog,
        "timeout_keep_alive": settings.idle_timeout_s,
        "timeout_graceful_shutdown": 10,
        "server_header": False,
    }
