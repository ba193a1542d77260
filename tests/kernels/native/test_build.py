"""setup.py compiles with what there is, and installs, saying so, where there is nothing."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """setup.py as a module: it sets nothing up unless it is run."""
    pytest.importorskip("setuptools", reason="setuptools is needed to build, not to run")
    spec = importlib.util.spec_from_file_location("dare_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A build of the smallest source alone."""
    monkeypatch.setattr(build, "sources", lambda: [ROOT / "kernels/native/cpu_level.cpp"])
    return build


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing here"))


def test_every_source_is_compiled(build: ModuleType) -> None:
    found = {source.relative_to(ROOT).as_posix() for source in build.sources()}
    assert found == {path.relative_to(ROOT).as_posix() for path in (ROOT / "kernels").rglob("*.cpp")}
    assert {"kernels/native/cpu_level.cpp", "kernels/ranking/native/rank.cpp", "kernels/lookup/native/lookup.cpp"} <= found


def test_the_makefile_rebuilds_when_a_source_changes() -> None:
    text = (ROOT / "Makefile").read_text()
    assert "NATIVE := $(wildcard kernels/native/*.?pp kernels/*/native/*.?pp)" in text
    assert "$(NATIVE)" in next(line for line in text.splitlines() if line.startswith("$(STAMP):"))


def test_a_system_compiler_builds_a_library_with_a_c_abi(small: ModuleType, tmp_path: Path) -> None:
    if small.system_compiler()[0] is None:
        pytest.skip(small.system_compiler()[1])
    assert small.build(tmp_path).startswith("built by ")
    library = ctypes.CDLL(str(tmp_path / small.LIBRARY))
    assert library.dare_cpu_runs(0) == 1 and library.dare_cpu_runs(99) == 0 and library.dare_cpu_runs(-1) == 0
    assert not hasattr(library, "_Z8cpu_runsi"), "what is not of the ABI is hidden"


@pytest.mark.usefixtures("no_compiler")
def test_without_any_compiler_the_build_says_so_and_goes_on(small: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    (tmp_path / small.LIBRARY).write_bytes(b"of an earlier build")
    record = small.build(tmp_path)
    assert record == (
        "not built: no C++ compiler works: g++ is not installed; c++ is not installed; clang++ is not installed; ziglang is not installed"
    )
    assert (tmp_path / small.RECORD).read_text().strip() == record
    assert not (tmp_path / small.LIBRARY).exists(), "a library of other sources may not stay"


@pytest.mark.usefixtures("no_compiler")
def test_zig_is_asked_for_only_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = _build_backend()
    assert "ziglang>=0.13" in backend.get_requires_for_build_wheel()
    assert "ziglang>=0.13" in backend.get_requires_for_build_editable()
    monkeypatch.undo()
    if shutil.which("g++") or shutil.which("c++") or shutil.which("clang++"):
        assert "ziglang>=0.13" not in backend.get_requires_for_build_wheel()


def test_a_compiler_named_by_cxx_is_the_only_one_tried(small: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    assert small.system_compiler() == (None, "no-such-compiler is not installed")
    monkeypatch.setenv("CXX", "false")
    assert small.system_compiler() == (None, "false cannot compile C++17: no message")


def test_a_source_that_does_not_compile_is_reported(small: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if small.system_compiler()[0] is None:
        pytest.skip(small.system_compiler()[1])
    broken = tmp_path / "kernels" / "native" / "broken.cpp"
    broken.parent.mkdir(parents=True)
    broken.write_text("int broken( {\n")
    monkeypatch.setattr(small, "sources", lambda: [broken])
    record = small.build(tmp_path)
    assert record.startswith("not built: ") and " failed: " in record
    assert not (tmp_path / small.LIBRARY).exists()


def _build_backend() -> ModuleType:
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module("build_backend")
    finally:
        sys.path.remove(str(ROOT))
