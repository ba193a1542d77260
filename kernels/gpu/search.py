"""Stage 1 on a GPU: `search_topk` for batched users with ragged histories, in a workspace allocated once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.keys import RaggedKeys, tensor
from kernels.gpu.launch import Launch
from kernels.gpu.search_kernels import group_max_kernel, keep_best_kernel

MAX_KEPT = 512
GROUP = 16
# The matrix unit's number format for each format of keys, and a bound of the relative error of a product in it: rounding of one or
# both factors (int8 is exact in fp16), with a tenth to spare. README.md derives the bound of a score.
_FILTER: dict[torch.dtype, tuple[Any, float]] = {
    torch.float32: (tl.float32, 1.1 * 2**-9),
    torch.bfloat16: (tl.bfloat16, 1.1 * 2**-9),
    torch.float16: (tl.float16, 1.1 * 2**-11),
    torch.int8: (tl.float16, 1.1 * 2**-11),
}


@dataclass(frozen=True, slots=True)
class SearchTiling:
    """Compile-time sizes of both passes.

    A key is padded to `a_pad` numbers; pass 1 takes `targets` x `columns` scores at a time and loads keys `stages` tiles ahead; pass 2
    bounds with `coarse` maxima, rescans `rescan` behaviors at a time and lists at most `capacity` of them.
    """

    a_pad: int
    k_pad: int
    targets: int
    columns: int
    stages: int
    coarse: int
    rescan: int
    capacity: int

    @classmethod
    def choose(cls, width: int, dtype: torch.dtype, k: int, most_targets: int) -> SearchTiling:
        """Sizes that fit an A100's registers and shared memory, not yet tuned on a device."""
        a_pad, k_pad = max(16, triton.next_power_of_2(width)), max(16, triton.next_power_of_2(k))
        row_bytes = a_pad * dtype.itemsize
        rescan = min(8, max(1, 256 // a_pad)) * GROUP
        return cls(
            a_pad=a_pad,
            k_pad=k_pad,
            targets=16 if most_targets <= 16 else 32 if most_targets <= 128 or row_bytes > 512 else 64,
            columns=32 if row_bytes > 256 else 64,
            stages=3 if row_bytes <= 256 else 2,
            coarse=max(1024, 8 * k_pad),
            rescan=rescan,
            capacity=triton.next_power_of_2(max(512, k_pad + rescan)),
        )

    @property
    def block(self) -> int:
        """Behaviors of a block of pass 1."""
        return GROUP * self.columns


class SearchWorkspace:
    """Every buffer of a search, allocated once, so that a call allocates nothing and can be captured in a CUDA graph.

    Args:
        keys: its users, longest history, width, dtype and device are the limits of later calls.
        num_targets: T, targets of all users together. most_targets: of one user (all of them unless given). k: behaviors to keep.
    Raises: ValueError naming the argument and the value.

    `index_TK` int32 and `score_TK` float32 hold the answer of the last call and are overwritten by the next.
    """

    def __init__(self, keys: RaggedKeys, num_targets: int, k: int, *, most_targets: int | None = None) -> None:
        most_targets = num_targets if most_targets is None else most_targets
        if not 1 <= k <= MAX_KEPT:
            raise ValueError(f"k must be in 1..{MAX_KEPT} on a GPU, got {k}")
        if num_targets < 0:
            raise ValueError(f"num_targets must be at least 0, got {num_targets}")
        if not 0 <= most_targets <= num_targets:
            raise ValueError(f"most_targets must be in 0..{num_targets}, got {most_targets}")
        self.k, self.num_targets, self.most_targets = k, num_targets, most_targets
        self.users, self.longest, self.width, self.dtype, self.device = keys.users, keys.longest, keys.width, keys.key_MA.dtype, keys.device
        self.tiling = SearchTiling.choose(keys.width, self.dtype, k, most_targets)
        self.blocks = triton.cdiv(keys.longest, self.tiling.block)
        if self.blocks > 65535 or self.users > 65535:
            raise ValueError(
                f"at most 65535 users and {65535 * self.tiling.block} behaviors fit a launch, got {self.users}, {keys.longest}"
            )

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=keys.device)

        self.group_max = empty(num_targets, self.blocks * self.tiling.columns)
        self.key_square = empty(self.users, self.blocks)
        self.kept_list = empty(num_targets, self.tiling.capacity, dtype=torch.int64)
        self.index_TK, self.score_TK = empty(num_targets, k, dtype=torch.int32), empty(num_targets, k)

    @property
    def nbytes(self) -> int:
        """Bytes held on the device."""
        return sum(each.nbytes for each in (self.group_max, self.key_square, self.kept_list, self.index_TK, self.score_TK))


@dataclass(frozen=True, slots=True, eq=False)
class SameItemBonus:
    """Behaviors of the target's own item gain `value`: `item_M` int32 [M] and `target_item_T` int32 [T] are compared."""

    item_M: Tensor
    target_item_T: Tensor
    value: float


def search_topk(
    attn_target_TA: Tensor,
    target_start_U1: Tensor,
    keys: RaggedKeys,
    workspace: SearchWorkspace,
    *,
    bias_M: Tensor | None = None,
    valid_M: Tensor | None = None,
    category_M: Tensor | None = None,
    category_score_TC: Tensor | None = None,
    bonus: SameItemBonus | None = None,
) -> tuple[Tensor, Tensor]:
    """The K best of its user's behaviors for each target: two launches, no wait for the device, no allocation.

    score[t, j] = <target_t, key_j> + bias[j] + category_score[t, category_j] (+ the bonus on the target's own item), in float32 and
    exact for the keys as given (DARE equations 1 and 2). No T x L scores are stored.

    Args:
        attn_target_TA: float32 [T, A], finite. target_start_U1: int32 [U + 1], user u has the targets start[u]..start[u + 1] - 1.
        keys: all users' behaviors, M rows. workspace: made for these sizes; its `index_TK` and `score_TK` are returned.
        bias_M: float32 [M]. valid_M: bool [M], False never competes, whatever its key holds.
        category_M: int32 [M], columns of category_score_TC, float32 [T, C]; the range is not checked, as that would wait for the device.
    Returns: index int32 [T, K], positions in the user's own history, and score float32 [T, K], best first, ties newer (higher index)
        first; -1 and -inf past the valid behaviors.
    Raises: ValueError naming the argument and the value, as far as the host can see it. Values are the caller's duty: NaN or infinity in
        a target or in a valid behavior makes the answers of that target or user undefined, and no others.
    """
    for launch in search_launches(attn_target_TA, target_start_U1, keys, workspace, bias_M, valid_M, category_M, category_score_TC, bonus):
        launch.run()
    return workspace.index_TK, workspace.score_TK


def search_launches(
    attn_target_TA: Tensor,
    target_start_U1: Tensor,
    keys: RaggedKeys,
    w: SearchWorkspace,
    bias_M: Tensor | None = None,
    valid_M: Tensor | None = None,
    category_M: Tensor | None = None,
    category_score_TC: Tensor | None = None,
    bonus: SameItemBonus | None = None,
) -> list[Launch]:
    """The checked launches of `search_topk`, in order. Raises: ValueError as `search_topk`."""
    _check(attn_target_TA, target_start_U1, keys, w, bias_M, valid_M, category_M, category_score_TC, bonus)
    tiling, (matrix_format, rounding) = w.tiling, _FILTER[keys.key_MA.dtype]
    arguments = {
        "target": attn_target_TA,
        "key": keys.key_MA,
        "scale": keys.scale_UA,
        "key_start": keys.start_U1,
        "target_start": target_start_U1,
        "bias": bias_M,
        "valid": None if valid_M is None else valid_M.view(torch.int8),
        "category": category_M,
        "category_score": category_score_TC,
        "num_categories": 0 if category_score_TC is None else category_score_TC.shape[1],
        "item": None if bonus is None else bonus.item_M,
        "target_item": None if bonus is None else bonus.target_item_T,
        "bonus": 0.0 if bonus is None else bonus.value,
        "group_max": w.group_max,
    }
    constants = {
        "A": keys.width,
        "A_PAD": tiling.a_pad,
        "COLUMNS": tiling.columns,
        "GROUP": GROUP,
        "HAS_SCALE": keys.scale_UA is not None,
        "HAS_VALID": valid_M is not None,
        "HAS_BIAS": bias_M is not None,
        "HAS_CATEGORY": category_score_TC is not None,
        "HAS_BONUS": bonus is not None,
    }
    strides = {"group_stride": w.group_max.shape[1], "block_stride": w.blocks}
    # A product and a sum that are rounded apart give equal keys equal scores wherever they stand in a tile: the tie rule needs it.
    options = {"enable_fp_fusion": False}
    # Twice the threads where four warps would spill: gathered terms, wide keys, many kept.
    wide = category_M is not None or bonus is not None or tiling.a_pad > 64
    return [
        Launch(
            group_max_kernel,
            (1 + triton.cdiv(w.most_targets, tiling.targets), w.blocks, w.users),
            {**arguments, "key_square": w.key_square, **strides},
            {**constants, "TARGETS": tiling.targets, "FILTER": matrix_format, "INTERPRETED": triton.knobs.runtime.interpret},
            {**options, "num_stages": tiling.stages, "num_warps": 8 if wide else 4, "maxnreg": 208},
        ),
        Launch(
            keep_best_kernel,
            (w.most_targets, w.users),
            {
                **arguments,
                "survivor": w.group_max.view(torch.int32),
                "key_square": w.key_square,
                "kept_list": w.kept_list,
                "index": w.index_TK,
                "score": w.score_TK,
                **strides,
                "k": w.k,
            },
            {
                **constants,
                "COARSE": tiling.coarse,
                "RESCAN": tiling.rescan,
                "CAPACITY": tiling.capacity,
                "K_PAD": tiling.k_pad,
                # Sums of `A` products, here and in the matrix unit, err by less than A 2^-22 of |target| |key|.
                "ERROR": rounding + keys.width * 2.0**-22,
            },
            {**options, "num_warps": 4 if tiling.k_pad <= 128 else 8, "maxnreg": 144},
        ),
    ]


def _check(
    target: Tensor,
    target_start: Tensor,
    keys: RaggedKeys,
    w: SearchWorkspace,
    bias: Tensor | None,
    valid: Tensor | None,
    category: Tensor | None,
    category_score: Tensor | None,
    bonus: SameItemBonus | None,
) -> None:
    rows, device = len(keys.key_MA), keys.device
    made_for = (w.users, w.width, w.dtype, w.device)
    if made_for != (keys.users, keys.width, keys.key_MA.dtype, device):
        given = (keys.users, keys.width, keys.key_MA.dtype, device)
        raise ValueError(f"the workspace is for keys of (users, width, dtype, device) {made_for}, got {given}")
    if keys.longest > w.longest:
        raise ValueError(f"the workspace is for histories of at most {w.longest}, got keys whose longest is {keys.longest}")
    tensor("attn_target_TA", target, torch.float32, (w.num_targets, keys.width), device)
    tensor("target_start_U1", target_start, torch.int32, (keys.users + 1,), device)
    if bias is not None:
        tensor("bias_M", bias, torch.float32, (rows,), device)
    if valid is not None:
        tensor("valid_M", valid, torch.bool, (rows,), device)
    if (category is None) != (category_score is None):
        raise ValueError("category_M and category_score_TC must be given together or not at all")
    if category is not None and category_score is not None:
        tensor("category_M", category, torch.int32, (rows,), device)
        tensor("category_score_TC", category_score, torch.float32, (w.num_targets, None), device)
    if bonus is not None:
        tensor("bonus.item_M", bonus.item_M, torch.int32, (rows,), device)
        tensor("bonus.target_item_T", bonus.target_item_T, torch.int32, (w.num_targets,), device)
        if not abs(bonus.value) < float("inf"):
            raise ValueError(f"bonus.value must be finite, got {bonus.value}")
