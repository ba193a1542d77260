"""What a user would run instead on a GPU: torch, JAX, CuPy, faiss, cuVS, each where it is installed and able."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from kernels.gpu.ranking import DeviceBehaviors, DeviceHead, DeviceTables, DeviceTargets

Found = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Rival:
    """`prepare` takes a problem of `kernels.gpu.bench` and gives the call to time; `capturable` in a CUDA graph."""

    prepare: Callable[[Any], Callable[[], Found]]
    capturable: bool


def search_rivals(bias: bool, category: bool, users: int, device: torch.device) -> dict[str, Rival | str]:
    """By name: the rival, or why it is left out at such a shape or on this machine."""
    plain = "has no bias, category scores or batches of users" if bias or category or users > 1 else None
    on_cpu = None if device.type == "cuda" else "needs a CUDA device"
    return {
        "torch matmul + topk": Rival(_torch_search, capturable=True),
        "torch matmul + topk of maxima": Rival(_torch_two_level, capturable=True),
        "JAX matmul + top_k": plain or on_cpu or _missing("jax") or Rival(_jax, capturable=False),
        "CuPy matmul + argpartition": plain or on_cpu or _missing("cupy") or Rival(_cupy, capturable=False),
        "faiss knn_gpu": plain or on_cpu or _no_faiss_gpu() or Rival(_faiss, capturable=False),
        "cuVS brute_force": plain or on_cpu or _missing("cuvs.neighbors") or Rival(_cuvs, capturable=False),
    }


def torch_ranking(
    index_NK: Tensor, score_NK: Tensor, tables: DeviceTables, behavior: DeviceBehaviors, target: DeviceTargets, head: DeviceHead,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Stage 2 as a model's code has it, in `dtype`: every kept row gathered, weighted and summed. One user, every place kept."""
    place = index_NK.long()
    kept = torch.cat([
        tables.item[behavior.item_M[place].long()], tables.category[behavior.category_M[place].long()],
        tables.recency[behavior.recency_M[place].long()],
    ], dim=-1).to(dtype)  # fmt: skip
    score = score_NK.to(dtype)
    h = torch.einsum("nk,nkr->nr", score.softmax(1), kept)
    recency = tables.recency[:1].expand(len(place), -1)
    u = torch.cat([tables.item[target.item_T.long()], tables.category[target.category_T.long()], recency], dim=-1).to(dtype)
    mass = torch.nn.functional.softplus(score.logsumexp(1, keepdim=True))
    x = torch.cat([u, h, u * h, mass], dim=-1)
    for w, b, a in ((head.w1, head.b1, head.a1), (head.w2, head.b2, head.a2)):
        x = torch.nn.functional.leaky_relu(torch.addmm(b.to(dtype), x, w.to(dtype)), a)
    return (x @ head.w3.to(dtype) + head.b3).sigmoid()


def _scores(problem: Any) -> Tensor:
    """float32 [users, N, L], all of them in memory."""
    shape = problem.shape
    target = problem.target_TA.view(shape.users, shape.targets, shape.width)
    score = torch.bmm(target, problem.key_MA.view(shape.users, shape.length, shape.width).mT)
    if problem.bias_M is not None:
        score += problem.bias_M.view(shape.users, 1, shape.length)
    if problem.category_M is not None:
        column = problem.category_M.view(shape.users, 1, shape.length).long().expand_as(score)
        score += problem.category_score_TC.view(shape.users, shape.targets, -1).gather(2, column)
    return score


def _torch_search(problem: Any) -> Callable[[], Found]:
    shape = problem.shape

    def call() -> Found:
        value, index = _scores(problem).topk(min(shape.kept, shape.length))
        return index.flatten(0, 1), value.flatten(0, 1)

    return call


def _torch_two_level(problem: Any) -> Callable[[], Found]:
    """The maxima of groups first: the k best scores lie in the k groups with the largest."""
    shape = problem.shape
    kept = min(shape.kept, shape.length)
    size = max(n for n in range(1, 65) if shape.length % n == 0 and (n == 1 or shape.length // n >= 2 * kept))

    def call() -> Found:
        group = _scores(problem).flatten(0, 1).view(-1, shape.length // size, size)
        best = group.amax(2).topk(kept, sorted=False).indices
        value, place = group.gather(1, best[:, :, None].expand(-1, -1, size)).flatten(1).topk(kept)
        return best.gather(1, place // size) * size + place % size, value

    return call


def _jax(problem: Any) -> Callable[[], Found]:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    target, key = (jax.dlpack.from_dlpack(each) for each in (problem.target_TA, problem.key_MA))
    search = jax.jit(
        lambda q, k: jax.lax.top_k(jax.numpy.matmul(q, k.T, precision="highest"), min(problem.shape.kept, problem.shape.length))
    )

    def call() -> Found:
        # On a stream of its own, so each call is waited for.
        value, index = jax.block_until_ready(search(target, key))
        return from_dlpack(index), from_dlpack(value)

    return call


def _cupy(problem: Any) -> Callable[[], Found]:
    import cupy

    target, key = (cupy.from_dlpack(each) for each in (problem.target_TA, problem.key_MA))
    kept = min(problem.shape.kept, problem.shape.length)

    def call() -> Found:
        with cupy.cuda.Stream.from_external(torch.cuda.current_stream()):
            score = target @ key.T
            some = cupy.argpartition(-score, kept - 1, axis=1)[:, :kept]
            order = cupy.argsort(-cupy.take_along_axis(score, some, 1), axis=1)
            index = cupy.take_along_axis(some, order, 1)
            return from_dlpack(index), from_dlpack(cupy.take_along_axis(score, index, 1))

    return call


def _faiss(problem: Any) -> Callable[[], Found]:
    import faiss
    import faiss.contrib.torch_utils

    # The second import teaches knn_gpu torch's tensors.
    memory = faiss.StandardGpuResources()

    def call() -> Found:
        value, index = faiss.knn_gpu(memory, problem.target_TA, problem.key_MA, problem.shape.kept, metric=faiss.METRIC_INNER_PRODUCT)
        return index, value

    return call


def _cuvs(problem: Any) -> Callable[[], Found]:
    from cuvs.neighbors import brute_force

    built = brute_force.build(problem.key_MA, metric="inner_product")
    rows, device = len(problem.target_TA), problem.key_MA.device
    value = torch.empty(rows, problem.shape.kept, device=device)
    index = torch.empty(rows, problem.shape.kept, dtype=torch.int64, device=device)

    def call() -> Found:
        brute_force.search(built, problem.target_TA, problem.shape.kept, neighbors=index, distances=value)
        return index, value

    return call


def _missing(module: str) -> str | None:
    try:
        __import__(module)
    except ImportError as error:
        return f"{module} cannot be imported: {error}"
    return None


def _no_faiss_gpu() -> str | None:
    missing = _missing("faiss")
    if missing is not None:
        return missing
    import faiss

    return None if hasattr(faiss, "StandardGpuResources") else "the faiss installed is built for CPUs"
