"""An artifact is whole or refused by the file's name; a version never changes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.artifact import SCHEMA_VERSION, Artifact, ArtifactError, activate, current_version, pack_texts, versions, write_artifact
from model.config import ModelConfig
from model.export import export
from model.features import FEATURE_NAMES
from model.item_hash import hash_item_ids
from model.runtime import ScoringRuntime
from tests.conftest import Tiny

Arrays = dict[str, np.ndarray[Any, Any]]
Content = tuple[Arrays, dict[str, Any], tuple[str, bytes]]


@pytest.fixture
def copied(tiny: Tiny, tmp_path: Path) -> Path:
    """The small world's artifact, to be damaged: `artifacts/version` in a directory of its own."""
    folder = tmp_path / "artifacts" / tiny.version
    shutil.copytree(tiny.artifacts / tiny.version, folder)
    activate(folder.parent, tiny.version)
    return folder


@pytest.fixture(scope="module")
def content(tiny: Tiny) -> Content:
    """Arrays, configuration and graph of the small world's artifact."""
    folder = tiny.artifacts / tiny.version
    config = json.loads((folder / "config.json").read_text())
    del config["schema_version"]
    return {path.stem: np.load(path) for path in folder.glob("*.npy")}, config, ("rank.onnx", (folder / "rank.onnx").read_bytes())


def refused(folder: Path, *named: str) -> str:
    with pytest.raises(ArtifactError) as error:
        ScoringRuntime.load(folder.parent)
    for text in named:
        assert text in str(error.value)
    return str(error.value)


def test_what_was_written_is_what_is_read(tiny: Tiny, content: Content) -> None:
    artifact = Artifact(tiny.artifacts)
    assert artifact.version == tiny.version == current_version(tiny.artifacts)
    assert artifact.config["schema_version"] == SCHEMA_VERSION and artifact.config["feature_names"] == list(FEATURE_NAMES)
    assert set(artifact.files) == {path.name for path in artifact.path.iterdir()} - {"manifest.json"}
    for name, value in content[0].items():
        np.testing.assert_array_equal(artifact.array(name), value)
        assert not artifact.array(name).flags.writeable and isinstance(artifact.array(name).base, np.memmap)
    assert not [path for path in tiny.artifacts.iterdir() if path.name.startswith(".")], "nothing half-built stays"
    assert b"pickle" not in b"".join(path.read_bytes()[:200] for path in artifact.path.glob("*.npy"))


def test_a_file_cut_at_any_offset_is_named(copied: Path) -> None:
    for path in sorted(copied.iterdir()):
        whole = path.read_bytes()
        last = len(whole) - 2  # the manifest's last byte is a newline that JSON does not need
        for offset in {0, 1, min(64, last), len(whole) // 2, last}:
            path.write_bytes(whole[:offset])
            refused(copied, path.name)
        path.write_bytes(whole)
    ScoringRuntime.load(copied.parent)


def test_a_longer_file_is_named(copied: Path) -> None:
    for path in sorted(copied.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole + b"}")
        refused(copied, path.name)
        path.write_bytes(whole)


def test_a_flipped_bit_anywhere_is_named(copied: Path) -> None:
    rng = np.random.default_rng(0)
    for path in sorted(copied.iterdir()):
        if path.name == "manifest.json":
            continue
        whole = path.read_bytes()
        for offset in {0, 8, len(whole) - 1, *rng.integers(0, len(whole), 3).tolist()}:
            flipped = bytearray(whole)
            flipped[offset] ^= 1 << int(rng.integers(0, 8))
            path.write_bytes(flipped)
            refused(copied, f"{path.name}: differs from its checksum")
        path.write_bytes(whole)


def test_a_flipped_bit_in_the_manifest_itself_is_noticed(copied: Path) -> None:
    """The manifest has no checksum; every bit of it is needed nevertheless."""
    path = copied / "manifest.json"
    whole = path.read_bytes()
    for offset in np.random.default_rng(1).permutation(len(whole) - 1)[:150].tolist():
        flipped = bytearray(whole)
        flipped[offset] ^= 1 << (offset % 8)
        path.write_bytes(flipped)
        refused(copied, str(copied))


def test_a_missing_file_is_named(copied: Path) -> None:
    for path in sorted(copied.iterdir()):
        aside = path.rename(copied.parent / "aside")
        refused(copied, path.name)
        aside.rename(path)


def test_another_schema_is_refused_with_both_numbers(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    for schema in (0, SCHEMA_VERSION + 1, str(SCHEMA_VERSION), None):
        (copied / "manifest.json").write_text(json.dumps(manifest | {"schema_version": schema}))
        refused(copied, f"schema_version is {schema!r}, this program reads 2 and {SCHEMA_VERSION}")


def test_an_artifact_without_a_center_is_read_as_before(tiny: Tiny, copied: Path) -> None:
    """Schema 2: the same head, all means in its bias."""
    center, w1, b1 = (np.load(copied / f"head_{name}.npy").astype(np.float64) for name in ("center", "w1", "b1"))
    (copied / "head_center.npy").unlink()
    np.save(copied / "head_b1.npy", (b1 - center @ w1[-len(center) :]).astype(np.float32))
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"schema_version": 2}))
    manifest = json.loads((copied / "manifest.json").read_text())
    names = [name for name in manifest["files"] if name != "head_center.npy"]
    files = {name: {"sha256": sha256((copied / name).read_bytes()).hexdigest(), "bytes": (copied / name).stat().st_size} for name in names}
    for schema, named in ((3, "schema_version is 3, that of config.json is another"), (2, "")):
        (copied / "manifest.json").write_text(json.dumps(manifest | {"files": files, "schema_version": schema}))
        if named:
            refused(copied, named)
    old, new = (ScoringRuntime.load(folder, ranking="numpy") for folder in (copied.parent, tiny.artifacts))
    candidates = hash_item_ids(tiny.log.item_id)
    history = candidates[tiny.log.item[:300]], tiny.log.timestamp[:300]
    found, expected = (one.score(one.prepare(*history), candidates, one.as_of).click_probability_N for one in (old, new))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: [],
        lambda m: m | {"files": []},
        lambda m: m | {"files": {}},
        lambda m: m | {"files": m["files"] | {"../CURRENT": {"sha256": "", "bytes": 0}}},
        lambda m: m | {"files": m["files"] | {"..": {"sha256": "", "bytes": 0}}},
        lambda m: m | {"files": m["files"] | {"nul\x00": {"sha256": "", "bytes": 0}}},
        lambda m: m | {"files": m["files"] | {"rank.onnx": None}},
        lambda m: m | {"files": m["files"] | {"rank.onnx": {"sha256": 5}}},
        lambda m: m | {"files": {k: v for k, v in m["files"].items() if k != "metrics.json"}},
        lambda m: m | {"files": {k: v for k, v in m["files"].items() if k != "rank.onnx"}},
        lambda m: m | {"version": "another"},
    ],
)
def test_an_odd_manifest_is_refused(copied: Path, change: Callable[[Any], Any]) -> None:
    path = copied / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    refused(copied, str(copied))


