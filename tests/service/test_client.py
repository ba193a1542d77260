"""The Python client against a real server, and against servers that refuse, vanish and stay away."""

from __future__ import annotations

import ast
import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from service import client as module
from service.client import Ask, AsyncClient, Behavior, Client, DareError, RetryBudget, Scores, _Attempt, _score, _steps
from tests.conftest import Tiny
from tests.service.conftest import NOW, Server


def url_of(server: Server) -> str:
    return str(server.client.base_url)


def test_it_imports_nothing_else_of_the_project() -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert not any(name and name.split(".")[0] in ("service", "model", "kernels") for name in imported)


def test_every_method_over_http(server: Server, tiny: Tiny) -> None:
    user, items = tiny.log.user_id[0], ["item-1", "never heard of"]
    with Client(url_of(server), timeout_s=30) as dare:
        scores = dare.score(user, items, timestamp=NOW, explain=2)
        own = server.client.post("/v1/score", json={"user_id": user, "candidates": items, "timestamp": NOW}).json()
        assert scores.scores == own["scores"] and scores.unknown_candidates == [1] and len(scores.explanations[0]) == 2
        assert len(dare.recommend(user, 5, timestamp=NOW).items) == 5
        bought = [Behavior("client/1", "item-1", 5, "e1"), Behavior("client/1", "item-2", 6, "e2")]
        assert dare.append(bought).accepted == 2 and dare.append(bought).duplicates == 2
        history = dare.history("client/1", 1)
        assert (history.sequence_length, [behavior.item_id for behavior in history.behaviors]) == (2, ["item-2"])
        assert [behavior.timestamp for behavior in dare.history("client/1", before=6).behaviors] == [5]
        assert dare.erase("client/1") == 2
        with pytest.raises(DareError, match="length >= 1") as raised:
            dare.score(user, [])
        assert raised.value.status == 422 and raised.value.request_id == raised.value.problem["request_id"]


def test_a_part_of_a_batch_that_fails_leaves_the_others(server: Server, tiny: Tiny) -> None:
    asks = [Ask(tiny.log.user_id[0], ["item-1", "item-2"], NOW), Ask("", ["item-1"]), Ask(tiny.log.user_id[1], ["item-1"], NOW, explain=1)]

    async def talk() -> list[Scores | DareError]:
        async with AsyncClient(url_of(server), timeout_s=30) as dare:
            return await dare.score_batch(asks)

    with Client(url_of(server), timeout_s=30) as dare:
        first, refused, last = dare.score_batch(asks)
        assert isinstance(first, Scores) and first.scores == dare.score(asks[0].user_id, asks[0].candidates, timestamp=NOW).scores
        assert isinstance(refused, DareError) and refused.status == 422 and "user_id" in str(refused.problem)
        assert isinstance(last, Scores) and len(last.explanations[0]) == 1
        with pytest.raises(DareError, match="length >= 1"):
            dare.score_batch([])
    again = asyncio.run(talk())
    assert [part.scores if isinstance(part, Scores) else part.status for part in again] == [first.scores, 422, last.scores]


def test_every_method_asynchronously(server: Server, tiny: Tiny) -> None:
    async def talk() -> None:
        async with AsyncClient(url_of(server), timeout_s=30) as dare:
            several = await asyncio.gather(*(dare.score(tiny.log.user_id[0], ["item-1"], timestamp=NOW) for _ in range(8)))
            assert len({answer.scores[0] for answer in several}) == 1
            assert len((await dare.recommend(tiny.log.user_id[0], 5, timestamp=NOW)).items) == 5
            assert (await dare.append([Behavior("client/2", "item-1", 5)])).accepted == 1
            assert (await dare.history("client/2")).sequence_length == 1
            assert await dare.erase("client/2") == 1
            with pytest.raises(DareError):
                await dare.score("u", [])

    asyncio.run(talk())


def unavailable(kind: str) -> bytes:
    problem = b'{"type":"urn:dare:problem:%s"}' % kind.encode()
    head = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(problem)
    return head + problem


FULL = unavailable("overloaded")
APPENDED = b'HTTP/1.1 200 OK\r\nContent-Length: 29\r\nConnection: close\r\n\r\n{"accepted":1,"duplicates":0}'


class Scripted:
    """A server that answers its connections with what it is given, one after the other; b"" cuts the connection after the request."""

    def __init__(self, answers: list[bytes]) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.asked = 0
        self._answers = answers
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        for answer in self._answers:
            connection, _ = self._listening.accept()
            with connection:
                if not connection.recv(65_536):
                    return
                self.asked += 1
                connection.sendall(answer)

    def close(self) -> None:
        with socket.create_connection(self._listening.getsockname()):
            pass
        self._thread.join()
        self._listening.close()


@contextmanager
def scripted(*answers: bytes) -> Iterator[Scripted]:
    server = Scripted([*answers, b""])
    try:
        yield server
    finally:
        server.close()


