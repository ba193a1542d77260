"""The traffic's shape: who asks, for what, how often. Deterministic for a seed, made from what the service itself knows."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.survey import DAY_S, Population

SCORE, RECOMMEND, BEHAVIORS = "/v1/score", "/v1/recommend", "/v1/behaviors"
DEFAULT_MIX = "score=80,recommend=10,behaviors=10"
DEFAULT_CANDIDATES = 500
DEFAULT_ZIPF = 1.0
_SECONDS_BETWEEN_BEHAVIORS = 20


@dataclass(frozen=True, slots=True)
class Request:
    """One POST: `path` and its JSON `body`."""

    path: str
    body: bytes


def zipf_weights(count: int, exponent: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Probability f64 [count] of each rank, rank r in proportion to r ** -exponent; exponent 0 is uniform."""
    weight = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    normalised: np.ndarray[tuple[int], np.dtype[np.float64]] = weight / weight.sum()
    return normalised


def parse_mix(text: str) -> dict[str, float]:
    """Shares by path from `score=80,recommend=10,behaviors=10`; they are normalised.

    Raises: ValueError naming the part that is wrong.
    """
    names = {"score": SCORE, "recommend": RECOMMEND, "behaviors": BEHAVIORS}
    mix = dict[str, float]()
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if name not in names or not 0 <= value < float("inf"):
            raise ValueError(f"a mix is made of score=, recommend= and behaviors= with shares of at least 0, got {part!r}")
        mix[names[name]] = value
    if sum(mix.values()) <= 0:
        raise ValueError(f"the shares of a mix must not all be 0, got {text!r}")
    return {path: share / sum(mix.values()) for path, share in mix.items()}


class Workload:
    """An endless stream of requests; thread safe.

    Users are drawn by a Zipf law over the population's order (the console lists the longest histories first, so the busiest users have
    the longest), candidates uniformly and without repetition from the known items. Request times are explicit: a day after the user's
    newest behavior, posted ones included. A posted behavior is newer than all of its user's, as live traffic is.

    Args: `mix` as `parse_mix` reads it; `run_id` makes the event ids of two runs differ.
    Raises: ValueError for a mix that cannot be read or fewer than one candidate.
    """

    def __init__(
        self,
        population: Population,
        *,
        candidates: int = DEFAULT_CANDIDATES,
        seed: int = 0,
        zipf: float = DEFAULT_ZIPF,
        mix: str = DEFAULT_MIX,
        run_id: str,
    ) -> None:
        if candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {candidates}")
        self._population = population
        self._candidates = candidates
        self._random = np.random.default_rng(seed)
        self._user_share = zipf_weights(len(population.user_ids), zipf)
        share = parse_mix(mix)
        self._paths, self._path_share = tuple(share), np.array(list(share.values()))
        self._newest = dict(population.newest)
        self._event_ids = (f"{run_id}-{number}" for number in itertools.count())
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Request]:
        while True:
            yield self.draw()

    def draw(self) -> Request:
        """The next request."""
        with self._lock:
            user_id = self._population.user_ids[self._random.choice(len(self._user_share), p=self._user_share)]
            path = self._paths[self._random.choice(len(self._paths), p=self._path_share)]
            body = self._body(path, user_id)
        return Request(path, json.dumps(body, separators=(",", ":")).encode())

    def _body(self, path: str, user_id: str) -> dict[str, Any]:
        if path == BEHAVIORS:
            self._newest[user_id] += _SECONDS_BETWEEN_BEHAVIORS
            (item_id,) = self._items(1)
            posted = {"user_id": user_id, "item_id": item_id, "timestamp": self._newest[user_id], "event_id": next(self._event_ids)}
            return {"behaviors": [posted]}
        timestamp = self._newest[user_id] + DAY_S
        if path == SCORE:
            return {"user_id": user_id, "candidates": self._items(self._candidates), "timestamp": timestamp}
        return {"user_id": user_id, "limit": 20, "timestamp": timestamp}

    def _items(self, count: int) -> list[str]:
        known = self._population.item_ids
        # A catalogue smaller than the request is asked for with repetitions, which the API allows.
        places = self._random.choice(len(known), count, replace=len(known) < count)
        return [known[place] for place in places.tolist()]
