"""`dare bench`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kernels import search_backends
from service.bench import grid, hardware, report
from service.bench.measure import (
    LOOKUP_TWO_THREADS,
    Row,
    approximate_rows,
    hot_loop_row,
    lookup_row,
    overhead_row,
    ranking_row,
    request_row,
    search_row,
)
from service.commands.terminal import console, emit, progress_bar, table

POOLS = (100, 200, 500, 1000, 2000, 4000)
"""Sizes of the pool that `dare bench retrieval` measures."""


def bench_kernels(device: str, seconds: float, only: str | None, out: Path | None, as_json: bool) -> None:
    """See `dare bench kernels`. Raises: ValueError for an unknown device; RuntimeError naming what a device lacks."""
    if device == "cuda":
        from service.bench.cuda import bench_cuda

        bench_cuda(out, as_json)
        return
    if device != "cpu":
        raise ValueError(f"device must be cpu or cuda, got {device!r}")
    with _one_pool_at_a_time():
        _bench_cpu(seconds, only, out, as_json)


def bench_retrieval(data: Path, artifacts: Path, version: str | None, targets: int, as_json: bool) -> None:
    """See `dare bench retrieval`."""
    from model.pool_recall import pool_recall
    from model.runtime import ScoringRuntime
    from service.commands.data import read

    runtime = ScoringRuntime.load(artifacts, version)
    log = read(data, False)
    with progress_bar() as bar:
        task = bar.add_task("retrieving for the test rows", total=None, note="")
        found = pool_recall(runtime, log, POOLS, most=targets, report=lambda done, total: bar.update(task, completed=done, total=total))
    answer = {"model_version": runtime.version, "retrieval": runtime.describe()["retrieval"], **found}
    table(f"{found['num_targets']:,} test targets of {data}: share in the pool", found["pools"])
    emit(answer, as_json)


def _bench_cpu(seconds: float, only: str | None, out: Path | None, as_json: bool) -> None:
    machine = hardware.describe()
    left_out = _left_out()
    rows: list[Row] = []
    for title, measure in _jobs(seconds):
        if only is None or only in title:
            with console.status(f"{title}"):
                rows.append(measure())
            console.print(report.as_text(rows[-1]), "\n", markup=False, highlight=False, soft_wrap=True)
    plotted = [(length, _plot_row(length, seconds / 2)) for length in grid.LENGTHS_OF_THE_PLOT] if only is None else []
    if not rows:
        raise ValueError(f"no row has {only!r} in its name; there are\n  " + "\n  ".join(title for title, _ in _jobs(seconds)))
    study = approximate_rows(grid.PLAIN) if only is None else []
    verdicts = _verdicts(rows, machine)
    answer = {
        "machine": machine,
        "left_out": left_out,
        "rows": [report.as_json(row) for row in rows],
        "time_against_length": [report.as_json(row) | {"length": length} for length, row in plotted],
        "approximate": study,
        "wanted": verdicts,
    }
    text = "\n\n".join(
        [
            "\n".join(f"{name}: {value}" for name, value in machine.items()),
            "Each figure: one process, entries taking turns, inputs of four users rotating, answers checked against float64 first.\n"
            "Keys, tables and weights are prepared once for everyone, as a server keeps them.",
            *(f"left out: {name}: {reason}" for name, reason in left_out.items()),
            *(report.as_text(row) for row in rows),
            *(report.as_text(row) for _, row in plotted),
            _study_text(study),
            report.verdicts_as_text(verdicts),
        ]
    )
    if verdicts:
        console.print(report.verdicts_as_text(verdicts), markup=False, highlight=False, soft_wrap=True)
    if study:
        table(f"approximate search with faiss, {grid.PLAIN}, one thread", study)
    if out is not None:
        stem = report.stem("kernels-cpu")
        files = report.write(out, stem, text, answer)
        if plotted and importlib.util.find_spec("matplotlib") is not None:
            files.append(out / f"{stem}.png")
            report.plot(files[-1], plotted, f"Exact search, {grid.TARGETS_OF_THE_PLOT} targets, d 16, K 50, one thread")
        console.print("written: " + ", ".join(str(file) for file in files), soft_wrap=True)
    emit(answer, as_json)


def _jobs(seconds: float) -> list[tuple[str, Callable[[], Row]]]:
    """Every row of the benchmark by title, in order."""
    jobs: list[tuple[str, Callable[[], Row]]] = []
    for threads in grid.THREADS:
        several = f", {threads} thread{'s' if threads > 1 else ''}"
        for one in grid.SEARCH:
            jobs.append((f"search {one.shape}{several}", lambda s=one.shape, t=threads: search_row(s, t, seconds, search_rivals(t))))  # type: ignore[misc]
        pairs = (
            {"plain": grid.PLAIN, "with position bias": grid.BIASED},
            {"category scores looked up": grid.LOOKED_UP, "keys widened by 16 for the category": grid.WIDENED},
        )
        for pair in pairs:
            jobs.append((f"search {' / '.join(pair)}{several}", lambda p=pair, t=threads: overhead_row(p, t, seconds)))  # type: ignore[misc]
        for shape, _ in grid.RANKING:
            jobs.append((f"ranking {shape}{several}", lambda s=shape, t=threads: ranking_row(s, t, seconds, ranking_rivals(t))))  # type: ignore[misc]
        for wanted, _ in grid.REQUESTS:
            jobs.append((f"request {wanted}{several}", lambda s=wanted, t=threads: request_row(s, t, seconds, request_rivals(t))))  # type: ignore[misc]
    if search_backends()["native"][0]:
        jobs.append(("search hot loop, 1 thread", lambda: hot_loop_row(grid.HOT_LOOP, seconds)))
    jobs.append(("lookup 100,000 among 10 million", lambda: lookup_row(10_000_000, 100_000, seconds)))
    return jobs


def search_rivals(threads: int) -> dict[str, Any]:
    """Who searches exactly beside us, as far as installed."""
    found: dict[str, Any] = {}
    if _installed("torch"):
        from service.bench.torch_rivals import TorchSearch

        found["torch"] = TorchSearch(threads, two_level=False)
        found["torch two-level"] = TorchSearch(threads, two_level=True)
    if _installed("faiss"):
        from service.bench.faiss_rival import FaissSearch

        found["faiss.knn"] = FaissSearch(threads)
    if _installed("onnxruntime") and _installed("onnx"):
        from service.bench.onnxruntime_rivals import OnnxSearch

        found["onnxruntime"] = OnnxSearch(threads)
    return found


def ranking_rivals(threads: int) -> dict[str, Any]:
    """Who ranks beside us, as far as installed."""
    found: dict[str, Any] = {}
    if _installed("torch"):
        from service.bench.torch_rivals import TorchRank

        found["torch naive"] = TorchRank(threads, naive=True)
        found["torch embedding_bag"] = TorchRank(threads, naive=False)
    if _installed("onnxruntime") and _installed("onnx"):
        from service.bench.onnxruntime_rivals import OnnxRank

        found["onnxruntime"] = OnnxRank(threads)
    return found


def request_rivals(threads: int) -> dict[str, Any]:
    """Both stages in torch: the obvious way, and the best way known with each form of search."""
    if not _installed("torch"):
        return {}
    from service.bench.torch_rivals import TorchRequest

    return {
        "torch naive": TorchRequest(threads, naive=True, two_level=False),
        "good torch": TorchRequest(threads, naive=False, two_level=False),
        "good torch two-level": TorchRequest(threads, naive=False, two_level=True),
    }


def _plot_row(length: int, seconds: float) -> Row:
    from kernels.bench.search_bench import SearchShape

    shape = SearchShape(length, grid.TARGETS_OF_THE_PLOT, grid.WIDTH_OF_THE_PLOT, min(grid.KEPT_OF_THE_PLOT, length))
    with console.status(f"plot: {shape}"):
        return search_row(shape, 1, seconds, search_rivals(1))


def _verdicts(rows: list[Row], machine: dict[str, Any]) -> list[dict[str, Any]]:
    wanted: dict[tuple[str, str], dict[str, float]] = {("search", str(one.shape)): one.wanted for one in grid.SEARCH}
    wanted |= {("ranking", str(shape)): dict(ratios) for shape, ratios in grid.RANKING}
    wanted |= {("request", f"{shape}, R {grid.REPRESENTATION}"): ratios for shape, ratios in grid.REQUESTS}
    found: list[dict[str, Any]] = []

    def verdict(row: Row, what: str, least: str, measured: str, met: bool) -> None:
        found.append({"what": f"{row.stage} {row.title}, {row.threads} threads: {what}", "wanted": least, "measured": measured, "met": met})

    for row in rows:
        for rival, least in wanted.get((row.stage, row.title), {}).items():
            # The best of several forms of one rival is the one to beat.
            forms = [name for name in row.spreads if name == rival or (rival == "best torch" and name.startswith("good torch"))]
            if forms:
                ratio = min(row.ratio(name) for name in forms)
                verdict(row, f"against {rival}", f">= {least:g}x", f"{ratio:.1f}x", ratio >= least)
        if "with position bias" in row.spreads:
            more = row.ratio("with position bias") - 1
            verdict(row, "overhead", f"<= {grid.MOST_BIAS_OVERHEAD:.0%}", f"{more:.0%}", more <= grid.MOST_BIAS_OVERHEAD)
        if "category scores looked up" in row.spreads:
            ratio = row.ratio("keys widened by 16 for the category")
            verdict(row, "look-up against widening", "> 1x", f"{ratio:.2f}x", ratio > 1)
        for name in ("native", LOOKUP_TWO_THREADS) if row.stage == "lookup" else ():
            if name in row.spreads:
                found_ms = row.spreads[name].median_ms
                verdict(row, f"{name}, median", f"<= {grid.MOST_LOOKUP_MS:g} ms", f"{found_ms:.2f} ms", found_ms <= grid.MOST_LOOKUP_MS)
        peak = machine["peak_gops_of_one_core"]["int8"]
        if row.title == "hot loop" and peak:
            shape, least_share = grid.HOT_LOOP, grid.LEAST_SHARE_OF_PEAK
            share = 2e-6 * shape.length * shape.targets * shape.width / row.spreads["hot loop"].p10_ms / peak
            verdict(row, f"{shape}, share of the int8 peak", f">= {least_share:.0%}", f"{share:.0%}", share >= least_share)
    return found


def _study_text(study: list[dict[str, Any]]) -> str:
    lines = [f"approximate search with faiss, {grid.PLAIN}, one thread"]
    for one in study:
        figures = f"build {one['build_ms']:8.1f} ms   search {one['search_ms']:8.2f} ms   recall {one['recall']:.3f}"
        lines.append(f"  {one['index']:6} {figures}")
    return "\n".join(lines) if study else ""


def _left_out() -> dict[str, str]:
    needs = {"torch": ("torch",), "faiss.knn": ("faiss",), "onnxruntime": ("onnxruntime", "onnx"), "plot": ("matplotlib",)}
    missing = {name: [package for package in packages if not _installed(package)] for name, packages in needs.items()}
    return {name: f"not installed: {', '.join(packages)}" for name, packages in missing.items() if packages}


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@contextmanager
def _one_pool_at_a_time() -> Iterator[None]:
    """NumPy's own BLAS threads are held to one, where threadpoolctl can: they would spin against the threads that are measured."""
    if not _installed("threadpoolctl"):
        yield
        return
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield
