"""Random calls of every compiled operation, at every CPU level, against its readable reference.

python -m tests.kernels.native.fuzz [--seconds 60] [--seed 0] [--library PATH] [--only OPERATION]

Shapes, values and layouts are drawn from a seed that is printed on failure. With a library built by `make sanitize` a read or write out of
bounds ends the process; without, only wrong answers are found.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kernels import (
    BehaviorRows,
    FeatureBins,
    HashIndex,
    HeadWeights,
    ItemBonus,
    PreparedHead,
    RankTables,
    SearchKeys,
    TargetRows,
    lookup_rows,
    native_library,
    pool_and_score,
    search_backends,
    search_topk,
)
from kernels.ranking.arguments import NO_BIN
from kernels.ranking.bfloat16 import to_bfloat16
from kernels.search import native_backend
from tests.kernels.candidates import made as candidates
from tests.kernels.features.made import NOW, compare, facts, history

Random = np.random.Generator


def size(rng: Random, most: int) -> int:
    """Small, near a power of two, or anything: where vector code has its edges."""
    kind = rng.integers(3)
    if kind == 0:
        return int(rng.integers(0, 5))
    if kind == 1:
        return max(0, min(most, int(2 ** rng.integers(0, 12)) + int(rng.integers(-1, 2))))
    return int(rng.integers(0, most + 1))


def values(rng: Random, *shape: int) -> np.ndarray:
    """float32 of one of several kinds: gaussian, whole, equal, heavy-tailed, tiny."""
    made = {
        0: lambda: rng.standard_normal(shape),
        1: lambda: rng.integers(-3, 4, shape),
        2: lambda: np.full(shape, rng.standard_normal()),
        3: lambda: rng.standard_t(2, shape),
        4: lambda: rng.standard_normal(shape) * 1e-39,
    }[int(rng.integers(5))]()
    return np.asarray(made, dtype=np.float32)


def rows(rng: Random, high: int, many: int) -> np.ndarray:
    return rng.integers(0, high, many).astype(np.int32)


def fuzz_features(rng: Random) -> None:
    width, length = int(rng.integers(1, 70)), size(rng, 3000)
    user = history(rng, width, length, items=min(length, size(rng, 300)), categories=min(length, int(rng.integers(0, 20))))
    now_s = int(rng.choice([0, NOW - 10**7, NOW, NOW + 10**5, 2**32 - 1]))
    compare(rng, user, facts(rng, size(rng, 300), width, int(rng.integers(1, 60))), size(rng, 300), now_s)


def fuzz_lookup(rng: Random) -> None:
    wide = np.uint64(rng.integers(1, 2**62)) if rng.random() < 0.3 else np.uint64(2**64 - 1)
    table = np.unique(rng.integers(0, wide, size(rng, 3000), dtype=np.uint64, endpoint=True))
    wanted = rng.integers(0, wide, size(rng, 1500), dtype=np.uint64, endpoint=True)
    if len(table):
        wanted = np.concatenate([wanted, rng.choice(table, size(rng, 1500 if rng.random() < 0.8 else 30_000))])
    index, threads = HashIndex(table), int(rng.integers(1, 4))
    found = lookup_rows(wanted, index, backend="native", num_threads=threads)
    np.testing.assert_array_equal(found, lookup_rows(wanted, index, backend="reference"))


def fuzz_candidates(rng: Random) -> None:
    known, codes = candidates.hashes(rng, size(rng, 3000)), int(rng.integers(1, 30))
    wanted = np.concatenate([known, candidates.hashes(rng, 50)])
    wanted = wanted[rng.integers(0, len(wanted), size(rng, 1500))]
    widths = int(rng.integers(1, 70)), int(rng.integers(1, 70))
    user = candidates.history(rng, known[rng.random(len(known)) < 0.3], codes)
    candidates.compare(candidates.catalogue(rng, known, widths, codes), user, wanted)
    candidates.compare_occurrences(rng, 1 + size(rng, 300), int(rng.integers(0, 12)), size(rng, 300))


def feature_bins(rng: Random, extra: int) -> FeatureBins:
    """Bins between distinct edges, as quantiles are; some inputs have fewer or none."""
    most = size(rng, 20) + 1
    low, width = np.full((extra, most), NO_BIN), np.ones((extra, most), np.float32)
    for e in range(extra):
        edge = np.unique(values(rng, int(rng.integers(1, most + 2))))
        low[e, : len(edge) - 1], width[e, : len(edge) - 1] = edge[:-1], np.maximum(np.diff(edge), 1e-30)
    return FeatureBins(low, width)


def fuzz_ranking(rng: Random) -> None:
    n, k, length = size(rng, 90), size(rng, 130), size(rng, 300)
    widths, extra, hidden = (size(rng, 70) for _ in range(3)), size(rng, 50), [max(1, size(rng, 70)) for _ in range(2)]
    counts = [max(1, size(rng, 50)) for _ in range(3)]
    tables = RankTables(*(values(rng, many, width) for many, width in zip(counts, widths, strict=True)))
    if rng.random() < 0.5:
        tables = RankTables(*(to_bfloat16(table) for table in (tables.item, tables.category, tables.recency)))
    bins = feature_bins(rng, extra) if extra and rng.random() < 0.5 else None
    features = 3 * tables.width + 1 + extra * (1 if bins is None else 1 + bins.low_EB.shape[1])
    w1, w2 = values(rng, features, hidden[0]) / max(8, features), values(rng, *hidden) / 8
    center = values(rng, features - 3 * tables.width) if rng.random() < 0.5 else None
    head = HeadWeights(w1, values(rng, hidden[0]), 0.25, w2, values(rng, hidden[1]), -0.1, values(rng, hidden[1]), 0.5, bins, center)
    cuts = np.unique(rng.integers(0, extra + 1, 4))
    runs = () if bins is None else [part.tolist() for part in np.split(rng.permutation(extra), cuts)[1:-1]]
    extra_NE = values(rng, n, extra)
    index = rng.integers(-1, length, (n, k)).astype(np.int32) if length else np.full((n, k), -1, np.int32)
    score = np.where(index >= 0, values(rng, n, k), np.nan).astype(np.float32)
    given = {
        "index_NK": index,
        "score_NK": score,
        "tables": tables,
        "behavior": BehaviorRows(*(rows(rng, many, length) for many in counts)),
        "target": TargetRows(rows(rng, counts[0], n), rows(rng, counts[1], n)),
        "extra_NE": extra_NE if bins is None else extra_NE[rng.integers(0, n, n)] if n else extra_NE,
        "head": PreparedHead(head, tables, runs) if rng.random() < 0.5 else head,
    }
    found = pool_and_score(**given, backend="native", num_threads=int(rng.integers(1, 4)))
    truth = pool_and_score(**given, backend="numpy")
    np.testing.assert_allclose(found[0], truth[0], atol=2e-5)
    np.testing.assert_allclose(found[1], truth[1], rtol=1e-5, atol=1e-5)


def grown(rng: Random, key: np.ndarray, category: np.ndarray | None) -> SearchKeys:
    """Keys of these rows, appended in parts after others that left again; prepared before any of the parts."""
    gone, width = size(rng, 600), key.shape[1]
    older = values(rng, gone, width) * np.float32(rng.choice([0, 1, 1e30]))
    ends = [0, *np.sort(rng.integers(0, len(key) + 1, 3)).tolist(), len(key)]
    kinds = None if category is None else np.concatenate([rows(rng, 1000, gone), category])
    whole = np.concatenate([older, key])
    keys = SearchKeys(whole[: gone + ends[1]], None if kinds is None else kinds[: gone + ends[1]])
    for first, end in zip(ends[1:], ends[2:], strict=False):
        if rng.random() < 0.5 and native_library.ready("search")[1]:
            native_backend.prepare(keys)
        drop = gone - keys.dropped if end == len(key) else int(rng.integers(0, gone - keys.dropped + 1))
        keys = keys.append(whole[gone + first : gone + end], None if kinds is None else kinds[gone + first : gone + end], drop)
    return keys


def fuzz_search(rng: Random) -> None:
    n, length, width, k = size(rng, 40), size(rng, 3000), max(1, size(rng, 70)), max(1, size(rng, 130))
    whole = rng.random() < 0.5
    q, key = (rng.integers(-3, 4, shape).astype(np.float32) if whole else values(rng, *shape) for shape in ((n, width), (length, width)))
    if length and rng.random() < 0.4:
        key = key[rng.integers(0, max(1, min(length, size(rng, length))), length)]  # bought again
    more: dict[str, object] = {}
    category = None
    if rng.random() < 0.4:
        more["bias_L"] = rng.integers(-3, 4, length).astype(np.float32) if whole else values(rng, length)
    if rng.random() < 0.4:
        more["valid_L"] = rng.random(length) < rng.random()
    if rng.random() < 0.4:
        categories = max(1, size(rng, 300))
        category = rows(rng, categories, length)
        more["category_score_NC"] = rng.integers(-3, 4, (n, categories)).astype(np.float32) if whole else values(rng, n, categories)
    if rng.random() < 0.4:
        start = np.concatenate([[0], np.cumsum(rng.integers(0, 6, n))]).astype(np.int64) if length else np.zeros(n + 1, np.int64)
        more["bonus"] = ItemBonus(start, rows(rng, max(1, length), int(start[-1])), float(rng.integers(-2, 5)))
    keys = grown(rng, key, category)
    found = search_topk(q, keys, k, **more, backend="native", num_threads=int(rng.integers(1, 4)))  # type: ignore[arg-type]
    truth = search_topk(q, keys, k, **more, backend="reference")  # type: ignore[arg-type]
    if whole:
        np.testing.assert_array_equal(found[0], truth[0])
    valid = truth[0] >= 0
    np.testing.assert_array_equal(found[0] >= 0, valid)
    scale = 1e-5 * max(1.0, float(np.linalg.norm(q, axis=1).max(initial=0)) * float(np.linalg.norm(key, axis=1).max(initial=0)))
    np.testing.assert_allclose(found[1][valid], truth[1][valid], rtol=1e-5, atol=scale)


def operations() -> dict[str, Callable[[Random], None]]:
    """The operations with a compiled backend here."""
    search = {"search": fuzz_search} if search_backends().get("native", (False, ""))[0] else {}
    return {"candidates": fuzz_candidates, "features": fuzz_features, "lookup": fuzz_lookup, "ranking": fuzz_ranking, **search}


def levels() -> list[str]:
    """The CPU levels that this machine runs."""
    (library, reason), names = native_library.library(), native_library.LEVELS
    if library is None:
        raise RuntimeError(reason)
    return [name for name, number in names.items() if library.dare_cpu_runs(number)]


def run(seconds: float, seed: int, force_level: Callable[[str], None], only: str | None = None) -> int:
    """Call after call until so much processor time is spent, however busy the machine; returns how many were made.

    Raises: AssertionError naming operation, level and seed.
    """
    until, calls = time.process_time() + seconds, 0
    chosen = list(operations().values()) if only is None else [operations()[only]]
    while time.process_time() < until:
        rng = np.random.default_rng([seed, calls])
        operation = chosen[calls % len(chosen)]
        level = levels()[int(rng.integers(len(levels())))]
        force_level(level)
        try:
            operation(rng)
        except Exception as error:
            raise AssertionError(f"{operation.__name__} at {level}, seed [{seed}, {calls}]: {error}") from error
        calls += 1
    return calls


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of processor time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--library", type=Path)
    parser.add_argument("--only", choices=["candidates", "features", "lookup", "ranking", "search"])
    asked = parser.parse_args()
    if asked.library is not None:
        native_library.PATH = asked.library.resolve()

    def force_level(level: str) -> None:
        os.environ[native_library.LEVEL_VARIABLE] = level

    calls = run(asked.seconds, asked.seed, force_level, asked.only)
    print(f"{calls} calls of {asked.only or ', '.join(operations())} at {', '.join(levels())}: no difference, seed {asked.seed}")


if __name__ == "__main__":
    main()
