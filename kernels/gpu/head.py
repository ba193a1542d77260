"""The head of stage 2 on a GPU: the launches that turn features into click probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from kernels.gpu.head_kernels import hidden_kernel, output_kernel
from kernels.gpu.keys import tensor
from kernels.gpu.launch import Launch, starts_early

MAX_HIDDEN = 256
# Three products of the matrix unit for each of float32, which keeps 21 bits or more; one alone would keep 10.
_PRECISION = "tf32x3"


@dataclass(frozen=True, slots=True, eq=False)
class DeviceHead:
    """`kernels.HeadWeights` as float32 tensors: F = 3R + 1 + E inputs, at most 256 numbers in the second layer. The PReLU slopes and `b3`
    are numbers, fixed in a captured graph. A `center` is the caller's to take from extra, and that of mass to fold into b1."""

    w1: Tensor
    b1: Tensor
    a1: float
    w2: Tensor
    b2: Tensor
    a2: float
    w3: Tensor
    b3: float


def check_head(head: DeviceHead, features: int, device: torch.device) -> None:
    """Raises: ValueError naming the argument and the value."""
    tensor("head.w1", head.w1, torch.float32, (features, None), device)
    tensor("head.b1", head.b1, torch.float32, (head.w1.shape[1],), device)
    tensor("head.w2", head.w2, torch.float32, (head.w1.shape[1], None), device)
    second = head.w2.shape[1]
    if not 1 <= second <= MAX_HIDDEN:
        raise ValueError(f"head.w2 must be 1..{MAX_HIDDEN} wide on a GPU, got {second}")
    tensor("head.b2", head.b2, torch.float32, (second,), device)
    tensor("head.w3", head.w3, torch.float32, (second,), device)


def head_launches(head: DeviceHead, features_TF: Tensor, hidden: Tensor, click_probability_T: Tensor) -> list[Launch]:
    """The launches of a head that `check_head` has passed, over rows of which the first F are features."""
    targets, (inputs, first), second = len(features_TF), head.w1.shape, head.w2.shape[1]
    rows, columns = 16, 64
    waits = {"PRECISION": _PRECISION, "EARLY": starts_early(features_TF.device)}
    options = {"num_warps": 4, "launch_pdl": starts_early(features_TF.device)}
    return [
        Launch(
            hidden_kernel,
            (triton.cdiv(targets, rows), triton.cdiv(first, columns)),
            {
                "x": features_TF,
                "w": head.w1,
                "b": head.b1,
                "hidden": hidden,
                "rows": targets,
                "slope": head.a1,
                "x_stride": features_TF.shape[1],
            },
            {"INPUTS": inputs, "OUTPUTS": first, "ROWS": rows, "COLUMNS": columns, "DEEP": 64, **waits},
            {**options, "num_stages": 3},
        ),
        Launch(
            output_kernel,
            (triton.cdiv(targets, 16),),
            {
                "x": hidden,
                "w": head.w2,
                "b": head.b2,
                "w3": head.w3,
                "b3": head.b3,
                "probability": click_probability_T,
                "rows": targets,
                "slope": head.a2,
            },
            {
                "INPUTS": first,
                "OUTPUTS": second,
                "ROWS": 16,
                "COLUMNS": max(16, triton.next_power_of_2(second)),
                "DEEP": 64,
                **waits,
            },
            {**options, "num_stages": 2},
        ),
    ]
