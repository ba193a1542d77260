"""Choosing a backend: the first that can run, or the one that is asked for by name, which never falls back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

_Backend = TypeVar("_Backend")


def chosen(operation: str, backends: Mapping[str, _Backend], name: str, *given: Any) -> _Backend:
    """The backend `name`, or for "auto" the first whose `can_run(*given)` says yes.

    Raises: ValueError for an unknown name; RuntimeError when the named backend cannot run, with the reason.
    """
    if name == "auto":
        for backend in backends.values():
            if cast(Any, backend).can_run(*given)[0]:
                return backend
    if name not in backends:
        raise ValueError(f"backend must be auto or one of {', '.join(backends)}, got {name!r}")
    able, reason = cast(Any, backends[name]).can_run(*given)
    if not able:
        raise RuntimeError(f"{operation} backend {name!r} cannot run: {reason}")
    return backends[name]
