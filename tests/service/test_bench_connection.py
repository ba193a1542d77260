"""The load generator's connection reads whole answers, however they arrive, and takes nothing else for one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service.bench.connection import Connection, posted

OK = b"HTTP/1.1 200 OK\r\nServer-Timing: total;dur=1\r\nContent-Length: 5\r\n\r\nhello"


@contextmanager
def answering(*parts: bytes) -> Iterator[tuple[Connection, list[bytes]]]:
    """A connection to one who answers each request with these parts, then closes; and the requests that came."""
    seen = list[bytes]()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with listening.accept()[0] as peer:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                seen.append(peer.recv(1 << 16))
                for part in parts:
                    peer.sendall(part)

        thread = threading.Thread(target=serve)
        thread.start()
        connection = Connection(listening.getsockname()[1])
        yield connection, seen
        connection.close()
        thread.join()


@pytest.mark.parametrize("cuts", [(), (3,), (20, 40), (len(OK) - 7, len(OK) - 2), tuple(range(1, len(OK)))])
def test_an_answer_is_whole_however_it_is_cut(cuts: tuple[int, ...]) -> None:
    ends = [0, *cuts, len(OK)]
    with answering(*(OK[first:end] for first, end in zip(ends, ends[1:], strict=False))) as (connection, seen):
        status, head, content = connection.exchange(posted("/v1/score", b"{}"))
    assert (status, content) == (200, b"hello")
    assert b"total;dur=1" in head
    assert seen[0].startswith(b"POST /v1/score HTTP/1.1\r\n") and seen[0].endswith(b"content-length: 2\r\n\r\n{}")


def test_a_refusal_is_not_taken_for_an_answer() -> None:
    """Else a service that refuses would be the fastest of all."""
    with answering(OK.replace(b"200 OK", b"503 Service Unavailable")) as (connection, _):
        assert connection.exchange(posted("/", b""))[0] == 503


def test_what_is_no_whole_answer_is_an_error() -> None:
    for sent, reason in (
        (OK[:-1], "closed the connection"),
        (OK[:30], "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "content-length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n", "at most"),
    ):
        with answering(sent) as (connection, _), pytest.raises(ConnectionError, match=reason):
            connection.exchange(posted("/", b""))
