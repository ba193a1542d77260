"""The parts of the benchmark: turns, spreads, peaks, and gates that let nothing wrong be timed."""

from __future__ import annotations

import time

import numpy as np
import pytest

from kernels import native_library
from kernels.bench import ranking_bench, search_bench
from kernels.bench.peak import peak_ops_per_s
from kernels.bench.ranking_bench import RankShape
from kernels.bench.search_bench import SearchProblem, SearchShape
from kernels.bench.timing import Entry, Spread, take_turns


def test_entries_take_turns_over_rotating_inputs() -> None:
    calls: list[tuple[str, int]] = []

    def slow(given: int) -> None:
        calls.append(("slow", given))
        time.sleep(0.011)

    entries = {"slow": Entry(slow, [0, 1, 2, 3]), "quick": Entry(lambda given: calls.append(("quick", given)), [0, 1, 2, 3])}
    spreads = take_turns(entries, 0.0)
    slow_turn, quick_turn = ["slow"] * 3, ["quick"] * 41
    assert [name for name, _ in calls] == (slow_turn + quick_turn) * 5, "one untimed call, then two at least, forty at most"
    assert {given for name, given in calls if name == "slow"} == {0, 1, 2, 3}
    assert (spreads["slow"].calls, spreads["quick"].calls) == (2 * 5, 40 * 5)
    assert spreads["slow"].p10_ms >= 11


def test_a_spread_is_the_median_and_the_tenths() -> None:
    spread = Spread.of([float(ms) for ms in range(1, 102)])
    assert (spread.median_ms, spread.p10_ms, spread.p90_ms, spread.calls) == (51.0, 11.0, 91.0, 101)
    with pytest.raises(ValueError, match="times_ms must hold at least one time, got none"):
        Spread.of([])


def test_the_peak_of_a_core_is_measured_per_level(monkeypatch: pytest.MonkeyPatch) -> None:
    if native_library.library()[0] is None:
        pytest.skip(native_library.library()[1])
    with pytest.raises(ValueError, match="kind must be one of fp32, int8, got 'fp64'"):
        peak_ops_per_s("fp64")
    monkeypatch.setenv(native_library.LEVEL_VARIABLE, "scalar")
    assert peak_ops_per_s("fp32") is None
    monkeypatch.setenv(native_library.LEVEL_VARIABLE, "avx2")
    if native_library.can_run()[0]:
        peak = peak_ops_per_s("fp32")
        assert peak is not None and 1e9 < peak < 1e12
        assert peak_ops_per_s("int8") is None


@pytest.mark.parametrize(
    "shape",
    [
        SearchShape(300, 20, 8, 10),
        SearchShape(300, 20, 8, 10, bias=True),
        SearchShape(300, 20, 8, 10, category=True),
        SearchShape(300, 20, 8, 10, repeats=True),
    ],
)
def test_the_search_gate_opens_for_right_answers_alone(shape: SearchShape) -> None:
    given, whole = search_bench.problems(shape, 1)[0], search_bench.problems(shape, 1, integers=True)[0]
    right = search_bench.searcher("numpy", 1)
    search_bench.gate("right", right, given, same_order=False)
    search_bench.gate("right", right, whole, same_order=True)

    def off_by_a_little(one: SearchProblem) -> search_bench.Found:
        index, score = right(one)
        return index, score + np.float32(1e-3)

    def ties_the_wrong_way(one: SearchProblem) -> search_bench.Found:
        index, score = right(one)
        swapped = index.copy()
        swapped[0, [0, 1]] = index[0, [1, 0]]
        return swapped, score

    with pytest.raises(SystemExit, match=r"a kept score is .* off the reference; nothing was timed"):
        search_bench.gate("wrong", off_by_a_little, given, same_order=False)
    with pytest.raises(SystemExit, match="keeps other behaviors than the reference; nothing was timed"):
        search_bench.gate("wrong", ties_the_wrong_way, whole, same_order=True)


def test_the_ranking_gate_opens_for_right_answers_alone() -> None:
    given = ranking_bench.problems(RankShape(candidates=6, kept=5, items=50, length=30), 1)
    right = ranking_bench.backend("numpy", 1)
    ranking_bench.gate("right", right, given, 1e-5)
    with pytest.raises(SystemExit, match=r"a probability is .* from the reference, at most 1e-05 is allowed; nothing was timed"):
        ranking_bench.gate("wrong", lambda one: right(one) + np.float32(1e-4), given, 1e-5)
