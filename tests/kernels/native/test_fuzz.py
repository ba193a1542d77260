"""A short run of the random calls, and of one operation under the sanitizers; `make sanitize` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kernels import native_library
from tests.kernels.native import fuzz, sanitize


def test_random_calls_equal_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    if native_library.library()[0] is None:
        pytest.skip(native_library.library()[1])
    calls = fuzz.run(2.0, 1, lambda level: monkeypatch.setenv(native_library.LEVEL_VARIABLE, level))
    assert calls > 20


def test_a_difference_is_reported_with_what_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(rng: fuzz.Random) -> None:
        assert rng.random() < 0.5, "another row"

    monkeypatch.setattr(fuzz, "operations", lambda: {"lookup": wrong})
    monkeypatch.setattr(fuzz, "levels", lambda: ["scalar"])
    with pytest.raises(AssertionError, match=r"wrong at scalar, seed \[7, \d+\]: another row"):
        fuzz.run(5.0, 7, lambda level: None)


def test_the_look_up_stays_within_its_arrays(tmp_path: Path) -> None:
    """The window that is read at once is where an end could be overrun."""
    try:
        library = sanitize.build(tmp_path / "_native.so", only="lookup")
    except SystemExit as error:
        pytest.skip(f"no sanitizers here: {str(error)[-200:]}")
    fuzzed = [sys.executable, "-m", "tests.kernels.native.fuzz", "--library", str(library), "--only", "lookup", "--seconds", "1"]
    done = subprocess.run(fuzzed, cwd=sanitize.ROOT, env=sanitize.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no difference" in done.stdout
