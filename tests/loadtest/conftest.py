"""A tiny service of its own, on a real socket: it speaks the API's words and answers as a test tells it to."""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

NEWEST = 1_600_000_000
USERS = {f"user {number}/é": NEWEST + number for number in range(5)} | {"new": None}
ITEMS = [f"item-{number}" for number in range(40)]
TIMING = {"Server-Timing": "queue;dur=0.5, search;dur=2.25, rank;dur=1, total;dur=4"}

Reply = tuple[int, dict[str, str], dict[str, Any]]


class TinyService:
    """`asked` holds the POST bodies by path; `reply` decides the answer to a scoring request or a posted behavior."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.connections = 0
        self.reply: Callable[[str], Reply] = lambda path: (200, {} if path == "/v1/behaviors" else TIMING, {"scores": []})
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                service.connections += 1

            def do_GET(self) -> None:
                path = urllib.parse.urlsplit(self.path).path
                if path == "/console/users":
                    self._send(200, {}, [{"user_id": user_id, "length": 3} for user_id in USERS])
                    return
                newest = USERS[urllib.parse.unquote(path.split("/")[3])]
                known = [] if newest is None else [("item-1", newest), ("item-2", newest - 5), (None, newest - 9)]
                self._send(200, {}, {"behaviors": [{"item_id": item_id, "timestamp": at} for item_id, at in known]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.asked.append((self.path, body))
                if self.path == "/v1/recommend" and body["limit"] == 500:
                    self._send(200, {}, {"items": [{"item_id": item_id} for item_id in ITEMS]})
                    return
                self._send(*service.reply(self.path))

            def _send(self, status: int, headers: dict[str, str], body: Any) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def service() -> Iterator[TinyService]:
    running = TinyService()
    yield running
    running.stop()
