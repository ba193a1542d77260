"""`dare stages`."""

from __future__ import annotations

import dataclasses
from typing import Any

from model.stages.registry import KINDS, Entry, stages
from service.commands.terminal import emit, table


def stages_command(kind: str | None, as_json: bool) -> None:
    """See `dare stages`."""
    if kind is not None and kind not in KINDS:
        raise ValueError(f"--kind must be one of {', '.join(KINDS)}, got {kind!r}")
    found = {one: [_described(entry) for entry in stages(one)] for one in (KINDS if kind is None else (kind,))}
    for one, entries in found.items():
        rows = [{**entry, "options": ", ".join(f"{name}={value}" for name, value in entry["options"].items())} for entry in entries]
        table(f"Stages of kind {one}", rows or [{"name": "none registered"}])
    emit(found, as_json)


def _described(entry: Entry) -> dict[str, Any]:
    return {"name": entry.name, "options": _options(entry.config), "served": _served(entry), "source": entry.source}


def _options(config: type[Any]) -> dict[str, Any]:
    """Every option with its default; "required" where it has none."""
    found = {}
    for field in dataclasses.fields(config):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        else:
            found[field.name] = "required" if field.default_factory is dataclasses.MISSING else field.default_factory()
    return found


def _served(entry: Entry) -> str:
    if entry.kind == "objective":
        return "in training alone"
    if not entry.capabilities.exports:
        return f"not: {entry.capabilities.reason}"
    if not entry.capabilities.set_free:
        return "not: a score would depend on the other candidates"
    return "compiled kernels" if entry.capabilities.fused else "ONNX graph"
