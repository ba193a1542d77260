"""All of a version verified in a process of its own: `python -m model.verification ARTIFACTS VERSION`.

Prints the version's fingerprint (`model/artifact.py`), as it was before anything was read, and ends with 0; or prints why the version is
refused and ends with 1. What serves meanwhile lends neither its processor time, where the process has a low priority, nor its interpreter.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from model.artifact import Artifact, ArtifactError, fingerprint
from model.artifact_layout import check_layout

REFUSED = 1


def verify(artifacts: Path, version: str) -> str:
    """Read every file of the version and compare it with its checksum, search every array for NaN and infinity, and check their layout.

    Returns: the fingerprint, for `Artifact(..., verified=)`. Raises: ArtifactError.
    """
    before = fingerprint(artifacts, version)
    artifact = Artifact(artifacts, version)
    for name in artifact.files:
        if name.endswith(".npy"):
            artifact.array(name.removesuffix(".npy"))
    check_layout(artifact)
    return before


def main(arguments: Sequence[str]) -> int:
    """Verify the version that the arguments name; returns the exit status."""
    try:
        print(verify(Path(arguments[0]), arguments[1]))
    except ArtifactError as error:
        print(error)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
