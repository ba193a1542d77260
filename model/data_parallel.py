"""Data-parallel training: several processes, each with its share of a step's chunks, make one and the same step."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed, nn

Chunk = npt.NDArray[np.intp]
_ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Ranks:
    """The processes that train together: this one is `rank` of `size`, and the first validates, saves and exports. Alone by default.

    Every method but `take` is a meeting: each rank must call it, in the same order.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.share = 1.0
        """This rank's part of the rows of the step under way, 0..1."""

    @property
    def first(self) -> bool:
        """Whether this rank does what one process must do alone."""
        return self.rank == 0

    def take(self, chunks: Sequence[Chunk], work: Callable[[Chunk], int]) -> list[Chunk]:
        """This rank's chunks of a step, the largest dealt first, each to the rank with the least `work` so far.

        A rank for which none is left takes the first with share 0: it counts for nothing, but meets the others.
        """
        if self.size == 1:
            return list(chunks)
        sizes = [work(chunk) for chunk in chunks]
        load = [0] * self.size
        mine = []
        for i in sorted(range(len(chunks)), key=lambda i: -sizes[i]):
            to = load.index(min(load))
            load[to] += sizes[i]
            if to == self.rank:
                mine.append(i)
        self.share = sum(len(chunks[i]) for i in mine) / sum(len(chunk) for chunk in chunks)
        return [chunks[i] for i in sorted(mine)] or [chunks[0]]

    def sum_gradients(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> float:
        """Add up the gradients of all ranks, in place, and their losses; both weighted with `share` before."""
        if self.size == 1:
            return float(loss.detach())
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        parts = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in trained]
        total = torch.cat([loss.detach().reshape(1), *(part.flatten() for part in parts)])
        distributed.all_reduce(total)
        for parameter, part in zip(trained, torch.split(total[1:], [part.numel() for part in parts]), strict=True):
            parameter.grad = part.view_as(parameter)
        return float(total[0])

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        if self.size == 1:
            return flag
        found = torch.tensor([float(flag)])
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return bool(found)

    def from_first(self, value: Callable[[], float]) -> float:
        """The value that the first rank computes; the others wait for it."""
        if self.size == 1:
            return value()
        found = torch.tensor([value() if self.first else 0.0], dtype=torch.float64)
        distributed.broadcast(found, 0)
        return float(found)

    def from_first_tensor(self, value: Tensor) -> None:
        """Make the value, of one shape and type on all ranks, that of the first rank, in place."""
        if self.size > 1:
            distributed.broadcast(value, 0)

    def check_same(self, what: str, value: object) -> None:
        """Raises: ValueError on every rank where their values differ (`repr` is compared)."""
        if self.size == 1:
            return
        digest = int.from_bytes(hashlib.sha256(repr(value).encode()).digest()[:7], "big")
        extremes = torch.tensor([digest, -digest])
        distributed.all_reduce(extremes, distributed.ReduceOp.MAX)
        if int(extremes[0]) != -int(extremes[1]):
            raise ValueError(f"the {self.size} ranks do not agree on {what}; this one (rank {self.rank}) has {value}")

    def synchronise(self, model: nn.Module) -> None:
        """Start every rank from the first one's parameters and buffers, and let each BatchNorm see the rows of all."""
        if self.size == 1:
            return
        for tensor in model.state_dict().values():
            self.from_first_tensor(tensor)
        for module in list(model.modules()):
            for name, child in module.named_children():
                if type(child) is nn.BatchNorm1d:
                    setattr(module, name, _SharedBatchNorm(child, self))


@contextmanager
def joined() -> Iterator[Ranks]:
    """Meet the other processes that torchrun started (its environment says how many); without torchrun, a process alone.

    Raises: ValueError naming what is missing of torchrun's environment.
    """
    if not any(name in os.environ for name in _ENVIRONMENT[:2]):
        yield Ranks()
        return
    missing = [name for name in _ENVIRONMENT if not os.environ.get(name)]
    if missing:
        raise ValueError(f"torchrun sets {', '.join(_ENVIRONMENT)}; here {missing[0]} is not set")
    distributed.init_process_group("gloo")  # what is trained lies in the CPU's memory
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


class _SumOverRanks(torch.autograd.Function):
    """y = sum of the x of all ranks. Every rank's loss depends on y, so the gradient of x is the sum over all ranks too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone()
        distributed.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone()
        distributed.all_reduce(grad)
        return grad


def _sum_over_ranks(x: Tensor) -> Tensor:
    y: Tensor = _SumOverRanks.apply(x)  # type: ignore[no-untyped-call]
    return y


class _SharedBatchNorm(nn.BatchNorm1d):
    """BatchNorm whose mean and variance in training are those of the rows of all ranks. Takes the place of `norm`, with its weights."""

    def __init__(self, norm: nn.BatchNorm1d, ranks: Ranks) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.load_state_dict(norm.state_dict())
        self._ranks = ranks

    def forward(self, x_MF: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_MF)
        counts = float(self._ranks.share > 0)
        sums = _sum_over_ranks(torch.cat([x_MF.sum(0), x_MF.new_tensor([len(x_MF)])]) * counts)
        rows, mean_F = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        centred_MF = x_MF - mean_F
        variance_F = _sum_over_ranks(centred_MF.square().sum(0) * counts) / rows
        if self.running_mean is not None and self.running_var is not None and self.momentum is not None:
            with torch.no_grad():
                self.running_mean.lerp_(mean_F, self.momentum)
                self.running_var.lerp_(variance_F * (rows / (rows - 1)), self.momentum)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked += 1
        scaled_MF = centred_MF * torch.rsqrt(variance_F + self.eps)
        return scaled_MF * self.weight + self.bias if self.affine else scaled_MF
