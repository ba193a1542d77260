"""`kernels` stays small: the GPU's packages are imported by those who ask for `kernels.gpu.search` or `kernels.gpu.ranking` alone."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from kernels import gpu
from kernels.search import triton_backend

ROOT = Path(__file__).parents[3]


def loaded(statement: str) -> list[str]:
    """Which of torch and triton a fresh interpreter has loaded after `statement`."""
    code = f"import sys; {statement}; print(*sorted({{'torch', 'triton'}} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()


@pytest.mark.parametrize("statement", ["import kernels", "import kernels.gpu", "import kernels; kernels.search_backends()"])
def test_neither_torch_nor_triton_is_imported(statement: str) -> None:
    assert loaded(statement) == []


def test_the_search_backend_says_whether_it_can_run_without_importing_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    said = triton_backend._installed.__wrapped__
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else object())
    assert said() == (False, "triton is not installed (extra: gpu)")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))
    assert said() == (False, "there is no NVIDIA device") or Path("/dev/dxg").exists()
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter((Path("/dev/nvidia0"),)))
    assert said() == (True, "Triton on an NVIDIA device")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    able, reason = said()
    assert able and "interpreter" in reason


def test_it_says_whether_it_can_run_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    able, reason = gpu.can_run()
    missing = [package for package in ("torch", "triton") if importlib.util.find_spec(package) is None]
    if missing:
        assert not able and reason == f"{missing[0]} is not installed"
    elif not able:
        assert "CUDA device" in reason or "compute capability" in reason
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else object())
    assert gpu.can_run() == (False, "triton is not installed")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    able, reason = gpu.can_run()
    assert able and "interpreter" in reason
