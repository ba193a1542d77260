"""Stage 1 for benchmarks: users and targets to search, the gate before any timing, and our backends as they are used in serving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kernels import native_library
from kernels.ranking.arguments import F32, I32
from kernels.search import SearchKeys, native_backend, search_topk
from kernels.search.arguments import checked

Found = tuple[I32, F32]
Searcher = Callable[["SearchProblem"], Found]
_GATED_TARGETS = 16
CATEGORIES = 300


@dataclass(frozen=True, slots=True)
class SearchShape:
    """L behaviors, N targets, attention width A, K kept; `bias` with a position bias, `category` with category scores looked up, `repeats`
    of items that come again as in real histories."""

    length: int
    targets: int
    width: int
    kept: int
    bias: bool = False
    category: bool = False
    repeats: bool = False

    def __str__(self) -> str:
        more = (", position bias" if self.bias else "") + (", category scores" if self.category else "")
        more += ", items that come again" if self.repeats else ""
        return f"{self.length:,} x {self.targets:,}, d {self.width}, K {self.kept}{more}"


@dataclass(frozen=True, slots=True)
class SearchProblem:
    """One user's keys, prepared and bare, and one list of targets."""

    shape: SearchShape
    target_NA: F32
    key_LA: F32
    keys: SearchKeys
    bias_L: F32 | None
    category_L: I32 | None
    category_score_NC: F32 | None


def problems(shape: SearchShape, count: int, *, integers: bool = False, seed: int = 0) -> list[SearchProblem]:
    """`count` users with their targets. `integers`: small whole numbers, where every sum is exact and ties abound."""
    rng = np.random.default_rng(seed)

    def values(*size: int) -> F32:
        made = rng.integers(-3, 4, size) if integers else rng.standard_normal(size)
        return made.astype(np.float32)

    found = []
    for _ in range(count):
        key = values(shape.length, shape.width)
        if shape.repeats:
            # Of as many items, each as often as the inverse of its rank: 10,000 behaviors are of 2,800 items, as those of heavy buyers are.
            share = 1 / np.arange(1, shape.length + 1)
            key = key[rng.choice(shape.length, shape.length, p=share / share.sum())]
        category = rng.integers(0, CATEGORIES, shape.length).astype(np.int32) if shape.category else None
        keys = SearchKeys(key, category)
        if native_backend.can_run()[0]:
            # As an earlier request with many candidates leaves them.
            native_backend.prepare(keys)
        found.append(
            SearchProblem(
                shape,
                values(shape.targets, shape.width),
                key,
                keys,
                values(shape.length) if shape.bias else None,
                category,
                values(shape.targets, CATEGORIES) if shape.category else None,
            )
        )
    return found


def searcher(backend: str, num_threads: int) -> Searcher:
    """One of our backends over keys that are prepared once, as a server keeps them."""

    def search(one: SearchProblem) -> Found:
        return search_topk(
            one.target_NA,
            one.keys,
            one.shape.kept,
            bias_L=one.bias_L,
            category_score_NC=one.category_score_NC,
            backend=backend,
            num_threads=num_threads,
        )

    return search


def first_pass(one: SearchProblem) -> None:
    """The hot loop of the compiled search by itself, one thread: the maximum of every group of keys, for every target."""
    core = native_backend.prepare(one.keys)
    arguments = checked(one.target_NA, one.keys, one.shape.kept, one.bias_L, None, None, one.category_score_NC, None, 1)
    native_backend.run(arguments, core, *native_library.ready("search"), first_pass_only=True)


def gate(name: str, search: Searcher, problem: SearchProblem, *, same_order: bool) -> None:
    """Compare with the float64 reference on the first 16 targets: kept scores within 1e-5 of |q| |k|, or with `same_order` the very same
    behaviors in the same order.

    Raises: SystemExit naming what differs; nothing may then be timed.
    """
    index, score = (part[:_GATED_TARGETS] for part in search(problem))
    few = problem.target_NA[:_GATED_TARGETS]
    category = None if problem.category_score_NC is None else problem.category_score_NC[:_GATED_TARGETS]
    truth_index, truth_score = search_topk(
        few, problem.keys, problem.shape.kept, bias_L=problem.bias_L, category_score_NC=category, backend="reference"
    )
    if same_order:
        if not np.array_equal(index, truth_index):
            raise SystemExit(f"{name}, {problem.shape}: keeps other behaviors than the reference; nothing was timed")
        return
    norms = np.linalg.norm(few, axis=1)[:, None] * float(np.linalg.norm(problem.key_LA, axis=1).max(initial=0.0))
    error = np.abs(np.where(truth_index >= 0, score - np.where(truth_index >= 0, truth_score, 0), 0)) / np.maximum(norms, 1.0)
    if not float(error.max(initial=0.0)) <= 1e-5:
        raise SystemExit(f"{name}, {problem.shape}: a kept score is {float(error.max()):.2g} off the reference; nothing was timed")
