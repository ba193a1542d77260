"""What is measured and against whom: the rows of the benchmark and the figures they are to reach."""

from __future__ import annotations

from dataclasses import dataclass, field

from kernels.bench.ranking_bench import RankShape
from kernels.bench.search_bench import SearchShape

THREADS = (1, 2)
KEPT_OF_THE_PLOT, TARGETS_OF_THE_PLOT, WIDTH_OF_THE_PLOT = 50, 512, 16
LENGTHS_OF_THE_PLOT = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
REPRESENTATION = (64, 32, 32)
"""Item, category and recency widths of a representation row, 128 in all."""


@dataclass(frozen=True, slots=True)
class SearchRow:
    """A shape of stage 1 and how many times faster than each rival ours is to be."""

    shape: SearchShape
    wanted: dict[str, float] = field(default_factory=dict)


SEARCH = (
    SearchRow(SearchShape(10_000, 512, 16, 50), {"torch": 20, "faiss.knn": 25, "onnxruntime": 11}),
    SearchRow(SearchShape(100_000, 1_000, 16, 100), {"torch": 45, "faiss.knn": 40, "onnxruntime": 14}),
    SearchRow(SearchShape(1_000, 128, 16, 20), {"torch": 14, "faiss.knn": 14}),
    SearchRow(SearchShape(10_000, 1, 16, 50), {"torch": 5, "faiss.knn": 4}),
    SearchRow(SearchShape(10_000, 512, 32, 50)),
    SearchRow(SearchShape(10_000, 512, 64, 50), {"torch": 8, "faiss.knn": 11}),
    SearchRow(SearchShape(10_000, 512, 32, 50, repeats=True)),
)

PLAIN = SearchShape(10_000, 512, 16, 50)
BIASED = SearchShape(10_000, 512, 16, 50, bias=True)
LOOKED_UP = SearchShape(10_000, 512, 16, 50, category=True)
WIDENED = SearchShape(10_000, 512, 32, 50)
"""Keys that carry sixteen more dimensions for the category, instead of a look-up of its score."""

HOT_LOOP = SearchShape(100_000, 1_000, 16, 100)
"""Of this search the pass over all keys is timed by itself."""

RANKING: tuple[tuple[RankShape, dict[str, float]], ...] = (
    (RankShape(widths=REPRESENTATION), {"torch naive": 25.0, "torch embedding_bag": 2.2}),
    (RankShape(widths=REPRESENTATION, extra=41), {}),
)

REQUESTS = (
    (SearchShape(10_000, 512, 16, 50), {"torch naive": 20.0, "best torch": 10.0}),
    (SearchShape(100_000, 1_000, 16, 100), {"torch naive": 40.0, "best torch": 25.0}),
)
MOST_BIAS_OVERHEAD = 0.15
MOST_LOOKUP_MS = 1.0
LEAST_SHARE_OF_PEAK = 0.90
