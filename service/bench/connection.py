"""A connection that costs the load generator next to nothing: it runs on the cores of what it measures."""

from __future__ import annotations

import re
import socket

_LONGEST_S = 60.0
_MOST = 1 << 20
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+) *\r\n", re.IGNORECASE)


def posted(path: str, body: bytes) -> bytes:
    """The whole request that posts a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection:
    """One kept-alive HTTP/1.1 connection to a service on this machine. Raises: OSError where nobody listens, or answers within a minute."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _LONGEST_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Filled again for each answer: what is received into new memory costs its pages anew.
        self._received = bytearray(_MOST)

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()

    def exchange(self, request: bytes) -> tuple[int, bytes, bytes]:
        """Status, head and content of the answer to a whole request.

        Raises: ConnectionError for an answer that ends early, does not say its length or is longer than a megabyte.
        """
        self._socket.sendall(request)
        received, size = self._received, self._some(0)
        while (end := received.find(b"\r\n\r\n", 0, size)) < 0:
            size += self._some(size)
        end += 4
        head = bytes(received[:end])
        length = _LENGTH.search(head)
        if length is None:
            raise ConnectionError(f"an answer must say its content-length, got {head!r}")
        whole = end + int(length[1])
        if whole > _MOST:
            raise ConnectionError(f"an answer must have at most {_MOST} bytes, got {whole}")
        while size < whole:
            size += self._some(size)
        return int(head[9:12]), head, bytes(received[end:whole])

    def _some(self, size: int) -> int:
        """Bytes received behind the first `size`."""
        with memoryview(self._received) as room:
            new = self._socket.recv_into(room[size:]) if size < _MOST else 0
        if not new:
            raise ConnectionError("the service closed the connection within an answer, or its head is longer than a megabyte")
        return new
