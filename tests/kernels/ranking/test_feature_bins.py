"""Extra inputs read through bins: every backend and level equals the encoding written out, at thresholds and far beyond them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kernels import FeatureBins, HeadWeights, PreparedHead, TargetRows, pool_and_score
from kernels.ranking.arguments import NO_BIN

Problem = Callable[..., dict[str, Any]]


def quantile_bins(rng: np.random.Generator, extra: int, bins: int) -> FeatureBins:
    """Bins that follow one another; input e has e % (bins + 1) fewer than all, so some have none."""
    edge = np.sort(rng.normal(size=(extra, bins + 1)), axis=1).astype(np.float32)
    low, width = edge[:, :-1].copy(), np.maximum(np.diff(edge, axis=1), 1e-6)
    for e in range(extra):
        cut = bins - e % (bins + 1)
        low[e, cut:], width[e, cut:] = NO_BIN, 1.0
    return FeatureBins(low, width)


def binned(problem: Problem, n: int, extra: int, bins: int, h1: int = 40) -> dict[str, Any]:
    rng = np.random.default_rng([n, extra, bins])
    made = problem(n, 20, 100, extra)
    found = quantile_bins(rng, extra, bins)
    head: HeadWeights = made["head"]
    dense = len(head.w1) - extra
    w1 = np.concatenate([head.w1[:dense], rng.normal(0, 0.1, (extra * (1 + bins), head.w1.shape[1])).astype(np.float32)])
    if h1 != w1.shape[1]:
        w1 = rng.normal(0, 0.1, (len(w1), h1)).astype(np.float32)
        head = replace(head, b1=rng.normal(size=h1).astype(np.float32), w2=rng.normal(0, 0.1, (h1, 23)).astype(np.float32))
    value = made["extra_NE"]
    real = np.minimum(found.low_EB, 3.0)
    # At thresholds, one step beside them, far below the first and far above the last.
    at = real[np.arange(extra), rng.integers(0, bins, (n, extra))]
    kind = rng.integers(0, 5, (n, extra))
    for which, changed in enumerate((at, np.nextafter(at, np.float32(-9)), value * 100)):
        value = np.where(kind == which, changed, value)
    return made | {"extra_NE": value.astype(np.float32), "head": replace(head, w1=w1, bins=found)}


@pytest.mark.parametrize(("n", "extra", "bins"), [(1, 1, 1), (3, 5, 3), (70, 46, 12), (33, 17, 1), (0, 4, 2)])
def test_equals_the_encoding_written_out(backend: str, problem: Problem, n: int, extra: int, bins: int) -> None:
    arguments = binned(problem, n, extra, bins)
    head = arguments["head"]
    written = head.bins.encoded(arguments["extra_NE"].astype(np.float64)).astype(np.float32)
    plain = arguments | {"extra_NE": written, "head": replace(head, bins=None)}
    expected = pool_and_score(**plain, backend="reference")
    np.testing.assert_allclose(pool_and_score(**arguments, backend=backend)[0], expected[0], rtol=0, atol=2e-6)
    np.testing.assert_allclose(pool_and_score(**arguments, backend="reference")[0], expected[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("read", ["as they are", "through bins"])
def test_an_input_that_hardly_varies_costs_no_digits(backend: str, problem: Problem, read: str) -> None:
    """BatchNorm gives it a large weight; with its mean in b1, hundreds would cancel, and native was off by 1.6e-5 in a trained model."""
    arguments = binned(problem, 70, 6, 3) if read == "through bins" else problem(70, 20, 100, 6)
    head: HeadWeights = arguments["head"]
    rng = np.random.default_rng(9)
    rest = len(head.w1) - 3 * arguments["tables"].width
    scale, center = np.ones(rest, np.float32), rng.normal(size=rest).astype(np.float32)
    scale[[0, 2, 5]], center[[0, 2, 5]] = 2000, (3.0, 3.4, -1.8)
    w1 = head.w1.copy()
    w1[-rest:] *= scale[:, None]
    extra = arguments["extra_NE"].copy()
    extra[:, [1, 4]] = center[[2, 5]] + extra[:, [1, 4]] / 2000
    given = arguments | {"extra_NE": extra, "head": replace(head, w1=w1, center=center)}
    expected = pool_and_score(**given, backend="reference")[0]
    np.testing.assert_allclose(pool_and_score(**given, backend=backend)[0], expected, rtol=0, atol=1e-5)
    moved = replace(head, w1=w1, b1=(head.b1 - center.astype(np.float64) @ w1[-rest:]).astype(np.float32))
    np.testing.assert_allclose(pool_and_score(**given | {"head": moved}, backend="reference")[0], expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("h1", [1, 15, 16, 17, 48, 64, 200])
def test_every_width_of_the_first_layer(backend: str, problem: Problem, h1: int) -> None:
    arguments = binned(problem, 40, 7, 4, h1)
    expected = pool_and_score(**arguments, backend="reference")[0]
    np.testing.assert_allclose(pool_and_score(**arguments, backend=backend)[0], expected, rtol=0, atol=2e-6)


def test_a_prepared_head_holds_the_bins(backend: str, problem: Problem) -> None:
    arguments = binned(problem, 40, 7, 4)
    prepared = PreparedHead(arguments["head"], arguments["tables"])
    bare = pool_and_score(**arguments, backend=backend)[0]
    np.testing.assert_array_equal(pool_and_score(**arguments | {"head": prepared}, backend=backend)[0], bare)
    assert prepared.num_extra == 7 and prepared.nbytes > PreparedHead(problem(1, 1, 1, 7)["head"], problem(1, 1, 1, 7)["tables"]).nbytes
    threads = pool_and_score(**arguments | {"head": prepared}, backend=backend, num_threads=2)[0]
    np.testing.assert_array_equal(threads, bare)


@pytest.mark.parametrize("runs", [((0,),), ((0, 1, 2), (4, 3), (21, 6)), ((9, 2, 11, 5, 6, 20, 1),), ((7, 8), (*range(7), *range(9, 22)))])
def test_shared_runs_are_remembered_exactly(backend: str, problem: Problem, runs: tuple[tuple[int, ...], ...]) -> None:
    """Values of a run that come again, next to each other, apart, in part only; inputs in any order."""
    arguments = binned(problem, 400, 22, 4)
    rng = np.random.default_rng(5)
    value = arguments["extra_NE"]
    few = value[rng.integers(0, 9, 400)]
    arguments["extra_NE"] = np.where(rng.random((400, 1)) < 0.5, few, value)
    arguments["extra_NE"][:, runs[0]] = few[:, runs[0]]
    alone, shared = (PreparedHead(arguments["head"], arguments["tables"], lengths) for lengths in ((), runs))
    one_by_one = [
        pool_and_score(
            **arguments
            | {name: arguments[name][n : n + 1] for name in ("index_NK", "score_NK", "extra_NE")}
            | {"head": shared, "target": TargetRows(arguments["target"].item_N[n : n + 1], arguments["target"].category_N[n : n + 1])},
            backend=backend,
        )[0][0]
        for n in range(0, 400, 50)
    ]
    found = pool_and_score(**arguments | {"head": shared}, backend=backend)[0]
    np.testing.assert_allclose(found, pool_and_score(**arguments | {"head": alone}, backend=backend)[0], rtol=0, atol=5e-6)
    np.testing.assert_allclose(found, pool_and_score(**arguments, backend="reference")[0], rtol=0, atol=1e-5)
    if backend == "native":
        np.testing.assert_array_equal(found[::50], one_by_one)
    for threads in (2, 3):
        given = arguments | {"head": shared}
        np.testing.assert_array_equal(pool_and_score(**given, backend=backend, num_threads=threads)[0], found)


def test_more_values_of_a_run_than_are_remembered(backend: str, problem: Problem) -> None:
    """Each comes twice at least, so that 256 sums are kept and the rest is made anew; a whole call answers as its targets alone."""
    arguments = binned(problem, 1400, 5, 3)
    arguments["extra_NE"][700:] = arguments["extra_NE"][:700]
    given = arguments | {"head": PreparedHead(arguments["head"], arguments["tables"], ((3, 1), (4,)))}
    found = pool_and_score(**given, backend=backend)[0]
    np.testing.assert_allclose(found, pool_and_score(**arguments, backend="reference")[0], rtol=0, atol=1e-5)
    names, target = ("index_NK", "score_NK", "extra_NE"), arguments["target"]
    late = given | {name: arguments[name][1300:] for name in names} | {"target": TargetRows(target.item_N[1300:], target.category_N[1300:])}
    np.testing.assert_allclose(pool_and_score(**late, backend=backend)[0], found[1300:], rtol=0, atol=0 if backend == "native" else 1e-6)


@pytest.mark.parametrize("runs", [((), (2,)), ((-1,),), ((3, 7),), ((1, 2), (4, 1)), ((5, 5),)])
def test_impossible_runs_are_refused(problem: Problem, runs: tuple[tuple[int, ...], ...]) -> None:
    arguments = binned(problem, 3, 7, 3)
    with pytest.raises(ValueError, match="runs must name different ones of 7 binned inputs, each run at least one, got"):
        PreparedHead(arguments["head"], arguments["tables"], runs)
    with pytest.raises(ValueError, match="of 0 binned inputs"):
        PreparedHead(problem(1, 1, 1, 7)["head"], problem(1, 1, 1, 7)["tables"], ((2,),))


def test_impossible_bins_are_refused(problem: Problem) -> None:
    arguments = binned(problem, 3, 4, 3)
    head: HeadWeights = arguments["head"]
    bins = head.bins
    assert bins is not None
    for changed, named in (
        (replace(bins, width_EB=bins.width_EB * 0), "width_EB must be above 0, got 0.0"),
        (replace(bins, low_EB=bins.low_EB[:, ::-1]), "low_EB must ascend"),
        (replace(bins, low_EB=np.full_like(bins.low_EB, np.nan)), "low_EB must be finite"),
        (replace(bins, low_EB=bins.low_EB[:3], width_EB=bins.width_EB[:3]), "low_EB"),
        (replace(bins, width_EB=bins.width_EB[:, :2]), "width_EB"),
    ):
        with pytest.raises(ValueError, match=named):
            pool_and_score(**arguments | {"head": replace(head, bins=changed)})
    with pytest.raises(ValueError, match=r"head\.w1"):
        pool_and_score(**arguments | {"head": replace(head, w1=head.w1[:-1])})
