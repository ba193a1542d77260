"""Gates and timings: a row of the grid to spreads by name. Nothing is timed before its answers are right."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kernels import HashIndex, lookup_backends, lookup_rows, pool_and_score, ranking_backends, search_backends
from kernels.bench import ranking_bench, search_bench
from kernels.bench.ranking_bench import RankProblem, RankShape
from kernels.bench.search_bench import Searcher, SearchProblem, SearchShape
from kernels.bench.timing import Entry, Spread, take_turns
from kernels.ranking import PreparedHead, TargetRows
from kernels.ranking.arguments import F32
from kernels.search.faiss_index import KINDS, FaissIndex, recall
from service.bench.grid import REPRESENTATION

LOOKUP_TWO_THREADS = "native, 2 threads"
_USERS = 4
_GATED = 16


@dataclass(frozen=True, slots=True)
class Row:
    """One table: `stage`, `title`, threads, and the spread of each entry; `ours` is the entry that the ratios are about."""

    stage: str
    title: str
    threads: int
    ours: str
    spreads: dict[str, Spread]

    def ratio(self, rival: str) -> float:
        """How many times longer the rival takes."""
        return self.spreads[rival].median_ms / self.spreads[self.ours].median_ms

    def undisturbed_ratio(self, rival: str) -> float:
        """The same of the fastest tenths, which other work on the machine hardly reaches."""
        return self.spreads[rival].p10_ms / self.spreads[self.ours].p10_ms


def able(backends: Mapping[str, tuple[bool, str]]) -> list[str]:
    """Names of our own backends that run here, best first."""
    return [name for name, (runs, _) in backends.items() if runs and name not in ("reference", "faiss")]


def search_row(shape: SearchShape, threads: int, budget_s: float, rivals: Mapping[str, Searcher]) -> Row:
    """Stage 1 at one shape."""
    given = search_bench.problems(shape, _USERS)
    exact = search_bench.problems(shape, 1, integers=True, seed=1)[0]
    ours = {name: search_bench.searcher(name, threads) for name in able(search_backends())}
    for name, search in ours.items():
        search_bench.gate(name, search, exact, same_order=True)
    for name, search in (ours | dict(rivals)).items():
        search_bench.gate(name, search, given[0], same_order=False)
    runs = {name: Entry(search, given) for name, search in (ours | dict(rivals)).items()}
    return Row("search", str(shape), threads, next(iter(ours)), take_turns(runs, budget_s))


def overhead_row(shapes: Mapping[str, SearchShape], threads: int, budget_s: float) -> Row:
    """Our best backend at several shapes beside each other; the first is the one the ratios are about."""
    name = able(search_backends())[0]
    search = search_bench.searcher(name, threads)
    runs = {}
    for title, shape in shapes.items():
        given = search_bench.problems(shape, _USERS)
        search_bench.gate(name, search, search_bench.problems(shape, 1, integers=True, seed=1)[0], same_order=True)
        search_bench.gate(name, search, given[0], same_order=False)
        runs[title] = Entry(search, given)
    return Row("search", " / ".join(shapes), threads, next(iter(shapes)), take_turns(runs, budget_s))


def hot_loop_row(shape: SearchShape, budget_s: float) -> Row:
    """The compiled search's pass over all keys and nothing else, one thread. The whole search is checked first."""
    given = search_bench.problems(shape, _USERS)
    search_bench.gate("native", search_bench.searcher("native", 1), given[0], same_order=False)
    return Row("search", "hot loop", 1, "hot loop", take_turns({"hot loop": Entry(search_bench.first_pass, given)}, budget_s))


def ranking_row(shape: RankShape, threads: int, budget_s: float, rivals: Mapping[str, Callable[[RankProblem], F32]]) -> Row:
    """Stage 2 at one shape; ours also over bf16 tables, the rivals over float32."""
    given = ranking_bench.problems(shape, _USERS)
    narrow, _ = ranking_bench.in_bfloat16(given)
    names = able(ranking_backends())
    runs = {f"{names[0]} bf16": (ranking_bench.backend(names[0], threads), narrow)}
    runs |= {f"{name} f32": (ranking_bench.backend(name, threads), given) for name in names}
    runs |= {name: (rival, given) for name, rival in rivals.items()}
    for name, (rank, inputs) in runs.items():
        ranking_bench.gate(name, rank, inputs[:1], 1e-5)
    entries = {name: Entry(rank, inputs) for name, (rank, inputs) in runs.items()}
    return Row("ranking", str(shape), threads, next(iter(runs)), take_turns(entries, budget_s))


Request = tuple[SearchProblem, RankProblem]


