"""Published models by name, as stages (docs/stages.md has the equations and what was chosen where a paper is silent)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from model.config import ModelConfig, StageSpec

Rival = Callable[[ModelConfig], ModelConfig]


def _shared(model: ModelConfig) -> ModelConfig:
    """One set of tables; the published rivals but DARE have no auxiliary loss."""
    return replace(model, tables="shared", attn_width=model.repr_width, objectives=())


def _twin(model: ModelConfig) -> ModelConfig:
    return replace(_shared(model), objectives=model.objectives)


def _mean_pool(model: ModelConfig) -> ModelConfig:
    return replace(_shared(model), search=StageSpec("everything"), pooling=StageSpec("mean"))


_SIM = StageSpec("multi_head", {"heads": 2, "values": False})


def _sim_hard(model: ModelConfig) -> ModelConfig:
    return replace(_shared(model), search=StageSpec("category"), pooling=_SIM)


def _sim_soft(model: ModelConfig) -> ModelConfig:
    return replace(_shared(model), search=StageSpec("projected"), pooling=_SIM, objectives=(StageSpec("search_over_all"),))


def _eta(model: ModelConfig) -> ModelConfig:
    return replace(_shared(model), search=StageSpec("simhash"), pooling=StageSpec("multi_head"))


def _sdim(model: ModelConfig) -> ModelConfig:
    return replace(_shared(model), search=StageSpec("everything"), pooling=StageSpec("hash_bucket"))


def _twin_hard(model: ModelConfig) -> ModelConfig:
    return replace(_twin(model), search=StageSpec("category"))


def _staged(search: str, pooling: str, encoder: str | None = None) -> Rival:
    """Other stages on shared tables."""
    between = None if encoder is None else StageSpec(encoder)
    return lambda model: replace(_shared(model), search=StageSpec(search), encoder=between, pooling=StageSpec(pooling))


RIVALS: dict[str, Rival] = {
    "dare": lambda model: model,
    "dare_no_tr": lambda model: replace(model, target_aware=False),
    "twin": _twin,
    "twin_no_tr": lambda model: replace(_twin(model), target_aware=False),
    "twin_4e": lambda model: replace(model, tables="untied"),
    "twin_proj": lambda model: replace(model, tables="projected"),
    "mirrn_like": _staged("three_queries", "segment_attention", "fourier"),
    "twin_v2_like": _staged("clusters", "target_attention"),
    "transact_like": _staged("nearest_and_newest", "max", "transformer"),
    "stca_like": _staged("everything", "stacked_cross_attention"),
    "din": _staged("everything", "din"),
    "mean_pool": _mean_pool,
    "sim_hard": _sim_hard,
    "sim_soft": _sim_soft,
    "eta": _eta,
    "sdim": _sdim,
    "twin_hard": _twin_hard,
}
"""How each rival differs from DARE with the same widths, kept behaviors and extras. TWIN's variants keep the auxiliary loss: DARE's authors
compare them so."""


def rival(name: str, model: ModelConfig) -> ModelConfig:
    """The model `name` with the widths and extras of `model`. Raises: ValueError for an unknown name."""
    if name not in RIVALS:
        raise ValueError(f"model must be one of {', '.join(RIVALS)}, got {name!r}")
    return RIVALS[name](model)