def test_a_refused_request_is_sent_again() -> None:
    with scripted(FULL, FULL, APPENDED) as server, Client(server.url, timeout_s=30) as dare:
        assert dare.append([Behavior("u", "i", 1)]).accepted == 1
        assert server.asked == 3


def test_after_four_refusals_it_gives_up() -> None:
    with scripted(*[FULL] * 4) as server, Client(server.url, timeout_s=30) as dare:
        with pytest.raises(DareError, match="503"):
            dare.append([Behavior("u", "i", 1, "e")])
        assert server.asked == 4


def test_what_may_have_been_stored_is_sent_again_only_with_event_ids() -> None:
    with scripted(b"", APPENDED) as server, Client(server.url, timeout_s=30) as dare:
        assert dare.append([Behavior("u", "i", 1, "e")]).accepted == 1
        assert server.asked == 2
    with scripted(b"") as server, Client(server.url, timeout_s=30) as dare:
        with pytest.raises(httpx.TransportError):
            dare.append([Behavior("u", "i", 1, "e"), Behavior("u", "i", 1)])
        assert server.asked == 1
    for kind in ("store-unavailable", "store-full"):
        with scripted(unavailable(kind), APPENDED) as server, Client(server.url, timeout_s=30) as dare:
            assert dare.append([Behavior("u", "i", 1, "e")]).accepted == 1
            assert server.asked == 2
        with scripted(unavailable(kind)) as server, Client(server.url, timeout_s=30) as dare:
            with pytest.raises(DareError, match="503"):
                dare.append([Behavior("u", "i", 1)])
            assert server.asked == 1


def test_a_service_that_is_not_there_is_an_error_of_the_transport() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with Client(url, timeout_s=5) as dare, pytest.raises(httpx.ConnectError):
        dare.score("u", ["i"])


def test_a_wait_longer_than_the_callers_time_is_not_begun() -> None:
    later = FULL.replace(b"Retry-After: 0", b"Retry-After: 60")
    with scripted(later) as server, Client(server.url, timeout_s=5) as dare:
        with pytest.raises(DareError, match="503"):
            dare.score("u", ["i"])
        assert server.asked == 1


def test_retries_are_a_share_of_the_requests() -> None:
    budget = RetryBudget(share=0.125, saved=2.0)
    with scripted(*[FULL] * 12) as server, Client(server.url, timeout_s=30, budget=budget) as dare:
        for _ in range(9):
            with pytest.raises(DareError):
                dare.score("u", ["i"])
        assert server.asked == 9 + 3, "two saved up, one earned"


def test_a_second_attempt_gets_what_the_first_has_left_of_the_time() -> None:
    now, waits = iter([0.0, 0.0, 1.5, 1.55]), [_Attempt, float, _Attempt]
    steps, full = _steps(_score("u", ["i"], {}), RetryBudget(), 2.0, lambda: next(now), lambda: 1.0), httpx.Response(503)
    made = [next(steps), steps.send(full), steps.send(None)]
    assert [type(step) for step in made] == waits
    assert [made[0].left_s, made[2].left_s] == pytest.approx([2.0, 0.45])  # type: ignore[union-attr]


def test_a_silent_service_takes_no_more_than_the_callers_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeout_s=0.05) as dare, pytest.raises(httpx.ReadTimeout):
            dare.score("u", ["i"])


def test_an_answer_that_drips_ends_with_the_callers_time() -> None:
    left, listening = threading.Event(), socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            with suppress(OSError):  # the client has left
                while not left.wait(0.01):
                    connection.sendall(b" ")

    async def ask() -> None:
        async with AsyncClient(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_s=0.1) as dare:
            with pytest.raises(httpx.ReadTimeout, match=r"no answer within 0\.1 s"):
                await dare.score("u", ["i"])

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        asyncio.run(ask())
    finally:
        left.set()
        dripping.join()
        listening.close()


def test_each_attempt_waits_for_what_is_left_alone() -> None:
    waits = list[float]()

    def note(request: httpx.Request) -> None:
        waits.append(request.extensions["timeout"]["read"])

    async def note_too(request: httpx.Request) -> None:
        note(request)

    async def ask(url: str) -> None:
        async with AsyncClient(url, timeout_s=30) as dare:
            dare._http.event_hooks = {"request": [note_too]}
            await dare.append([Behavior("u", "i", 1)])

    with scripted(FULL, APPENDED) as server, Client(server.url, timeout_s=30) as dare:
        dare._http.event_hooks = {"request": [note]}
        dare.append([Behavior("u", "i", 1)])
    with scripted(FULL, APPENDED) as server:
        asyncio.run(ask(server.url))
    assert 30 >= waits[0] > waits[1] > 0 and 30 >= waits[2] > waits[3] > 0