def request_row(shape: SearchShape, threads: int, budget_s: float, rivals: Mapping[str, Callable[[Request], F32]]) -> Row:
    """Search and ranking of one request whose user is prepared."""
    rank_shape = RankShape(shape.targets, shape.kept, REPRESENTATION, length=shape.length)
    ranked = ranking_bench.problems(rank_shape, _USERS)
    narrow, _ = ranking_bench.in_bfloat16(ranked)
    searched = search_bench.problems(shape, _USERS)
    wide_given, narrow_given = (list(zip(searched, part, strict=True)) for part in (ranked, narrow))
    search, rank = able(search_backends())[0], able(ranking_backends())[0]
    ours = f"{search} + {rank}"
    runs = {
        f"{ours} bf16": (_request(search, rank, narrow[0], threads), narrow_given),
        f"{ours} f32": (_request(search, rank, ranked[0], threads), wide_given),
    }
    runs |= {name: (rival, wide_given) for name, rival in rivals.items()}
    for name, (run, inputs) in runs.items():
        _gate_request(name, run, inputs[0])
    entries = {name: Entry(run, inputs) for name, (run, inputs) in runs.items()}
    return Row("request", f"{shape}, R {rank_shape.widths}", threads, f"{ours} bf16", take_turns(entries, budget_s))


def _request(search: str, rank: str, tables_of: RankProblem, threads: int) -> Callable[[Request], F32]:
    find = search_bench.searcher(search, threads)
    head = PreparedHead(tables_of.head, tables_of.tables)

    def run(given: Request) -> F32:
        index, score = find(given[0])
        one = given[1]
        rows = (one.tables, one.behavior, one.target, one.extra_NE, head)
        return pool_and_score(index, score, *rows, backend=rank, num_threads=threads)[0]

    return run


def _gate_request(name: str, run: Callable[[Request], F32], given: Request) -> None:
    searched, ranked = given
    few = slice(0, _GATED)
    index, score = search_bench.searcher("reference", 1)(replace(searched, target_NA=searched.target_NA[few]))
    target = TargetRows(ranked.target.item_N[few], ranked.target.category_N[few])
    truth = ranking_bench.backend("reference", 1)(
        replace(ranked, index_NK=index, score_NK=score, target=target, extra_NE=ranked.extra_NE[few])
    )
    error = float(np.abs(run(given)[few] - truth).max())
    if not error <= 1e-5:
        raise SystemExit(f"{name}: a request's probability is {error:.2g} from the reference; nothing was timed")


def lookup_row(rows: int, wanted: int, budget_s: float) -> Row:
    """Item hashes to rows: `wanted` look-ups among `rows`, nine of ten present, beside NumPy's binary search."""
    rng = np.random.default_rng(0)
    index = HashIndex(np.unique(rng.integers(0, 2**64, rows, dtype=np.uint64)))
    known = index.sorted_hash_V
    given = [
        np.where(rng.random(wanted) < 0.9, rng.choice(known, wanted), rng.integers(0, 2**64, wanted, dtype=np.uint64))
        for _ in range(_USERS)
    ]

    def entry(name: str) -> Callable[[Any], object]:
        return lambda hashes: lookup_rows(hashes, index, backend=name)

    names = [name for name, (runs, _) in lookup_backends().items() if runs]
    truth = lookup_rows(given[0], index, backend="reference")
    for name in names:
        if not np.array_equal(lookup_rows(given[0], index, backend=name), truth):
            raise SystemExit(f"{name}: finds other rows than the reference; nothing was timed")
    runs = {name: Entry(entry(name), given) for name in names}
    if "native" in runs:
        runs[LOOKUP_TWO_THREADS] = Entry(lambda hashes: lookup_rows(hashes, index, num_threads=2), given)
    return Row("lookup", f"{wanted:,} hashes among {len(known):,}", 1, names[0], take_turns(runs, budget_s))


def approximate_rows(shape: SearchShape) -> list[dict[str, Any]]:
    """Build time, search time and recall of the approximate indexes of faiss, one thread; empty without faiss."""
    import importlib.util

    if importlib.util.find_spec("faiss") is None:
        return []
    one = search_bench.problems(shape, 1)[0]
    exact = search_bench.searcher("reference", 1)(replace(one, target_NA=one.target_NA[:64]))[0]
    found = []
    for kind in KINDS:
        start = time.perf_counter()
        index = FaissIndex(kind, one.key_LA)
        built_ms = 1e3 * (time.perf_counter() - start)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            kept = index.search(one.target_NA, shape.kept)[0]
            times.append(1e3 * (time.perf_counter() - start))
        spread = Spread.of(times)
        found.append(
            {"index": kind, "build_ms": built_ms, "search_ms": spread.median_ms, "calls": spread.calls, "recall": recall(kept[:64], exact)}
        )
    return found