@pytest.mark.parametrize("text", ["", "\n", "../../etc", "/etc/passwd", ".hidden", "UPPER", "no-such-version", "a\nb", "x" * 101])
def test_a_garbled_current_is_refused(copied: Path, text: str) -> None:
    (copied.parent / "CURRENT").write_text(text)
    refused(copied, repr(text.strip())[1:90] if text.strip() != "no-such-version" else f"no-such-version{os.sep}manifest.json")


def test_a_missing_or_unreadable_current_says_how_to_get_a_model(copied: Path) -> None:
    for write in (
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
        lambda path: (path.unlink(), path.mkdir()),
    ):
        write(copied.parent / "CURRENT")
        refused(copied, "CURRENT cannot be read", "train one with `dare train`")


def write_changed(folder: Path, content: Content, arrays: Arrays, **config: Any) -> Path:
    """A version with sound checksums and other content."""
    return write_artifact(folder, "changed", content[0] | arrays, content[1] | config, {}, content[2])


def float_arrays() -> list[str]:
    tables = [f"{space}_{name}" for space in ("attn", "repr") for name in ("item", "category", "recency")]
    head = [f"head_{name}" for name in ("center", "w1", "b1", "w2", "b2", "w3", "b3", "slope")]
    popularity = [f"popularity_{name}" for name in ("count", "decayed", "total")]
    return [*tables, *head, *popularity, "item_statistic", "taste_vector", "taste_weight", "same_item_bonus"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", float_arrays())
def test_a_number_that_is_none_is_named(tmp_path: Path, content: Content, name: str, value: float) -> None:
    array = content[0][name].copy()
    array.reshape(-1)[-1] = value
    refused(write_changed(tmp_path, content, {name: array}), f"{name}.npy: holds NaN or infinity")


def test_every_float_array_is_among_those_checked(content: Content) -> None:
    assert sorted(float_arrays()) == sorted(name for name, value in content[0].items() if value.dtype.kind == "f")


NAMES = [
    *float_arrays(),
    *(f"item_{name}" for name in ("hash", "row", "category", "id", "id_start", "text", "text_start")),
    "category_row",
    "popularity_key",
    "popularity_first_day",
]


@pytest.mark.parametrize("name", NAMES)
def test_an_array_of_another_shape_or_type_or_none_is_named(tmp_path: Path, content: Content, name: str) -> None:
    value = content[0][name]
    changed = [value[:-1], value.astype(np.float64 if value.dtype.kind == "f" else np.int16), value[None]]
    for place, other in enumerate(changed):
        refused(write_changed(tmp_path / str(place), content, {name: other}), ".npy: must be" if place else f"{tmp_path / '0'}")
    without = {key: array for key, array in content[0].items() if key != name}
    folder = write_artifact(tmp_path / "without", "changed", without, content[1], {}, content[2])
    refused(folder, f"{name}.npy: not in the manifest")


@pytest.mark.parametrize(("name", "value"), [("item_row", 10**6), ("item_row", -5), ("item_category", 999), ("category_row", -1)])
def test_a_row_outside_its_table_is_named(tmp_path: Path, content: Content, name: str, value: int) -> None:
    array = content[0][name].copy()
    array[3] = value
    refused(write_changed(tmp_path, content, {name: array}), f"{name}.npy: must lie in 0..", str(value))


def test_texts_that_do_not_fit_their_offsets_are_named(tmp_path: Path, content: Content) -> None:
    start = content[0]["item_id_start"].copy()
    start[2], start[3] = start[3], start[2]
    refused(write_changed(tmp_path, content, {"item_id_start": start}), "item_id_start.npy: does not ascend")


def test_hashes_must_ascend(tmp_path: Path, content: Content) -> None:
    refused(write_changed(tmp_path, content, {"item_hash": content[0]["item_hash"][::-1].copy()}), "item_hash.npy: ", "ascend")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"feature_names": ["item_seen", "of_old"]}, "trained with other features than this program computes"),
        ({"feature_names": [*FEATURE_NAMES[1:], FEATURE_NAMES[0]]}, "their order"),
        ({"model": {"attn_width": 16}}, "'model.repr_width' is missing"),
        ({"model": asdict(ModelConfig()) | {"attn_width": 0}}, "attn_width"),
        ({"model": asdict(ModelConfig()) | {"kept": "x"}}, "kept"),
        ({"model": asdict(ModelConfig()) | {"depth": 3}}, "'depth'"),
        ({"scoring": "magic"}, "scoring must be kernels or graph, is 'magic'"),
        ({"scoring": "graph"}, "does not list score.onnx"),
    ],
)
def test_a_configuration_this_program_cannot_follow_is_refused(
    tmp_path: Path, content: Content, config: dict[str, Any], named: str
) -> None:
    refused(write_changed(tmp_path, content, {}, **config), ".json: ", named)


