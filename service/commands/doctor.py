"""`dare doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

from kernels import candidates_backends, features_backends, lookup_backends, native_library, ranking_backends, search_backends
from model.artifact import Artifact, ArtifactError, current_version, versions
from model.artifact_layout import check_layout
from service.commands.terminal import console, emit, table

_PACKAGES = ("numpy", "fastapi", "uvicorn", "msgspec", "onnxruntime", "onnxruntime-gpu", "faiss-cpu", "faiss-gpu-cu12", "torch", "polars")
_CLASHES = (("onnxruntime", "onnxruntime-gpu"), ("faiss-cpu", "faiss-gpu-cu12"))


def doctor_command(artifacts: Path, as_json: bool) -> None:
    """See `dare doctor`. Exits with 1 when something is wrong."""
    found = {name: _version(name) for name in _PACKAGES}
    problems = [
        f"{first} and {second} are both installed and break each other: pip uninstall -y {first} {second}, then install the one you want"
        for first, second in _CLASHES
        if found[first] and found[second]
    ]
    models, unsound = _models(artifacts)
    problems += unsound
    report: dict[str, Any] = {
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "packages": found,
        "search_backends": {name: list(why) for name, why in search_backends().items()},
        "ranking_backends": {name: list(why) for name, why in ranking_backends().items()},
        "lookup_backends": {name: list(why) for name, why in lookup_backends().items()},
        "candidates_backends": {name: list(why) for name, why in candidates_backends().items()},
        "features_backends": {name: list(why) for name, why in features_backends().items()},
        "native_library": native_library.build_record(),
        "models": models,
        "problems": problems,
    }
    table("Packages", [{"package": name, "version": version or "not installed"} for name, version in found.items()])
    for kind in ("search", "ranking", "lookup", "features", "candidates"):
        rows = [{"backend": name, "runs": "yes" if able else "no", "why": why} for name, (able, why) in report[f"{kind}_backends"].items()]
        table(f"Backends of {kind}, in the order of preference", rows)
    console.print(f"compiled library: {report['native_library']}", markup=False, soft_wrap=True)
    table(f"Models in {artifacts}", models or [{"version": "none", "state": "train one with `dare train`"}])
    console.print("\n".join(f"problem: {text}" for text in problems) or "no problem found", markup=False, soft_wrap=True)
    emit(report, as_json)
    if problems:
        raise SystemExit(1)


def _models(artifacts: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Every version with its state, and what is wrong: what `dare serve` would refuse."""
    found, problems = versions(artifacts), []
    try:
        current = current_version(artifacts)
    except ArtifactError as error:
        current = None
        if found:
            problems.append(str(error))
    if current is not None and current not in found:
        problems.append(f"{artifacts}: CURRENT names {current!r}, which is not there; versions are {', '.join(found) or 'none'}")
    models = []
    for version in found:
        try:
            check_layout(Artifact(artifacts, version))
            models.append({"version": version, "state": "sound, current" if version == current else "sound"})
        except ArtifactError as error:
            models.append({"version": version, "state": str(error)})
            problems.append(str(error))
    return models, problems


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
