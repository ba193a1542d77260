"""Further versions of the small world's model: the same but for the last bias, so that every score tells which version gave it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from tests.conftest import Tiny


def with_versions(tiny: Tiny, folder: Path, *shifts: float) -> list[str]:
    """Copy the artifact into `folder`, and add a version per shift of the head's last bias; returns all names, the original first."""
    shutil.copytree(tiny.artifacts, folder)
    names = [tiny.version]
    for place, shift in enumerate(shifts):
        names.append(f"variant-{place}")
        shutil.copytree(folder / tiny.version, folder / names[-1])
        bias = np.load(folder / names[-1] / "head_b3.npy")
        rewrite(folder / names[-1], "head_b3", bias + np.float32(shift))
    return names


def rewrite(version: Path, name: str, value: np.ndarray) -> None:
    """Replace an array and seal the manifest again: what a version looks like that was written so from the start."""
    np.save(version / f"{name}.npy", value)
    manifest = json.loads((version / "manifest.json").read_text())
    content = (version / f"{name}.npy").read_bytes()
    manifest["files"][f"{name}.npy"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest["version"] = version.name
    (version / "manifest.json").write_text(json.dumps(manifest))
