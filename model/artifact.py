"""The artifact: an immutable directory per model version, verified by checksum before anything of it is used (docs/architecture.md)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SCHEMA_VERSION = 3
_READABLE = (2, SCHEMA_VERSION)
"""Schema 2 has no `head_center`: the means of what the head reads are all in `head_b1`."""
_ALWAYS_THERE = ("config.json", "metrics.json")
_AT_A_TIME = 2**22
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")


class ArtifactError(ValueError):
    """The artifact is missing, damaged, or of another schema; the message names the file and the reason."""


def write_artifact(
    artifacts: Path,
    version: str,
    arrays: Mapping[str, npt.NDArray[Any]],
    config: dict[str, Any],
    metrics: dict[str, Any],
    graph: tuple[str, bytes],
) -> Path:
    """Write `artifacts/version` in one rename and point `CURRENT` to it.

    Args: `arrays` name -> array, saved as `name.npy`; `graph` file name and bytes of the ONNX graph.
    Raises: ArtifactError when the version exists (versions never change) or its name is not a plain lower-case word.
    """
    _check_name(version)
    target = artifacts / version
    if target.exists():
        raise ArtifactError(f"{target}: the version exists already and versions never change")
    artifacts.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=artifacts))
    try:
        for name, value in arrays.items():
            np.save(building / f"{name}.npy", np.ascontiguousarray(value), allow_pickle=False)
        (building / graph[0]).write_bytes(graph[1])
        _write_json(building / "config.json", {"schema_version": SCHEMA_VERSION, **config})
        _write_json(building / "metrics.json", metrics)
        files = {path.name: {"sha256": _sha256(path), "bytes": path.stat().st_size} for path in sorted(building.iterdir())}
        _write_json(building / "manifest.json", {"schema_version": SCHEMA_VERSION, "version": version, "files": files})
        building.chmod(0o755)
        building.rename(target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    activate(artifacts, version)
    return target


def activate(artifacts: Path, version: str) -> None:
    """Point `CURRENT` to the version, atomically, and `PREVIOUS` to the one that was current."""
    _check_name(version)
    before = _pointer(artifacts / "CURRENT")
    if before is not None and before != version:
        _point(artifacts, "PREVIOUS", before)
    _point(artifacts, "CURRENT", version)


def previous_version(artifacts: Path) -> str | None:
    """The version that was current before the current one, None when there is none."""
    return _pointer(artifacts / "PREVIOUS")


def current_version(artifacts: Path) -> str:
    """The version that `CURRENT` names. Raises: ArtifactError when there is none."""
    try:
        version = (artifacts / "CURRENT").read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{artifacts}: no model here (CURRENT cannot be read: {error.__class__.__name__}); train one with `dare train`"
        ) from error
    _check_name(version)
    return version


def versions(artifacts: Path) -> list[str]:
    """Names of the versions present, oldest first."""
    found = [path for path in artifacts.iterdir() if (path / "manifest.json").is_file()] if artifacts.is_dir() else []
    return [path.name for path in sorted(found, key=lambda path: (path.stat().st_mtime, path.name))]


def fingerprint(artifacts: Path, version: str) -> str:
    """What changes whenever a file of the version is written, replaced, added or taken away: each one's name, inode, size and times.

    The time of the last change of an inode cannot be set, so a file that was altered under its old times shows too.
    Raises: ArtifactError when the version cannot be looked at.
    """
    _check_name(version)
    try:
        found = [(entry.name, entry.stat()) for entry in sorted(os.scandir(artifacts / version), key=lambda entry: entry.name)]
    except OSError as error:
        raise ArtifactError(f"{artifacts / version}: {error.strerror}") from error
    return "\n".join(f"{name!a} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}" for name, stat in found)


class Artifact:
    """A verified version, its arrays memory-mapped read-only.

    Args: `artifacts` the directory that holds versions; `version` its name, None for `CURRENT`; `verified` the version's `fingerprint`
    before all of it was verified (`model/verification.py`): its files are not read again for that.
    Raises: ArtifactError naming the file that is missing, altered, not finite, or of another schema, and for files that are not those that
    were verified.
    """

    def __init__(self, artifacts: Path, version: str | None = None, *, verified: str | None = None) -> None:
        self.version = current_version(artifacts) if version is None else version
        _check_name(self.version)
        self.path = artifacts / self.version
        manifest = self._json("manifest.json")
        if manifest.get("schema_version") not in _READABLE:
            known = " and ".join(map(str, _READABLE))
            raise ArtifactError(f"{self.path}: schema_version is {manifest.get('schema_version')!r}, this program reads {known}")
        if manifest.get("version") != self.version:
            raise ArtifactError(f"{self.path}/manifest.json: is of version {manifest.get('version')!r}")
        files = manifest.get("files")
        if not isinstance(files, dict):
            raise ArtifactError(f"{self.path}/manifest.json: lists no files")
        for name in _ALWAYS_THERE:
            if name not in files:
                raise ArtifactError(f"{self.path}/manifest.json: does not list {name}")
        self.verified = verified is not None
        if verified is None:
            for name, entry in files.items():
                self._verify(name, entry)
        elif fingerprint(artifacts, self.version) != verified:
            raise ArtifactError(f"{self.path}: was changed after it was verified, and versions never change")
        self.files = files
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self.config: dict[str, Any] = self._json("config.json")
        self.schema = int(manifest["schema_version"])
        if self.config.get("schema_version") != self.schema:
            raise ArtifactError(f"{self.path}/manifest.json: schema_version is {self.schema}, that of config.json is another")
        self.metrics: dict[str, Any] = self._json("metrics.json")

    def array(self, name: str) -> npt.NDArray[Any]:
        """The array `name`, memory-mapped; floats are checked to be finite, once. Raises: ArtifactError."""
        if name not in self._arrays:
            self._arrays[name] = self._checked(f"{name}.npy")
        return self._arrays[name]

    def _checked(self, file: str) -> npt.NDArray[Any]:
        if file not in self.files:
            raise ArtifactError(f"{self.path}/{file}: not in the manifest")
        try:
            value = np.load(self.path / file, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError) as error:
            raise ArtifactError(f"{self.path}/{file}: {error}") from error
        if value.dtype.kind == "f" and not self.verified and not _finite(value):
            raise ArtifactError(f"{self.path}/{file}: holds NaN or infinity")
        plain: npt.NDArray[Any] = np.asarray(value)
        return plain

    def _verify(self, name: str, entry: Any) -> None:
        if "/" in name or not name.isprintable() or not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            raise ArtifactError(f"{self.path}/manifest.json: bad entry {name!r}")
        try:
            same = (self.path / name).stat().st_size == entry.get("bytes") and _sha256(self.path / name) == entry["sha256"]
        except OSError as error:
            raise ArtifactError(f"{self.path}/{name}: {error.strerror}") from error
        if not same:
            raise ArtifactError(f"{self.path}/{name}: differs from its checksum in the manifest")

    def _json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads((self.path / name).read_text())
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{self.path}/{name}: cannot be read: {error}") from error
        if not isinstance(value, dict):
            raise ArtifactError(f"{self.path}/{name}: is not a JSON object")
        return value


def pack_texts(texts: list[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Texts as packed UTF-8 (u8) and offsets (i64 [len + 1])."""
    encoded = [text.encode() for text in texts]
    start = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in encoded], out=start[1:])
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), start


def _pointer(path: Path) -> str | None:
    try:
        version = path.read_text().strip()
        _check_name(version)
    except (OSError, ValueError):
        return None
    return version


def _point(artifacts: Path, name: str, version: str) -> None:
    # A name of one's own: two processes that activate at the same time must not write into one file.
    partial = artifacts / f".{name}.{os.getpid()}.partial"
    partial.write_text(version + "\n")
    partial.replace(artifacts / name)


def _check_name(version: str) -> None:
    if not version or version[0] in ".-" or len(version) > 100 or not set(version) <= _NAME_CHARACTERS:
        raise ArtifactError(f"model version {version!r} is not a plain lower-case name")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def _finite(value: npt.NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite, in little memory: a table may be larger than what is left of it."""
    flat = value.reshape(-1, order="A")
    return all(np.isfinite(flat[first : first + _AT_A_TIME]).all() for first in range(0, flat.size, _AT_A_TIME))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
