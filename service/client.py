"""A typed Python client of the service, synchronous and asynchronous. It knows HTTP alone and nothing else of this project.

    with Client("http://127.0.0.1:8000", key="...") as dare:
        dare.append([Behavior("user-1", "item-9", 1_700_000_000, event_id="basket-7/1")])
        print(dare.score("user-1", ["item-1", "item-2"]).scores)

Needs the extra `client` (httpx). What is safe to send twice is sent again when the service was full or could not be reached, within the
caller's time and within a retry budget: retries are at most a tenth of the requests in the long run, so that many clients of an
overloaded service do not overload it further.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import msgspec

_REFUSED = (429, 503)
_NOT_CARRIED_OUT = ("urn:dare:problem:overloaded", "urn:dare:problem:over-quota")
"""What is refused so was not begun. Other refusals of behaviors, a store's or a proxy's, may come after some were stored."""
_FIRST_WAIT_S, _LONGEST_WAIT_S, _LEAST_S, _ATTEMPTS = 0.05, 2.0, 0.001, 4
Answer = TypeVar("Answer")


class Behavior(msgspec.Struct, frozen=True, omit_defaults=True):
    """A behavior to store; without an `event_id` it is never sent twice."""

    user_id: str
    item_id: str
    timestamp: int
    event_id: str | None = None


class Ask(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request of a batch: what `Client.score` is given."""

    user_id: str
    candidates: Sequence[str]
    timestamp: int | None = None
    explain: int = 0
    budget_ms: int | None = None
    model_version: str | None = None


class Kept(msgspec.Struct, frozen=True):
    """A behavior that search kept for a candidate; `item_id` None for an item that the model does not know."""

    item_id: str | None
    item_hash: str
    timestamp: int
    recency: int
    score: float
    weight: float


class Scores(msgspec.Struct, frozen=True):
    """Click probabilities of the candidates, in order."""

    request_id: str
    model_version: str
    scores: list[float]
    sequence_length: int
    sequence_length_used: int
    unknown_candidates: list[int]
    degraded: bool
    degraded_reason: str | None
    explanations: list[list[Kept]] = []


class Item(msgspec.Struct, frozen=True):
    """A recommended item."""

    item_id: str
    score: float
    text: dict[str, str] = {}


class Recommended(msgspec.Struct, frozen=True):
    """Items from the catalogue, best first."""

    request_id: str
    model_version: str
    items: list[Item]
    sequence_length: int
    sequence_length_used: int
    degraded: bool
    degraded_reason: str | None


class Appended(msgspec.Struct, frozen=True):
    """Outcome of an append."""

    accepted: int
    duplicates: int


class Stored(msgspec.Struct, frozen=True):
    """A stored behavior."""

    item_id: str | None
    item_hash: str
    timestamp: int


class History(msgspec.Struct, frozen=True):
    """A user's newest behaviors, newest first."""

    user_id: str
    sequence_length: int
    behaviors: list[Stored]


class Erased(msgspec.Struct, frozen=True):
    """Outcome of an erasure."""

    erased: int


class DareError(Exception):
    """The service's answer was not 2xx. `status`; `problem` the problem document, {} where there was none; `request_id` to look for in its
    log."""

    def __init__(self, status: int, problem: dict[str, Any], reason: str = "") -> None:
        self.status, self.problem = status, problem
        self.request_id = problem.get("request_id")
        super().__init__(f"{status} {problem.get('detail', reason)}")

    @classmethod
    def of(cls, response: httpx.Response) -> DareError:
        """What this answer says."""
        try:
            problem = response.json()
        except ValueError:
            problem = None
        return cls(response.status_code, problem if isinstance(problem, dict) else {}, response.reason_phrase)


class _Part(msgspec.Struct, frozen=True):
    status: int
    answer: Scores | None = None
    problem: dict[str, Any] = {}


class _Batch(msgspec.Struct, frozen=True):
    answers: list[_Part]


