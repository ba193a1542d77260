"""Configurations survive JSON and refuse what they do not know."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import pytest

from model.config import PRESETS, ModelConfig, TrainConfig, from_dict
from model.data.protocol import ProtocolConfig


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_configuration_survives_json(preset: type[TrainConfig]) -> None:
    config = preset(seed=5)  # type: ignore[call-arg]
    assert config.seed == config.protocol.seed == 5
    again = from_dict(TrainConfig, json.loads(json.dumps(asdict(config))))
    assert again == config and isinstance(again.model.hidden, tuple)


@pytest.mark.parametrize("kind", [TrainConfig, ModelConfig, ProtocolConfig])
def test_an_unknown_key_is_refused_with_the_known_ones(kind: type[object]) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__}: unknown key 'depth'; known keys: .*"):
        from_dict(kind, {"depth": 3})


def test_unknown_keys_inside_are_refused_too() -> None:
    with pytest.raises(ValueError, match="ModelConfig: unknown key 'depth'"):
        from_dict(TrainConfig, {"model": {"depth": 3}})
    with pytest.raises(ValueError, match="negative_rule must be one of popularity, paper, trailing, got 'x'"):
        from_dict(TrainConfig, {"protocol": {"negative_rule": "x"}})


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("calibrate", "no", "calibrate must be true or false, got 'no'"),
        ("epochs", 1.5, "epochs must be an integer, got 1.5"),
        ("seed", float("inf"), "seed must be an integer, got inf"),
        ("learning_rate", float("nan"), "learning_rate must be a finite number, got nan"),
        ("model", 5, "model must be a ModelConfig, got 5"),
        ("model.kept", True, "kept must be an integer, got True"),
        ("model.mass", "false", "mass must be true or false, got 'false'"),
        ("model.longest", 100.5, "longest must be an integer or nothing, got 100.5"),
        ("model.hidden", [200.5, 80], "hidden must be a list of 2, an integer each"),
        ("model.hidden", [200], "hidden must be a list of 2, an integer each"),
        ("model.hidden", 7, "hidden must be a list of 2, an integer each, got 7"),
        ("model.search", "exact", "search must be a StageSpec, got 'exact'"),
        ("model.search", {"name": 3}, "name must be a text, got 3"),
        ("model.objectives", [1], "objectives must be a list of a StageSpec each"),
        ("model.objectives", None, "objectives must be a list of a StageSpec each, got None"),
        ("protocol.negatives", 2.5, "negatives must be an integer, got 2.5"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(key: str, value: object, wanted: str) -> None:
    *outer, name = key.split(".")
    values = {outer[0]: {name: value}} if outer else {name: value}
    with pytest.raises(ValueError, match=re.escape(wanted)):
        from_dict(TrainConfig, values)
