"""Stages by (kind, name): each a frozen config dataclass that refuses unknown keys and builds the stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any, Protocol, TypeVar

from torch import nn

from model.config import ModelConfig, StageSpec
from model.field_types import check_types
from model.stages.scores import DareScore
from model.tables import Space

KINDS = ("search", "encoder", "pooling", "objective")
_THIRD_PARTY = "dare_serving.stages"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a stage may build upon: the model's configuration, its two embedding spaces, the score between them and, for stages that come
    after it, the search."""

    config: ModelConfig
    attn: Space
    repr: Space
    score: DareScore
    search: nn.Module | None = None

    @property
    def width(self) -> int:
        """R = 3 d_r: width of [item ; category ; recency] in representation space."""
        return 3 * self.repr.width


class StageConfig(Protocol):
    """A registered configuration: its fields are the stage's options, `build` makes the stage."""

    def build(self, parts: Parts) -> nn.Module: ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a stage declares, checked before a model is trained to be served (`scoring_path`).

    `fused` the compiled kernels compute it; `exports` the portable graph can hold it; `set_free` a candidate's score does not depend on the
    other candidates. `reason` why it cannot be exported.
    """

    fused: bool = False
    exports: bool = True
    set_free: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered stage."""

    kind: str
    name: str
    config: type[Any]
    capabilities: Capabilities
    source: str


_ENTRIES: dict[tuple[str, str], Entry] = {}
_Config = TypeVar("_Config")


def register(kind: str, name: str, source: str, capabilities: Capabilities | None = None) -> Callable[[type[_Config]], type[_Config]]:
    """Class decorator: make a frozen config dataclass known as (kind, name). `source` the paper and what was chosen where it is silent.

    Raises: ValueError for a kind that does not exist or a name taken already.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")

    def add(config: type[_Config]) -> type[_Config]:
        if (kind, name) in _ENTRIES and _ENTRIES[kind, name].config.__qualname__ != config.__qualname__:
            raise ValueError(f"{kind} stage {name!r} is registered already, by {_ENTRIES[kind, name].config.__module__}")
        _ENTRIES[kind, name] = Entry(kind, name, config, capabilities or Capabilities(), source)
        return config

    return add


@cache
def _load() -> None:
    """Import every stage of this package and of installed packages that declare one, once: asking what is installed takes its time."""
    for kind in KINDS:
        package = import_module(f"model.stages.{kind}")
        for module in iter_modules(package.__path__):
            import_module(f"{package.__name__}.{module.name}")
    for point in entry_points(group=_THIRD_PARTY):
        point.load()


def stages(kind: str) -> list[Entry]:
    """All registered stages of a kind, by name."""
    _load()
    return [entry for (of, _), entry in sorted(_ENTRIES.items()) if of == kind]


def entry(kind: str, spec: StageSpec) -> Entry:
    """The registered stage of a spec. Raises: ValueError naming the unknown stage and the known ones."""
    _load()
    if (kind, spec.name) not in _ENTRIES:
        known = ", ".join(name for of, name in sorted(_ENTRIES) if of == kind)
        raise ValueError(f"no {kind} stage is called {spec.name!r}; there are {known}")
    return _ENTRIES[kind, spec.name]


def configured(kind: str, spec: StageSpec) -> StageConfig:
    """The stage's own configuration. Raises: ValueError naming an unknown option or a bad value."""
    known = entry(kind, spec)
    options = {field.name for field in dataclasses.fields(known.config)}
    unknown = sorted(set(spec.options) - options)
    if unknown:
        listed = ", ".join(sorted(options)) or "none"
        raise ValueError(f"{kind} stage {spec.name!r}: unknown option {unknown[0]!r}; options: {listed}")
    check_types(known.config, spec.options)
    made: StageConfig = known.config(**spec.options)
    return made


def reads_times(config: ModelConfig) -> bool:
    """Whether the stages are those that the fused kernels serve, which alone read times of behaviors (`ages`, `sessions`)."""
    return all(entry(kind, spec).capabilities.fused for kind, spec in _served(config))


def _served(config: ModelConfig) -> list[tuple[str, StageSpec]]:
    """The stages that are served, each with its kind."""
    specs = [("search", config.search), ("pooling", config.pooling)]
    return specs if config.encoder is None else [*specs, ("encoder", config.encoder)]


def scoring_path(config: ModelConfig) -> str:
    """How an artifact of this model is scored: "kernels" (compiled, fused) or "graph" (ONNX Runtime).

    Raises: ValueError for an unknown stage or option, and for a stage that cannot be exported, or whose scores depend on which candidates
    are scored together.
    """
    specs = _served(config)
    for kind, spec in (*specs, *(("objective", spec) for spec in config.objectives)):
        configured(kind, spec)
    entries = [entry(kind, spec) for kind, spec in specs]
    for one in entries:
        if not one.capabilities.exports:
            raise ValueError(f"{one.kind} stage {one.name!r} cannot be exported and served: {one.capabilities.reason}")
        if not one.capabilities.set_free:
            raise ValueError(f"{one.kind} stage {one.name!r} makes a candidate's score depend on the other candidates")
    fused = reads_times(config)
    timed = [name for name in ("ages", "sessions") if getattr(config, name)]
    if timed and not fused:
        one = next(one for one in entries if not one.capabilities.fused)
        hint = f"`--set model.{timed[0]}=false` leaves them out"
        raise ValueError(
            f"{timed[0]} are served with exact search and target attention alone, not with {one.kind} stage {one.name!r}; {hint}"
        )
    return "kernels" if fused else "graph"
