"""A version damaged anywhere is never loaded, and a change of versions that is killed half way leaves one that loads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.artifact import Artifact, ArtifactError, current_version
from tests.conftest import Tiny
from tests.service.model_versions import with_versions

Figure = Callable[[int, str], None]


def refusals(tiny: Tiny, folder: Path, each: int) -> int:
    """Truncate and flip bits all over a version, one at a time; returns how many of these were refused."""
    (name,) = with_versions(tiny, folder)
    rng, refused = np.random.default_rng(5), 0
    files = sorted((folder / name).iterdir())
    for case in range(2 * each):
        file = files[case % len(files)]
        whole = file.read_bytes()
        place = int(rng.integers(len(whole)))
        flipped = bytes([whole[place] ^ (1 << int(rng.integers(8)))])
        file.write_bytes(whole[:place] if case < each else whole[:place] + flipped + whole[place + 1 :])
        with pytest.raises(ArtifactError):
            Artifact(folder, name)
        refused += 1
        file.write_bytes(whole)
    Artifact(folder, name)
    return refused


def test_every_truncation_and_every_flipped_bit_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    assert refusals(tiny, tmp_path / "a", 60) == 120


@pytest.mark.faults
def test_200_truncations_and_200_flipped_bits(tiny: Tiny, tmp_path: Path, figure: Figure) -> None:
    figure(7, f"{refusals(tiny, tmp_path / 'a', 200)} of 400 damaged artifacts refused before activation")


_SWAP = """
import os, signal, sys
from pathlib import Path
from model.artifact import activate, current_version

folder, versions, step, ends = Path(sys.argv[1]), sys.argv[2:4], 0, list()
while not ends or ends[-1] < 0:
    step += 1
    child = os.fork()
    if child == 0:
        steps = 0
        def count(event, arguments):
            global steps
            if str(folder) in str(arguments):
                steps += 1
                if steps == step:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        activate(folder, versions[current_version(folder) == versions[0]])
        os._exit(0)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(current_version(folder), flush=True)
"""
"""Kills a change of versions at its first step that touches the folder, at its second, and so on, until one is through."""


def test_a_swap_killed_at_any_step_leaves_a_version_that_loads(tiny: Tiny, tmp_path: Path, figure: Figure) -> None:
    versions = with_versions(tiny, tmp_path / "a", 1.0)
    done = subprocess.run([sys.executable, "-c", _SWAP, str(tmp_path / "a"), *versions], capture_output=True, text=True, check=True)
    current = done.stdout.split()
    assert len(current) > 5 and set(current) == set(versions), "killed before the pointer moved, and just after"
    for version in versions:
        Artifact(tmp_path / "a", version)
    assert current_version(tmp_path / "a") == current[-1]
    figure(7, f"a swap killed at each of its {len(current) - 1} steps: CURRENT always names a whole version, and the next swap succeeds")
