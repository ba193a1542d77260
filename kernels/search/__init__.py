"""Stage 1: keep the K best of one user's L behaviors for each of N targets, in attention space."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import numpy.typing as npt

from kernels.backends import chosen
from kernels.search import faiss_backend, native_backend, numpy_backend, reference, triton_backend
from kernels.search.arguments import checked
from kernels.search.faiss_index import APPROXIMATE, ApproximateBackend
from kernels.search.keys import F32, I32, ItemBonus, SearchKeys

__all__ = ["ItemBonus", "SearchKeys", "approximate_backends", "search_backends", "search_topk"]

_BACKENDS: dict[str, ModuleType] = {
    "native": native_backend,
    "numpy": numpy_backend,
    "faiss": faiss_backend,
    "triton": triton_backend,
    "reference": reference,
}
_NAMED: dict[str, ModuleType | ApproximateBackend] = {**_BACKENDS, **APPROXIMATE}


def search_backends() -> dict[str, tuple[bool, str]]:
    """Every backend, whether it can run here, and why or why not; the first that can is what "auto" uses."""
    return {name: backend.can_run() for name, backend in _BACKENDS.items()}


def approximate_backends() -> dict[str, tuple[bool, str]]:
    """The backends that may miss some of the best, for studies: used only where named, never by "auto"."""
    return {name: backend.can_run() for name, backend in APPROXIMATE.items()}


def search_topk(
    attn_target_NA: F32,
    attn_behavior_LA: F32 | SearchKeys,
    k: int,
    *,
    bias_L: F32 | None = None,
    valid_L: npt.NDArray[np.bool_] | None = None,
    category_L: I32 | None = None,
    category_score_NC: F32 | None = None,
    bonus: ItemBonus | None = None,
    backend: str = "auto",
    num_threads: int = 1,
) -> tuple[I32, F32]:
    """The K best behaviors for each target (DARE equations 1 and 2, scales folded into the inputs).

    score[n, j] = <target_n, key_j> + bias[j] + category_score[n, category_j] (+ the bonus on the target's own item), exact.

    Args:
        attn_target_NA: f32 [N, A]. attn_behavior_LA: f32 [L, A] oldest first, or prepared `SearchKeys`.
        k: behaviors to keep, at least 1; may exceed L.
        bias_L: f32 [L]. valid_L: bool [L], False never competes. category_L: int32 [L] columns of category_score_NC, f32 [N, C].
        backend: "auto", which is exact, a name of `search_backends()`, all exact, or of `approximate_backends()`. A backend asked for
            by name never falls back.
    Returns: index int32 [N, k] and score f32 [N, k], best first, ties newer (higher index) first; -1 and -inf past the valid behaviors.
    Raises: ValueError naming the argument and the value; RuntimeError when the named backend cannot run, with the reason.
    """
    arguments = checked(attn_target_NA, attn_behavior_LA, k, bias_L, valid_L, category_L, category_score_NC, bonus, num_threads)
    return chosen("search", _BACKENDS if backend == "auto" else _NAMED, backend, arguments).search(arguments)
