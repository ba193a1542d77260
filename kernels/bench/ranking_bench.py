"""Stage 2 for benchmarks: users and candidates to rank, the gate before any timing, and our backends as they are used in serving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kernels.ranking import BehaviorRows, HeadWeights, PreparedHead, RankTables, TargetRows, pool_and_score
from kernels.ranking.arguments import F32, I32
from kernels.ranking.bfloat16 import as_float32, to_bfloat16


@dataclass(frozen=True, slots=True)
class RankProblem:
    """The arguments of one call of `pool_and_score`."""

    index_NK: I32
    score_NK: F32
    tables: RankTables
    behavior: BehaviorRows
    target: TargetRows
    extra_NE: F32
    head: HeadWeights

    def arguments(self) -> dict[str, Any]:
        """By name, as `pool_and_score` takes them."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class RankShape:
    """N candidates, K kept, widths of the three tables, H1 and H2, E extra inputs, V items, L behaviors."""

    candidates: int = 512
    kept: int = 50
    widths: tuple[int, int, int] = (16, 16, 16)
    hidden: tuple[int, int] = (200, 80)
    extra: int = 0
    items: int = 100_000
    length: int = 10_000

    def __str__(self) -> str:
        widths, hidden = "+".join(map(str, self.widths)), "/".join(map(str, self.hidden))
        return f"N={self.candidates} K={self.kept} R={sum(self.widths)} ({widths}) H={hidden} E={self.extra} V={self.items} L={self.length}"


Rival = Callable[[RankProblem], F32]


def problems(shape: RankShape, count: int) -> list[RankProblem]:
    """`count` users and candidate lists over the same tables and head."""
    rng = np.random.default_rng(0)

    def normal(*size: int, std: float = 1.0) -> F32:
        return (std * rng.standard_normal(size)).astype(np.float32)

    def rows(high: int, *size: int) -> I32:
        return rng.integers(0, high, size).astype(np.int32)

    counts, (h1, h2) = (shape.items, 300, 64), shape.hidden
    tables = RankTables(*(normal(many, width, std=0.3) for many, width in zip(counts, shape.widths, strict=True)))
    features = 3 * sum(shape.widths) + 1 + shape.extra
    head = HeadWeights(
        normal(features, h1, std=0.05), normal(h1), 0.25, normal(h1, h2, std=0.05), normal(h2), 0.25, normal(h2, std=0.2), 0.1
    )
    made = []
    for _ in range(count):
        index = rows(shape.length, shape.candidates, shape.kept)
        behavior = BehaviorRows(*(rows(many, shape.length) for many in counts))
        target = TargetRows(rows(counts[0], shape.candidates), rows(counts[1], shape.candidates))
        score = np.sort(normal(shape.candidates, shape.kept), axis=1)[:, ::-1].copy()
        made.append(RankProblem(index, score, tables, behavior, target, normal(shape.candidates, shape.extra), head))
    return made


def in_bfloat16(given: list[RankProblem]) -> tuple[list[RankProblem], list[RankProblem]]:
    """The problems over bf16 tables, and over the float32 tables that hold the same values."""
    names = ("item", "category", "recency")
    narrow = RankTables(*(to_bfloat16(as_float32(getattr(given[0].tables, name))) for name in names))
    same = RankTables(*(as_float32(getattr(narrow, name)) for name in names))
    return [replace(one, tables=narrow) for one in given], [replace(one, tables=same) for one in given]


def backend(name: str, num_threads: int) -> Rival:
    """One of our backends as a callable, over a head that is prepared once, as a server does."""
    prepared: dict[int, PreparedHead] = {}

    def rank(one: RankProblem) -> F32:
        # The prepared head keeps its tables alive, so their id is not used again.
        if id(one.tables) not in prepared:
            prepared[id(one.tables)] = PreparedHead(one.head, one.tables)
        head = prepared[id(one.tables)]
        return pool_and_score(**one.arguments() | {"head": head}, backend=name, num_threads=num_threads)[0]

    return rank


def gate(name: str, rival: Rival, given: list[RankProblem], tolerance: float) -> None:
    """Raises: SystemExit when a probability is further than `tolerance` from the float64 reference."""
    for one in given[:2]:
        error = float(np.abs(rival(one) - backend("reference", 1)(one)).max())
        if not error <= tolerance:
            raise SystemExit(
                f"{name}: a probability is {error:.2g} from the reference, at most {tolerance:g} is allowed; nothing was timed"
            )
