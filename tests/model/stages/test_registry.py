"""Stages are known by name: what does not exist, cannot be served or is taken already is refused before anything is trained."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model.batch import UserBatch
from model.config import ModelConfig, StageSpec, from_dict
from model.rivals import rival
from model.stages import registry
from model.stages.pooling_content import weighted_content
from model.stages.protocols import Content, Kept
from model.stages.registry import Capabilities, Parts, configured, register, scoring_path, stages
from tests.model.small_models import batch, logits, made

SMALL = ModelConfig(attn_width=5, repr_width=6, kept=20, hidden=(9, 4), mass=False, same_item_bonus=False, features=False)


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test registers is forgotten after it."""
    stages("search")  # all of ours are known now
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))


class Loudest(nn.Module):
    """The stage of docs/stages.md."""

    parts = 1

    def forward(self, batch: UserBatch, kept: Kept, content: Content) -> Tensor:
        best_M1 = kept.score_MK.argmax(dim=1, keepdim=True)
        weight_MK = torch.zeros_like(kept.score_MK).scatter(1, best_M1, 1.0) * kept.valid_MK
        return weighted_content(weight_MK, kept, content)


def loudest(**capabilities: object) -> None:
    @register("pooling", "loudest", "ours", Capabilities(**capabilities))  # type: ignore[arg-type]
    @dataclass(frozen=True, slots=True)
    class LoudestConfig:
        def build(self, parts: Parts) -> Loudest:
            return Loudest()


@pytest.mark.usefixtures("forgetful")
def test_a_stage_in_one_class_is_part_of_a_model_like_any_other() -> None:
    loudest()
    config = replace(SMALL, pooling=StageSpec("loudest"))
    assert scoring_path(config) == "graph" and "loudest" in [entry.name for entry in stages("pooling")]
    model, b = made(config), batch(63, [0, 40])
    found = logits(model, b)
    single = made(replace(config, kept=1, pooling=StageSpec("target_attention")))
    single.load_state_dict(model.state_dict())
    assert found.tolist() == pytest.approx(logits(single, b).tolist(), abs=1e-11), "the loudest is attention to the one best"


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize(
    ("capabilities", "message"),
    [
        ({"exports": False, "reason": "it asks a friend"}, "'loudest' cannot be exported and served: it asks a friend"),
        ({"set_free": False}, "'loudest' makes a candidate's score depend on the other candidates"),
    ],
)
def test_what_cannot_be_served_is_refused_from_its_configuration(capabilities: dict[str, object], message: str) -> None:
    loudest(**capabilities)
    with pytest.raises(ValueError, match=message):
        scoring_path(replace(SMALL, pooling=StageSpec("loudest")))


@pytest.mark.usefixtures("forgetful")
def test_a_name_is_registered_once_and_its_kind_must_exist() -> None:
    with pytest.raises(ValueError, match=r"pooling stage 'mean' is registered already, by model\.stages\.pooling\.mean"):

        @register("pooling", "mean", "another")
        class Another:
            pass

    with pytest.raises(ValueError, match="kind must be one of search, encoder, pooling, objective, got 'layer'"):
        register("layer", "mean", "ours")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package of somebody else's, as pip would install it."""
    (tmp_path / "quiet_stages.py").write_text(
        "from dataclasses import dataclass\n"
        "from model.stages.pooling.mean import Mean\n"
        "from model.stages.registry import Parts, register\n\n\n"
        '@register("pooling", "quiet", "somebody else")\n'
        "@dataclass(frozen=True)\n"
        "class QuietConfig:\n"
        "    volume: int = 1\n\n"
        "    def build(self, parts: Parts) -> Mean:\n"
        "        return Mean()\n"
    )
    info = tmp_path / "quiet_stages-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: quiet-stages\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dare_serving.stages]\nquiet = quiet_stages\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._load.cache_clear()  # a process asks once what is installed
    yield
    sys.modules.pop("quiet_stages", None)


@pytest.mark.usefixtures("forgetful", "installed")
def test_a_package_of_somebody_elses_brings_its_stages() -> None:
    config = replace(SMALL, pooling=StageSpec("quiet", {"volume": 3}))
    model, b = made(config), batch(63, [0, 40])
    mean = made(replace(SMALL, pooling=StageSpec("mean")))
    assert logits(model, b).tolist() == logits(mean, b).tolist()
    with pytest.raises(ValueError, match="pooling stage 'quiet': unknown option 'pitch'; options: volume"):
        configured("pooling", StageSpec("quiet", {"pitch": 3}))


@pytest.mark.parametrize("kind", ["search", "pooling", "encoder"])
def test_an_unknown_stage_is_refused_with_the_known_ones(kind: str) -> None:
    known = ", ".join(entry.name for entry in stages(kind))
    with pytest.raises(ValueError, match=f"no {kind} stage is called 'nonsense'; there are {known}"):
        scoring_path(replace(SMALL, **{kind: StageSpec("nonsense")}))


def test_an_unknown_objective_rival_or_key_is_refused() -> None:
    with pytest.raises(ValueError, match="no objective stage is called 'nonsense'"):
        scoring_path(replace(SMALL, objectives=(StageSpec("nonsense"),)))
    with pytest.raises(ValueError, match=r"model must be one of dare, .*, got 'nonsense'"):
        rival("nonsense", SMALL)
    with pytest.raises(ValueError, match="StageSpec: unknown key 'option'"):
        from_dict(ModelConfig, {"search": {"name": "exact", "option": {}}})


def test_kernels_serve_what_they_compute_and_the_graph_serves_the_rest() -> None:
    assert {scoring_path(rival(name, SMALL)) for name in ("dare", "twin", "twin_4e", "twin_proj", "dare_no_tr")} == {"kernels"}
    assert {scoring_path(rival(name, SMALL)) for name in ("mean_pool", "sim_hard", "sim_soft", "eta", "sdim", "twin_hard")} == {"graph"}
