"""LitServe as a side of `dare bench serve`, from an environment of its own: its packages are not ours to choose."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.bench.sides import Side, free_port, started

ENVIRONMENT = Path("build/litserve")
_ROOT = Path(__file__).resolve().parents[2]


def can_run(environment: Path) -> tuple[bool, str]:
    """Whether the environment holds LitServe for this Python: its version, or why not and what to do."""
    python = _python(environment)
    make = f"{Path(sys.executable).name} -m venv {environment} && {environment}/bin/pip install litserve"
    if not python.exists():
        return False, f"there is no environment {environment}; make it with: {make}"
    code = "import importlib.metadata, sys; print(importlib.metadata.version('litserve'), sys.version_info[:2] == " + (
        f"{tuple(sys.version_info[:2])})"
    )
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if asked.returncode:
        return False, f"{environment} holds no LitServe; make it with: {make}"
    version, same = asked.stdout.split()
    return same == "True", f"LitServe {version}" if same == "True" else f"{environment} is of another Python; make it with: {make}"


@contextmanager
def litserve(environment: Path, artifacts: Path, histories: Path, cores: int) -> Iterator[Side]:
    """The torch model behind LitServe, an inference process for each core. It finds our packages behind its own."""
    port = free_port()
    command = ["-m", "service.bench.litserve_server", str(artifacts), str(histories), str(port), str(cores)]
    paths = {"PYTHONPATH": os.pathsep.join([str(_ROOT), sysconfig.get_path("purelib")])}
    with started([str(_python(environment)), *command], paths | {"OMP_NUM_THREADS": "1"}, port) as pid:
        yield Side(f"LitServe + torch, {cores} process{'es' * (cores > 1)}", port, pid)


def _python(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
