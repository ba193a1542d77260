"""The configuration that a command trains: a preset, and what `--set` changes of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from model.config import PRESETS, TrainConfig, from_dict

_OF_STUDIES = ("name", "seed", "num_threads")
"""What every study decides for itself."""


def preset_config(preset: str, seed: int, threads: int) -> TrainConfig:
    """The configuration of `--preset`, `--seed` and `--threads`. Raises: ValueError naming a preset that there is not."""
    if preset not in PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    return replace(PRESETS[preset](seed), num_threads=threads)


def changed(config: TrainConfig, settings: Sequence[str]) -> TrainConfig:
    """The configuration with fields set by `KEY=JSON`; a key is a field, or `model.` or `protocol.` and one.

    Raises: ValueError naming what is not of that form, the unknown key or the bad value.
    """
    values = asdict(config)
    for setting in settings:
        key, equals, text = setting.partition("=")
        *outer, field = key.split(".")
        if not equals or outer not in ([], ["model"], ["protocol"]):
            raise ValueError(f"--set must be KEY=JSON, with a KEY like epochs, model.kept or protocol.negatives, got {setting!r}")
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"--set {key}: {text!r} is not JSON (a text needs its quotes): {error}") from error
        (values[outer[0]] if outer else values)[field] = value
    found: TrainConfig = from_dict(TrainConfig, values)
    return found


def studied(config: TrainConfig, settings: Sequence[str], own: Sequence[str] = ()) -> TrainConfig:
    """What a study starts from, before its own lines change it.

    Args: `own` keys of what the study itself sets in every line, so that `--set` of them would be without effect.
    Raises: ValueError naming such a key; as `changed`.
    """
    found = changed(config, settings)
    for key in (*_OF_STUDIES, *own):
        was, now = (_at(one, key) for one in (config, found))
        if was != now:
            raise ValueError(f"--set {key}={now!r}: this study decides {key} itself")
    return found


def of_baseline(settings: Sequence[str]) -> list[str]:
    """The settings that a baseline has a use for: those of the protocol and the data, none of a model of stages."""
    return [setting for setting in settings if setting.partition("=")[0].partition(".")[0] != "model"]


def said(settings: Sequence[str]) -> str:
    """A sentence for a report's note, with the space before it; empty without settings."""
    if not settings:
        return ""
    return f" Trained with {', '.join(f'`{setting}`' for setting in settings)}; the baselines with what of it is not of the model."


def _at(config: TrainConfig, key: str) -> Any:
    found: Any = config
    for name in key.split("."):
        found = getattr(found, name)
    return found
