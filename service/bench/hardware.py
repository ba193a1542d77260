"""Where and of what a result is: the machine, the commit, the versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from kernels import native_library
from kernels.bench.peak import KINDS, peak_ops_per_s

_PACKAGES = ("numpy", "torch", "faiss-cpu", "faiss-gpu-cu12", "onnxruntime", "triton")


def describe() -> dict[str, Any]:
    """CPU, cores, compiled library and level, measured peaks in Gop/s, load, versions, commit and time (UTC)."""
    level, reason = native_library.level()
    peaks = {kind: peak_ops_per_s(kind) for kind in KINDS}
    return {
        "when": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "commit": commit(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "library": native_library.build_record(),
        "level": level or f"none: {reason}",
        "peak_gops_of_one_core": {kind: None if peak is None else round(peak / 1e9, 1) for kind, peak in peaks.items()},
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def commit() -> str:
    """The commit of the source tree, with "+ changes" where files differ from it; the package's version where there is no repository."""

    def git(*command: str) -> str:
        done = subprocess.run(["git", *command], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        found = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "kernels", "model")
    except (OSError, subprocess.CalledProcessError):
        return f"dare-serving {_version('dare-serving')}"
    return f"{found} + changes" if changed else found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    return f"{fields.get('model name', platform.machine())} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')})"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
