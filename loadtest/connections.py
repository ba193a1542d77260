"""A small HTTP/1.1 client on asyncio streams: keep-alive, as many connections as the load needs, little work per request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

from loadtest.workload import Request

_MAX_HEADER_BYTES = 65_536


class AnswerError(RuntimeError):
    """What came back is not an HTTP/1.1 answer, or it ended too early."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers (lower-case names) and body."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Connections:
    """Connections to one service, opened when no idle one is left, at most `limit` at a time.

    Raises: ValueError when the URL is not `http://HOST[:PORT]`.
    """

    def __init__(self, url: str, limit: int) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"the URL must be http://HOST:PORT, got {url!r}")
        self._host, self._port = parts.hostname, parts.port or 80
        self._authority = parts.netloc
        self._idle: list[_Connection] = []
        self._free = asyncio.Semaphore(limit)

    async def send(self, request: Request, timeout_s: float) -> Answer:
        """POST the request and read the whole answer.

        Raises: TimeoutError, OSError when the connection fails, AnswerError.
        """
        async with asyncio.timeout(timeout_s), self._free:
            connection = await self._taken()
            try:
                return await self._exchange(connection, request)
            except asyncio.IncompleteReadError as error:
                raise AnswerError("connection closed before the answer was complete") from error

    async def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            connection = self._idle.pop()
            connection.writer.close()
            await asyncio.gather(connection.writer.wait_closed(), return_exceptions=True)

    async def _taken(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            # A server closes connections that were idle for long; those are let go, but a request is never sent twice.
            if not connection.reader.at_eof():
                return connection
            connection.writer.close()
        return _Connection(*await asyncio.open_connection(self._host, self._port, limit=_MAX_HEADER_BYTES))

    async def _exchange(self, connection: _Connection, request: Request) -> Answer:
        keep = False
        try:
            head = (
                f"POST {request.path} HTTP/1.1\r\nHost: {self._authority}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(request.body)}\r\n\r\n"
            )
            connection.writer.write(head.encode("ascii") + request.body)
            await connection.writer.drain()
            answer = await _read_answer(connection.reader)
            keep = answer.headers.get("connection", "").lower() != "close"
            return answer
        finally:
            # A connection in an unknown state (timeout, broken answer) must not be used again.
            if keep:
                self._idle.append(connection)
            else:
                connection.writer.close()


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError as error:
        raise AnswerError(f"headers are longer than {_MAX_HEADER_BYTES} bytes") from error
    first, *lines = head[:-4].split("\r\n")
    version, _, rest = first.partition(" ")
    if version != "HTTP/1.1" or not rest[:3].isdecimal():
        raise AnswerError(f"not an HTTP/1.1 answer: {first[:80]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _read_chunks(reader)
    else:
        length = headers.get("content-length", "")
        if not length.isdecimal():
            raise AnswerError(f"an answer has neither a Content-Length nor chunks: {first[:80]!r}")
        body = await reader.readexactly(int(length))
    return Answer(int(rest[:3]), headers, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    chunks: list[bytes] = []
    while True:
        size_line = await reader.readuntil(b"\r\n")
        try:
            size = int(size_line.split(b";")[0], 16)
        except ValueError:
            raise AnswerError(f"not a chunk size: {size_line[:80]!r}") from None
        if size == 0:
            while await reader.readuntil(b"\r\n") != b"\r\n":
                continue
            return b"".join(chunks)
        chunks.append((await reader.readexactly(size + 2))[:-2])
