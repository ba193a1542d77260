"""A connection that costs the load generator next to nothing: it runs on the cores of what it measures."""

from __future__ import annotations

import socket

_LONGEST_S = 60.0
_MOST = 1 << 20


class Connection:
    """One kept-alive HTTP/1.1 connection to a service on this machine. Raises: OSError where nobody listens, or answers within a minute."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _LONGEST_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()

    def post(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by lower-case name and content of the answer to a JSON body.

        Raises: ConnectionError for an answer that ends early or does not say its length.
        """
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._some()
        status, *lines = received[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if not headers.get("content-length", "").isdecimal():
            raise ConnectionError(f"an answer must say its content-length, got {headers}")
        whole = end + 4 + int(headers["content-length"])
        while len(received) < whole:
            received += self._some()
        return int(status.split()[1]), headers, bytes(received[end + 4 : whole])

    def _some(self) -> bytes:
        part = self._socket.recv(_MOST)
        if not part:
            raise ConnectionError("the service closed the connection within an answer")
        return part
