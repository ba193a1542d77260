"""A version is verified once, elsewhere; what was verified is used unread as long as nothing about its files has changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.artifact import Artifact, ArtifactError, fingerprint
from model.runtime import ScoringRuntime
from model.verification import REFUSED, main, verify
from tests.conftest import Tiny
from tests.service.model_versions import rewrite


@pytest.fixture
def version(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.artifacts / tiny.version, tmp_path / tiny.version))


def flip(file: Path) -> None:
    """Change one bit where it is."""
    with file.open("r+b") as opened:
        opened.seek(200)
        byte = opened.read(1)[0]
        opened.seek(200)
        opened.write(bytes([byte ^ 1]))


def flip_under_the_old_times(file: Path) -> None:
    before = file.stat()
    flip(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(file: Path) -> None:
    shutil.copy2(file, file.with_suffix(".new"))
    file.with_suffix(".new").rename(file)


def test_what_was_verified_is_not_read_again(version: Path) -> None:
    flip(version / "repr_item.npy")
    sound = fingerprint(version.parent, version.name)
    with pytest.raises(ArtifactError, match=r"repr_item\.npy: differs from its checksum"):
        Artifact(version.parent, version.name)
    runtime = ScoringRuntime.load(version.parent, version.name, verified=sound)
    assert runtime.version == version.name


def add(file: Path) -> None:
    file.with_suffix(".more").touch()


@pytest.mark.parametrize("change", [flip, flip_under_the_old_times, replace, Path.unlink, add])
def test_a_version_changed_since_is_not_used(version: Path, change: Callable[[Path], object]) -> None:
    sound = verify(version.parent, version.name)
    Artifact(version.parent, version.name, verified=sound)
    change(version / "repr_item.npy")
    with pytest.raises(ArtifactError, match=f"{version.name}: was changed after it was verified"):
        Artifact(version.parent, version.name, verified=sound)


def test_every_array_is_searched_also_one_that_scoring_does_not_read(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(version.parent), version.name]) == 0
    assert capsys.readouterr().out == fingerprint(version.parent, version.name) + "\n"
    spare = np.zeros((5, 2**20), np.float32)
    spare[-1, -1] = np.inf
    rewrite(version, "spare", spare)
    assert main([str(version.parent), version.name]) == REFUSED
    assert "spare.npy: holds NaN or infinity" in capsys.readouterr().out


def test_a_version_that_is_not_there_or_is_no_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere: No such file"):
        verify(tmp_path, "nowhere")
    with pytest.raises(ArtifactError, match="not a plain"):
        fingerprint(tmp_path, "../" + tmp_path.name)
