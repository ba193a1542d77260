"""Time of calls on a device by CUDA events, eager and replayed from a graph; by the clock on the CPU, where Triton is interpreted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

_WARM_UP = 3


def eager_us(calls: Sequence[Callable[[], object]], repeats: int, device: torch.device) -> list[float]:
    """Microseconds a call, one figure a round over all `calls`; each call has its own inputs."""
    for call in calls[:_WARM_UP]:
        call()

    def once() -> None:
        for call in calls:
            call()

    return [us / len(calls) for us in _timed(once, repeats, device)]


def graph_us(calls: Sequence[Callable[[], object]], repeats: int, device: torch.device) -> list[float]:
    """As `eager_us`, with all `calls` captured in one CUDA graph: the time of the device, launch gaps of the host left out."""
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for call in calls[:_WARM_UP]:
            call()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        for call in calls:
            call()
    graph.replay()
    return [us / len(calls) for us in _timed(graph.replay, repeats, device)]


def spread(times_us: Sequence[float]) -> dict[str, float]:
    """Median, fastest and slowest tenth, in microseconds. Raises: ValueError for no times."""
    if not times_us:
        raise ValueError("times_us must hold at least one time, got none")
    ordered = sorted(times_us)
    return {
        "median_us": statistics.median(ordered),
        "p10_us": ordered[len(ordered) // 10],
        "p90_us": ordered[min(len(ordered) - 1, 9 * len(ordered) // 10)],
    }


def _timed(run: Callable[[], object], repeats: int, device: torch.device) -> list[float]:
    found = []
    for _ in range(repeats):
        if device.type == "cuda":
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            torch.cuda.synchronize(device)
            before.record()
            run()
            after.record()
            after.synchronize()
            found.append(1e3 * before.elapsed_time(after))
        else:
            start = time.perf_counter()
            run()
            found.append(1e6 * (time.perf_counter() - start))
    return found
