"""Configurations survive JSON and refuse what they do not know."""

from __future__ import annotations

import json
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