class RetryBudget:
    """How many retries may be made: `share` for every request, at most `saved` at a time."""

    def __init__(self, share: float = 0.1, saved: float = 10.0) -> None:
        self._share, self._saved, self._left = share, saved, saved

    def requested(self) -> None:
        """A request was made."""
        self._left = min(self._saved, self._left + self._share)

    def allows(self) -> bool:
        """Take a retry, if one is left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(frozen=True)
class _Call:
    method: str
    path: str
    body: dict[str, Any] | None = None
    repeatable: bool = True
    """Whether it may be sent again after it may have been carried out."""


@dataclass(frozen=True)
class _Attempt:
    call: _Call
    left_s: float
    """Of the caller's time."""


_Steps = Generator[_Attempt | float, "httpx.Response | httpx.TransportError | None", httpx.Response]


def _steps(call: _Call, budget: RetryBudget, timeout_s: float, clock: Callable[[], float], chance: Callable[[], float]) -> _Steps:
    """One request with its retries, as steps for whoever does the waiting: an attempt to make, or seconds to wait.

    Returns: the 2xx answer. Raises: DareError, httpx.TransportError.
    """
    until = clock() + timeout_s
    budget.requested()
    for attempt in range(_ATTEMPTS):
        outcome = yield _Attempt(call, max(_LEAST_S, until - clock()))
        if isinstance(outcome, httpx.Response) and outcome.is_success:
            return outcome
        wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt) * chance()
        if isinstance(outcome, httpx.Response):
            refused = DareError.of(outcome)
            if outcome.status_code not in _REFUSED or not (call.repeatable or refused.problem.get("type") in _NOT_CARRIED_OUT):
                raise refused
            given = outcome.headers.get("retry-after", "")
            wait_s += float(given) if given.isdecimal() else 0.0
            error: Exception = refused
        else:
            assert outcome is not None
            error = outcome
            if not call.repeatable and not isinstance(outcome, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
                raise error
        if attempt == _ATTEMPTS - 1 or clock() + wait_s >= until or not budget.allows():
            raise error
        yield wait_s
    raise AssertionError("the last attempt returns or raises")


def _score(user_id: str, candidates: Sequence[str], options: dict[str, Any]) -> _Call:
    return _Call("POST", "/v1/score", {"user_id": user_id, "candidates": list(candidates)} | _given(options))


def _score_batch(asks: Sequence[Ask]) -> _Call:
    return _Call("POST", "/v1/score:batch", {"requests": [msgspec.to_builtins(ask) for ask in asks]})


def _parts(response: httpx.Response) -> list[Scores | DareError]:
    return [part.answer or DareError(part.status, part.problem) for part in _read(response, _Batch).answers]


def _recommend(user_id: str, limit: int, options: dict[str, Any]) -> _Call:
    return _Call("POST", "/v1/recommend", {"user_id": user_id, "limit": limit} | _given(options))


def _append(behaviors: Sequence[Behavior]) -> _Call:
    repeatable = all(behavior.event_id is not None for behavior in behaviors)
    return _Call("POST", "/v1/behaviors", {"behaviors": [msgspec.to_builtins(behavior) for behavior in behaviors]}, repeatable)


def _history(user_id: str, limit: int, before: int | None) -> _Call:
    until = "" if before is None else f"&before={before}"
    return _Call("GET", f"/v1/users/{quote(user_id, safe='')}/behaviors?limit={limit}{until}")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _read(response: httpx.Response, kind: type[Answer]) -> Answer:
    return msgspec.json.decode(response.content, type=kind)


class Client:
    """Talks to a service, thread safe.

    Args: `key` an API key, None for a service in development; `timeout_s` for one method call with all its retries, of which each wait on
    the connection gets what is left (a service that drips its answer can take longer; not so with `AsyncClient`); `budget` shared by the
    clients that are given it.
    """

    def __init__(self, url: str, key: str | None = None, timeout_s: float = 2.0, budget: RetryBudget | None = None) -> None:
        self._http = httpx.Client(base_url=url, headers=_headers(key), timeout=timeout_s)
        self._timeout_s, self._budget = timeout_s, budget or RetryBudget()

    def score(self, user_id: str, candidates: Sequence[str], **options: Any) -> Scores:
        """Score candidates. Options: timestamp, explain, budget_ms, model_version. Raises: DareError, httpx.TransportError."""
        return _read(self._done(_score(user_id, candidates, options)), Scores)

    def score_batch(self, asks: Sequence[Ask]) -> list[Scores | DareError]:
        """Score up to 64 requests, answered one by one: a part that was refused is its DareError, not raised, and the caller may ask for it
        again. Raises: DareError for the whole, httpx.TransportError."""
        return _parts(self._done(_score_batch(asks)))

    def recommend(self, user_id: str, limit: int = 20, **options: Any) -> Recommended:
        """Recommend items. Options: exclude_seen, pool, timestamp, budget_ms, model_version. Raises: DareError, httpx.TransportError."""
        return _read(self._done(_recommend(user_id, limit, options)), Recommended)

    def append(self, behaviors: Sequence[Behavior]) -> Appended:
        """Store behaviors. Raises: DareError, httpx.TransportError."""
        return _read(self._done(_append(behaviors)), Appended)

    def history(self, user_id: str, limit: int = 100, before: int | None = None) -> History:
        """A user's newest behaviors. Raises: DareError, httpx.TransportError."""
        return _read(self._done(_history(user_id, limit, before)), History)

    def erase(self, user_id: str) -> int:
        """Erase everything held about a user; returns the behaviors erased. Raises: DareError, httpx.TransportError."""
        return _read(self._done(_Call("DELETE", f"/v1/users/{quote(user_id, safe='')}")), Erased).erased

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _done(self, call: _Call) -> httpx.Response:
        steps = _steps(call, self._budget, self._timeout_s, time.monotonic, random.random)
        step = next(steps)
        while True:
            outcome: httpx.Response | httpx.TransportError | None = None
            if isinstance(step, float):
                time.sleep(step)
            else:
                try:
                    call = step.call
                    outcome = self._http.request(call.method, call.path, json=call.body, timeout=step.left_s)
                except httpx.TransportError as error:
                    outcome = error
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                response: httpx.Response = done.value
                return response


class AsyncClient:
    """`Client` for asyncio, with the same arguments and methods."""

    def __init__(self, url: str, key: str | None = None, timeout_s: float = 2.0, budget: RetryBudget | None = None) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(key), timeout=timeout_s)
        self._timeout_s, self._budget = timeout_s, budget or RetryBudget()

    async def score(self, user_id: str, candidates: Sequence[str], **options: Any) -> Scores:
        """See `Client.score`."""
        return _read(await self._done(_score(user_id, candidates, options)), Scores)

    async def score_batch(self, asks: Sequence[Ask]) -> list[Scores | DareError]:
        """See `Client.score_batch`."""
        return _parts(await self._done(_score_batch(asks)))

    async def recommend(self, user_id: str, limit: int = 20, **options: Any) -> Recommended:
        """See `Client.recommend`."""
        return _read(await self._done(_recommend(user_id, limit, options)), Recommended)

    async def append(self, behaviors: Sequence[Behavior]) -> Appended:
        """See `Client.append`."""
        return _read(await self._done(_append(behaviors)), Appended)

    async def history(self, user_id: str, limit: int = 100, before: int | None = None) -> History:
        """See `Client.history`."""
        return _read(await self._done(_history(user_id, limit, before)), History)

    async def erase(self, user_id: str) -> int:
        """See `Client.erase`."""
        return _read(await self._done(_Call("DELETE", f"/v1/users/{quote(user_id, safe='')}")), Erased).erased

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _done(self, call: _Call) -> httpx.Response:
        steps = _steps(call, self._budget, self._timeout_s, time.monotonic, random.random)
        step = next(steps)
        while True:
            outcome: httpx.Response | httpx.TransportError | None = None
            if isinstance(step, float):
                await asyncio.sleep(step)
            else:
                try:
                    call = step.call
                    async with asyncio.timeout(step.left_s):
                        outcome = await self._http.request(call.method, call.path, json=call.body, timeout=step.left_s)
                except httpx.TransportError as error:
                    outcome = error
                except TimeoutError:
                    outcome = httpx.ReadTimeout(f"no answer within {step.left_s:.3g} s")
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                response: httpx.Response = done.value
                return response


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}
