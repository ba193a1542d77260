"""The ranking backends under test: the native one at every CPU level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kernels import BehaviorRows, HeadWeights, RankTables, TargetRows, native_library
from kernels.ranking.bfloat16 import to_bfloat16


@pytest.fixture
def at_level(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Force the native backend to a CPU level; skips where the library is not built or this CPU has not got the level."""

    def force(level: str) -> str:
        monkeypatch.setenv(native_library.LEVEL_VARIABLE, level)
        able, reason = native_library.can_run()
        if not able:
            pytest.skip(reason)
        return "native"

    return force


@pytest.fixture(params=["numpy", "native-scalar", "native-avx2", "native-avx512"])
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend, ready to run."""
    name, _, level = str(request.param).partition("-")
    return request.getfixturevalue("at_level")(level) if level else name


def _problem(
    n: int, k: int, length: int, extra: int, *, width: int = 16, seed: int = 0, scale: float = 1.0, kept: float = 0.9, bf16: bool = False
) -> dict[str, Any]:
    """Arguments of `pool_and_score`; `kept` is the share of real indices, which repeat where k is near or above `length`."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, std: float = 1.0) -> np.ndarray:
        return (std * rng.standard_normal(shape)).astype(np.float32)

    def rows(size: int, high: int) -> np.ndarray:
        return rng.integers(0, high, size).astype(np.int32)

    index = rng.integers(0, max(length, 1), (n, k)).astype(np.int32)
    index[rng.random((n, k)) >= (kept if length else 0.0)] = -1
    features, h1, h2 = 3 * (width + 5 + width) + 1 + extra, 40, 23
    tables = [normal(100, width), normal(30, 5), normal(20, width)]
    return {
        "index_NK": index,
        "score_NK": np.where(index >= 0, normal(n, k, std=scale), -np.inf).astype(np.float32),
        "tables": RankTables(*([to_bfloat16(table) for table in tables] if bf16 else tables)),
        "behavior": BehaviorRows(rows(length, 100), rows(length, 30), rows(length, 20)),
        "target": TargetRows(rows(n, 100), rows(n, 30)),
        "extra_NE": normal(n, extra),
        "head": HeadWeights(
            normal(features, h1, std=0.1), normal(h1), 0.25, normal(h1, h2, std=0.1), normal(h2), -0.1, normal(h2, std=0.2), 0.3
        ),
    }


@pytest.fixture(scope="session")
def problem() -> Callable[..., dict[str, Any]]:
    return _problem
