"""`dare bench kernels` and `dare bench retrieval`: rivals answer as we do, results are written, what is missing is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from kernels import search_backends
from kernels.bench import ranking_bench, search_bench
from kernels.bench.ranking_bench import RankShape
from kernels.bench.search_bench import SearchShape
from kernels.bench.timing import Spread
from service.bench import grid, report
from service.bench.measure import Row, approximate_rows, lookup_row, overhead_row, request_row
from service.cli import app
from service.commands import bench
from tests.conftest import Tiny


@pytest.fixture(autouse=True)
def threads_as_before() -> object:
    """Rivals set torch's threads for the process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["torch", "torch two-level", "faiss.knn", "onnxruntime"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("length", [37, 1003, 1600])
def test_every_search_rival_keeps_the_best(name: str, bias: bool, length: int) -> None:
    rival = bench.search_rivals(1)[name]
    for given in search_bench.problems(SearchShape(length, 9, 16, 20, bias=bias), 2):
        search_bench.gate(name, rival, given, same_order=False)


@pytest.mark.parametrize("name", ["torch", "torch two-level"])
def test_torch_adds_category_scores(name: str) -> None:
    given = search_bench.problems(SearchShape(500, 9, 16, 20, category=True), 1)[0]
    search_bench.gate(name, bench.search_rivals(1)[name], given, same_order=False)


@pytest.mark.parametrize("name", ["torch naive", "torch embedding_bag", "onnxruntime"])
def test_every_ranking_rival_equals_the_reference(name: str) -> None:
    rival = bench.ranking_rivals(1)[name]
    for extra in (0, 3):
        given = ranking_bench.problems(RankShape(candidates=7, kept=5, widths=(8, 4, 4), extra=extra, items=60, length=40), 2)
        ranking_bench.gate(name, rival, given, 1e-5)


def test_requests_are_gated_and_timed_end_to_end() -> None:
    row = request_row(SearchShape(400, 20, 16, 10), 1, 0.0, bench.request_rivals(1))
    assert {"torch naive", "good torch", "good torch two-level"} < set(row.spreads)
    assert row.ratio(row.ours) == 1 and row.ours.endswith("bf16")


def test_overheads_look_ups_and_approximate_indexes() -> None:
    plain = SearchShape(2000, 8, 16, 10)
    row = overhead_row({"plain": plain, "with position bias": replace(plain, bias=True)}, 1, 0.0)
    assert set(row.spreads) == {"plain", "with position bias"} and row.ours == "plain"
    looked_up = lookup_row(50_000, 2_000, 0.0)
    assert "reference" in looked_up.spreads
    study = approximate_rows(plain)
    assert [one["index"] for one in study] == ["ivf", "hnsw", "pq"] and all(0.3 < one["recall"] <= 1 for one in study)


def test_the_command_writes_text_and_json(tmp_path: Path) -> None:
    ran = CliRunner().invoke(
        app, ["bench", "kernels", "--only", "1,000 x 128, d 16, K 20, 1 thread", "--seconds", "0", "--out", str(tmp_path), "--json"]
    )
    assert ran.exit_code == 0, ran.output
    answer = json.loads(ran.stdout)
    (text, written) = sorted(tmp_path.iterdir(), key=lambda path: path.suffix, reverse=True)
    assert (text.suffix, written.suffix) == (".txt", ".json") and text.stem == written.stem and text.stem.endswith("-kernels-cpu")
    assert json.loads(written.read_text()) == answer
    (row,) = answer["rows"]
    best = next(name for name, (able, _) in search_backends().items() if able)
    assert row["ours"] == best and set(row["entries"]) >= {best, "torch", "faiss.knn", "onnxruntime"}
    for name, entry in row["entries"].items():
        assert entry["p10_ms"] <= entry["median_ms"] <= entry["p90_ms"]
        assert f"{entry['median_ms']:.3f}" in text.read_text(), name
    against = {one["what"]: one for one in answer["wanted"]}
    judged = against["search 1,000 x 128, d 16, K 20, 1 threads: against torch"]
    assert judged["met"] == (row["entries"]["torch"]["times_ours"] >= 14) and judged["wanted"] == ">= 14x"
    machine = answer["machine"]
    assert machine["commit"] and machine["cpu"] and machine["packages"]["torch"] and machine["level"]


def test_every_wanted_figure_belongs_to_a_row() -> None:
    titles = " ".join(title for title, _ in bench._jobs(1.0))
    for one in grid.SEARCH:
        assert f"search {one.shape}, 1 thread " in titles and f"search {one.shape}, 2 threads" in titles
    assert set(grid.SEARCH[0].wanted) <= set(bench.search_rivals(1))
    assert set(grid.RANKING[0][1]) <= set(bench.ranking_rivals(1))


def test_missed_figures_are_called_missed() -> None:
    shape = grid.BIASED
    row = Row("search", "plain / with position bias", 1, "plain", {"plain": spread(1.0), "with position bias": spread(1.3)})
    machine = {"peak_gops_of_one_core": {"fp32": None, "int8": None}}
    (verdict,) = bench._verdicts([row], machine)
    assert (verdict["measured"], verdict["met"]) == ("30%", False) and shape.bias
    assert "MISSED" in report.verdicts_as_text([verdict])


def test_the_plot_is_an_image(tmp_path: Path) -> None:
    rows = [
        (length, Row("search", str(length), 1, "native", {"native": spread(length), "torch": spread(9 * length)})) for length in (100, 1000)
    ]
    report.plot(tmp_path / "plot.png", rows, "title")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_device_lacks_is_named() -> None:
    ran = CliRunner().invoke(app, ["bench", "kernels", "--device", "cuda"])
    if not torch.cuda.is_available():
        assert isinstance(ran.exception, RuntimeError)
        assert str(ran.exception).startswith(("--device cuda needs triton", "--device cuda needs an NVIDIA GPU"))
    ran = CliRunner().invoke(app, ["bench", "kernels", "--device", "tpu"])
    assert isinstance(ran.exception, ValueError) and str(ran.exception) == "device must be cpu or cuda, got 'tpu'"
    ran = CliRunner().invoke(app, ["bench", "kernels", "--only", "no such row"])
    assert str(ran.exception).startswith("no row has 'no such row' in its name; there are\n  search 10,000 x 512")


def test_retrieval_is_measured_on_the_test_rows(tiny: Tiny) -> None:
    ran = CliRunner().invoke(
        app, ["bench", "retrieval", "--data", str(tiny.folder), "--artifacts", str(tiny.artifacts), "--targets", "40", "--json"]
    )
    assert ran.exit_code == 0, ran.output
    answer = json.loads(ran.stdout)
    assert answer["num_targets"] == 40 and [one["pool"] for one in answer["pools"]] == list(bench.POOLS)
    assert answer["pools"][0]["recall"] <= answer["pools"][-1]["recall"] and answer["retrieval"]["backend"] == "faiss"


def spread(median_ms: float) -> Spread:
    return Spread(median_ms, 0.9 * median_ms, 1.1 * median_ms, 10)
