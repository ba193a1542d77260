"""What a soak measured: slopes with their confidence, a verdict, a report and a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

WARM_UP_SHARE = 0.2
"""Beginning of a soak that the slopes leave out: caches fill."""
MOST_MEMORY_GROWTH = 0.05
"""Of the mean, per hour: what the upper end of the confidence interval may reach."""
LEAST_WINDOWS = 12
"""Of a soak: a slope needs 8 after the warm-up."""
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Window:
    """Some seconds of load, and what the service's process held at their end. `at_s` since the soak began; memory in MB (10^6 bytes);
    `cached_mb` is what the service itself counts as prepared users; `late_p99_ms` is the generator's own delay."""

    at_s: float
    sent: int
    failed: int
    p50_ms: float
    p99_ms: float
    late_p99_ms: float
    resident_mb: float
    anonymous_mb: float
    cached_mb: float
    descriptors: int
    threads: int
    store_mb: float
    machine_load: float


@dataclass(frozen=True, slots=True)
class Slope:
    """Least-squares change per hour with its 95 % confidence interval, in the unit of the values, and their mean."""

    per_h: float
    low: float
    high: float
    mean: float

    @property
    def flat(self) -> bool:
        """Whether a slope of 0 is within the interval, or as good as: a millionth of the mean."""
        near = 1e-6 * abs(self.mean)
        return self.low <= near and self.high >= -near

    def __str__(self) -> str:
        return f"{self.per_h:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def slope(at_s: F64, value: F64, seed: int = 0) -> Slope:
    """The slope of `value` over time. Neighbouring values depend on each other, so the interval comes from residuals resampled in blocks
    (moving-block bootstrap, Kuensch 1989; block length sqrt(n)).

    Raises: ValueError for fewer than 8 values.
    """
    if len(value) < 8:
        raise ValueError(f"a slope needs at least 8 values, got {len(value)}")
    centred_h = (at_s - at_s.mean()) / 3600
    spread = float((centred_h**2).sum())
    per_h = float((centred_h * value).sum() / spread)
    residual = value - value.mean() - per_h * centred_h
    block = max(2, round(len(value) ** 0.5))
    rng = np.random.default_rng(seed)
    first = rng.integers(0, len(value) - block + 1, (_RESAMPLES, -(-len(value) // block)))
    resampled = residual[(first[:, :, None] + np.arange(block)).reshape(_RESAMPLES, -1)[:, : len(value)]]
    slopes = per_h + (resampled - resampled.mean(axis=1, keepdims=True)) @ centred_h / spread
    low, high = np.percentile(slopes, [2.5, 97.5])
    return Slope(per_h, float(low), float(high), float(value.mean()))


def settled(windows: Sequence[Window]) -> list[Window]:
    """The windows after the warm-up."""
    return [window for window in windows if window.at_s >= WARM_UP_SHARE * windows[-1].at_s]


def slopes(windows: Sequence[Window]) -> dict[str, Slope]:
    """The slope of each quantity that must not grow, after the warm-up."""
    kept = settled(windows)
    at_s = np.array([window.at_s for window in kept])
    quantities: dict[str, Callable[[Window], float]] = {
        "resident memory, MB": lambda window: window.resident_mb,
        "anonymous memory, MB": lambda window: window.anonymous_mb,
        "open descriptors": lambda window: window.descriptors,
        "threads": lambda window: window.threads,
        "latency p50, ms": lambda window: window.p50_ms,
        "latency p99, ms": lambda window: window.p99_ms,
    }
    return {name: slope(at_s, np.array([read(window) for window in kept], dtype=np.float64)) for name, read in quantities.items()}


def misses(windows: Sequence[Window], errors: dict[str, int]) -> list[str]:
    """What the soak did not reach: memory that may grow by more than 5 % an hour, latency that surely grows, descriptors, errors."""
    found, measured, kept = [], slopes(windows), settled(windows)
    for name in ("resident memory, MB", "anonymous memory, MB"):
        if measured[name].high > MOST_MEMORY_GROWTH * measured[name].mean:
            found.append(f"{name}: {measured[name]} per hour may be more than {MOST_MEMORY_GROWTH:.0%} of {measured[name].mean:.0f}")
    found += [f"{name}: {measured[name]} per hour" for name in ("latency p50, ms", "latency p99, ms") if measured[name].low > 0]
    quarter = max(1, len(kept) // 4)
    first, last = (max(window.descriptors for window in part) for part in (kept[:quarter], kept[-quarter:]))
    if last > first:
        found.append(f"at most {last} descriptors in the last quarter, {first} in the first")
    found += [f"{count} times {kind}" for kind, count in errors.items()]
    return found


def table(windows: Sequence[Window]) -> str:
    """The slopes as rows of a Markdown table, per hour and as a share of the mean."""
    rows = ["| after the warm-up | mean | slope per hour [95 %] | of the mean | |", "|---|---:|---:|---:|---|"]
    for name, found in slopes(windows).items():
        share = found.per_h / found.mean if found.mean else 0.0
        rows.append(f"| {name} | {found.mean:.1f} | {found} | {share:+.1%} | {'flat' if found.flat else 'not flat'} |")
    return "\n".join(rows)


def plot(windows: Sequence[Window], file: Path) -> None:
    """Draw memory, latency and descriptors over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    minutes = [window.at_s / 60 for window in windows]
    figure, axes = pyplot.subplots(3, 1, figsize=(9, 8), sharex=True, constrained_layout=True)
    axes[0].plot(minutes, [window.resident_mb for window in windows], label="resident")
    axes[0].plot(minutes, [window.anonymous_mb for window in windows], label="anonymous")
    axes[0].plot(minutes, [window.cached_mb for window in windows], label="prepared users")
    axes[0].set_ylabel("MB")
    axes[1].plot(minutes, [window.p50_ms for window in windows], label="p50")
    axes[1].plot(minutes, [window.p99_ms for window in windows], label="p99")
    axes[1].set_yscale("log")
    axes[1].set_ylabel("latency, ms")
    axes[2].plot(minutes, [window.descriptors for window in windows], label="open descriptors")
    axes[2].plot(minutes, [window.threads for window in windows], label="threads")
    axes[2].set_xlabel("minutes")
    for axis in axes:
        axis.axvspan(0, WARM_UP_SHARE * minutes[-1], alpha=0.1, color="grey")
        axis.legend(loc="upper left")
        axis.set_ylim(bottom=None if axis is axes[1] else 0)
    figure.savefig(file, dpi=100)
    pyplot.close(figure)
