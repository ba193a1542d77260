"""What is loaded, at which level, and what is said when it cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kernels import lookup_backends, native_library, ranking_backends

MEGABYTES = 1_000_000


@pytest.fixture
def built() -> None:
    if native_library.library()[0] is None:
        pytest.skip(native_library.library()[1])


@pytest.mark.usefixtures("built")
def test_the_best_level_is_the_first_that_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    best, reason = native_library.level()
    assert reason == "the best of this CPU"
    able = []
    for name in native_library.LEVELS:
        monkeypatch.setenv(native_library.LEVEL_VARIABLE, name)
        found, why = native_library.level()
        assert (found, why) in [(name, "DARE_CPU_LEVEL names it"), (None, f"DARE_CPU_LEVEL={name}: this CPU cannot run it")]
        able += [name] if found else []
    assert able[0] == best and able[-1] == "scalar"
    assert able == list(native_library.LEVELS)[-len(able) :], "a CPU that runs a level runs all below it"


@pytest.mark.usefixtures("built")
def test_a_level_nobody_knows_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native_library.LEVEL_VARIABLE, "sse9")
    expected = (False, "DARE_CPU_LEVEL must be one of avx512-vnni, avx512, avx2, scalar, got 'sse9'")
    assert native_library.can_run() == ranking_backends()["native"] == lookup_backends()["native"] == expected


def test_without_the_library_the_record_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "PATH", tmp_path / "_native.so")
    monkeypatch.setattr(native_library, "RECORD", tmp_path / "_native_build.txt")
    assert native_library.can_run() == (False, "_native.so not built: the package was not installed (make setup)")
    native_library.RECORD.write_text("not built: no C++ compiler works: g++ is not installed\n")
    assert ranking_backends()["native"] == (False, "_native.so not built: no C++ compiler works: g++ is not installed")


@pytest.mark.parametrize("content", [b"", b"not a library"])
def test_a_damaged_library_is_a_reason_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(native_library, "PATH", tmp_path / "_native.so")
    native_library.PATH.write_bytes(content)
    able, reason = native_library.can_run()
    assert not able and reason.startswith("_native.so cannot be loaded: ")


@pytest.mark.usefixtures("built")
def test_a_library_of_other_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an update without a build its structs would be read as those of today."""
    native_library._load.cache_clear()
    (tmp_path / "search" / "native").mkdir(parents=True)
    (tmp_path / "search" / "native" / "search.cpp").write_text("// another version\n")
    monkeypatch.setattr(native_library, "FOLDER", tmp_path)
    monkeypatch.setattr(native_library, "_last", [None])
    able, reason = native_library.can_run()
    assert not able and reason.endswith(": make setup") and "other sources" in reason
    monkeypatch.setattr(native_library, "FOLDER", tmp_path / "none")  # installed without sources
    assert native_library.can_run()[0]
    native_library._load.cache_clear()


def test_the_package_is_small() -> None:
    folder = native_library.PATH.parent
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 5 * MEGABYTES


def test_importing_is_quick_and_brings_no_framework() -> None:
    """NumPy is every caller's own; what comes on top must stay under what NumPy takes (a tenth of a second; on a slow machine more), of
    processor time, at the best of five tries."""
    program = (
        "import json, sys, time; start = time.process_time(); import numpy; between = time.process_time(); import kernels;"
        "took = [between - start, time.process_time() - between];"
        "print(json.dumps([took, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    took_s = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        durations, modules = json.loads(done.stdout)
        assert not {"torch", "faiss", "onnxruntime", "triton", "scipy", "polars"} & set(modules)
        took_s.append(durations)
    numpy_s, ours_s = zip(*took_s, strict=True)
    assert min(ours_s) < min(numpy_s), took_s