def test_a_version_is_never_written_twice(tiny: Tiny, copied: Path, content: Content) -> None:
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(ArtifactError, match=f"{tiny.version}: the version exists already and versions never change"):
        write_artifact(copied.parent, tiny.version, content[0], content[1], {}, content[2])
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    assert sorted(path.name for path in copied.parent.iterdir()) == sorted(["CURRENT", tiny.version])


def test_the_same_training_exported_again_is_the_same_version_made_current(tiny: Tiny, copied: Path) -> None:
    (copied.parent / "CURRENT").write_text("something-else\n")
    before = (copied / "manifest.json").stat().st_mtime_ns
    assert export(tiny.trained.model, tiny.data, tiny.config, {"test": {}}, copied.parent) == tiny.version
    assert current_version(copied.parent) == tiny.version and (copied / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["", "..", ".hidden", "-flag", "Upper", "a/b", "a b", "ä", "x" * 101])
def test_a_version_needs_a_plain_name(tmp_path: Path, content: Content, name: str) -> None:
    with pytest.raises(ArtifactError, match="is not a plain lower-case name"):
        write_artifact(tmp_path, name, *content[:2], {}, content[2])
    with pytest.raises(ArtifactError):
        Artifact(tmp_path, name)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, content: Content) -> None:
    objects = np.array([None, "x"], dtype=object)
    with pytest.raises(ValueError, match="allow_pickle"):
        write_changed(tmp_path, content, {"item_extra": objects})
    assert list(tmp_path.iterdir()) == []


def test_versions_come_oldest_first_and_skip_what_is_none(tmp_path: Path, content: Content) -> None:
    assert versions(tmp_path / "nowhere") == []
    for place, name in enumerate(["b", "c", "a"]):
        folder = write_artifact(tmp_path, name, *content[:2], {}, content[2])
        os.utime(folder, (place, place))
    (tmp_path / "no-version").mkdir()
    assert versions(tmp_path) == ["b", "c", "a"] and current_version(tmp_path) == "a"


def test_texts_survive_packing() -> None:
    texts = ["", "plain", "Ünïcode 🛒", "", "x" * 1000]
    packed, start = pack_texts(texts)
    assert [bytes(packed[a:b]).decode() for a, b in zip(start[:-1], start[1:], strict=True)] == texts
    empty, start = pack_texts([])
    assert len(empty) == 0 and start.tolist() == [0]
