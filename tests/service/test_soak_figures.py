"""Slopes of a soak: found where there are some, and not where there are none, although neighbours resemble each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.service.soak_figures import F64, Window, misses, slope, table

AT_S = np.arange(0.0, 1800.0, 10.0)
QUIET = Window(0.0, 250, 0, 8.0, 20.0, 1.0, 300.0, 200.0, 64.0, 48, 12, 26.0, 0.5)


def noise(seed: int, resemblance: float) -> F64:
    """Values of spread 1, each as much like the one before."""
    rng, value, values = np.random.default_rng(seed), 0.0, list[float]()
    for _ in AT_S:
        value = resemblance * value + (1 - resemblance**2) ** 0.5 * rng.normal()
        values.append(value)
    return np.array(values)


@pytest.mark.parametrize("resemblance", [0.0, 0.6])
def test_the_interval_holds_the_slope_about_as_often_as_it_says(resemblance: float) -> None:
    found = [slope(AT_S, 100 + 5 * AT_S / 3600 + noise(seed, resemblance)) for seed in range(60)]
    assert np.mean([one.per_h for one in found]) == pytest.approx(5.0, abs=0.5)
    assert 0.8 <= np.mean([one.low <= 5.0 <= one.high for one in found]) <= 1.0


def test_what_stays_is_flat_and_what_grows_is_not() -> None:
    assert slope(AT_S, np.full(len(AT_S), 12.0)).flat
    assert not slope(AT_S, 200 + 20 * AT_S / 3600 + noise(0, 0.6)).flat
    with pytest.raises(ValueError, match="at least 8 values, got 3"):
        slope(AT_S[:3], AT_S[:3])


def soaked(**per_h: float) -> list[Window]:
    """Half an hour in which these grow."""
    jitter = noise(1, 0.3)

    def value(name: str, more: float, place: int) -> float:
        return float(getattr(QUIET, name) * (1 + 0.002 * jitter[place]) + more * AT_S[place] / 3600)

    return [
        replace(QUIET, at_s=at_s, **{name: value(name, more, place) for name, more in per_h.items()}) for place, at_s in enumerate(AT_S)
    ]


def test_targets_are_missed_by_what_grows_alone() -> None:
    assert misses(soaked(resident_mb=1.0, anonymous_mb=-1.0, p50_ms=0.0), {}) == []
    assert len(misses(soaked(resident_mb=60.0, anonymous_mb=60.0, p50_ms=4.0), {"/v1/score: 503": 2})) == 4
    grown = [replace(window, descriptors=48 + place // 60) for place, window in enumerate(soaked())]
    assert misses(grown, {}) == ["at most 50 descriptors in the last quarter, 49 in the first"]
    assert "| open descriptors | 48.0 |" in table(soaked())
