"""Stage 1 on a GPU: `search_topk` for batched users with ragged histories, in a workspace allocated once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu import MAX_KEPT
from kernels.gpu.keys import RaggedKeys, tensor
from kernels.gpu.launch import Launch, generation, starts_early
from kernels.gpu.search_kernels import group_max_kernel, keep_best_kernel

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

    A key is padded to `a_pad` numbers and K to `k_pad`. Pass 1 takes `targets` x `columns` scores at a time, keeps the maximum of `group`
    of them, and loads keys `stages` tiles ahead, in `filter_warps` warps. Pass 2 bounds with `coarse` maxima, rescans `rescan` behaviors
    at a time, each in pieces of `chunk` numbers, and lists at most `capacity` of them, in `keep_warps` warps. A thread has at most
    `filter_registers` and `keep_registers`.
    """

    a_pad: int
    k_pad: int
    targets: int
    columns: int
    group: int
    stages: int
    filter_warps: int
    filter_registers: int
    coarse: int
    rescan: int
    chunk: int
    capacity: int
    keep_warps: int
    keep_registers: int

    @classmethod
    def choose(
        cls, width: int, dtype: torch.dtype, k: int, targets: int, most_targets: int, longest: int, generation: int = 9
    ) -> SearchTiling:
        """Sizes measured on an H100 at the benchmark's shapes; elsewhere such that nothing spills. `generation` is the first number of the
        compute capability: 8, 9 or 10."""
        a_pad, k_pad = max(16, triton.next_power_of_2(width)), max(16, triton.next_power_of_2(k))
        row_bytes, coarse, hopper = a_pad * dtype.itemsize, max(512, 8 * k_pad), generation == 9
        # Small groups leave pass 2 little to score again; large ones keep the maxima of a long history in the cache.
        group = 4 if longest <= 16_384 else 8 if longest <= 65_536 else 16
        # A lone warp waits for no other, and many targets fill the device all the same; few targets need more threads each.
        keep_warps = 4
        if k_pad > 128:
            keep_warps = 8
        elif k_pad <= 64 and row_bytes <= 64 and targets >= 64:
            keep_warps = 1 if targets >= 2048 else 2
        elif k_pad > 64 and a_pad == 16 and dtype.itemsize == 2 and targets >= 768:
            keep_warps = 2
        keep_registers = 208 if keep_warps == 8 or generation >= 10 else 168
        if hopper and row_bytes <= 32 and keep_warps == 4:
            keep_registers = 96
        elif hopper and row_bytes <= 32 and dtype.itemsize == 2 and keep_warps < 4:
            # Beside the programs of pass 1, those of pass 2 find room at 112 that they do not at 120: 13.5 against 16.3 us.
            keep_registers = 112 if k_pad <= 64 and keep_warps == 2 else 128
        # For a B200 the compiler spills where the loop over 4 tiles of 64 is unrolled, but for int8.
        narrow = row_bytes > (256 if hopper else 128) or (generation >= 10 and group == 4 and dtype != torch.int8)
        # 128 bytes of keys a thread are under way at a time, less where the compiler for later devices would spill.
        thread_bytes = 128 if generation < 10 else 32 * min(2, dtype.itemsize)
        rescan = min(512, max(group, 32 * keep_warps * thread_bytes // row_bytes))
        return cls(
            a_pad=a_pad,
            k_pad=k_pad,
            targets=16 if most_targets <= 16 or row_bytes > 512 else 32 if most_targets <= 128 else 64,
            columns=16 if row_bytes > 256 else 32 if narrow or targets * longest < 1_000_000 else 64,
            group=group,
            stages=3 if row_bytes <= 256 else 2,
            filter_warps=2 if most_targets <= 16 else 8 if a_pad > 64 and row_bytes <= 512 else 4,
            filter_registers=208 if a_pad > 16 else 96 if hopper else 168,
            coarse=coarse,
            rescan=rescan,
            chunk=min(a_pad, max(16 if row_bytes <= 64 else 64, row_bytes // 8) // dtype.itemsize),
            capacity=triton.next_power_of_2(max(512, k_pad + rescan + 8, coarse // 2)),
            keep_warps=keep_warps,
            keep_registers=keep_registers,
        )

    @property
    def block(self) -> int:
        """Behaviors of a block of pass 1."""
        return self.group * self.columns


class SearchWorkspace:
    """Every buffer of a search, allocated once, so that a call allocates nothing and can be captured in a CUDA graph.

    Args:
        keys: its users, longest history, width, dtype and device are the limits of later calls.
        num_targets: T, targets of all users together. most_targets: of one user (all of them unless given). k: behaviors to keep.
        tiling: sizes other than those that `SearchTiling.choose` gives, for tuning.
    Raises: ValueError naming the argument and the value.

    `index_TK` int32 and `score_TK` float32 hold the answer of the last call and are overwritten by the next.
    """

    def __init__(
        self, keys: RaggedKeys, num_targets: int, k: int, *, most_targets: int | None = None, tiling: SearchTiling | None = None
    ) -> None:
        most_targets = num_targets if most_targets is None else most_targets
        if not 1 <= k <= MAX_KEPT:
            raise ValueError(f"k must be in 1..{MAX_KEPT} on a GPU, got {k}")
        if num_targets < 0:
            raise ValueError(f"num_targets must be at least 0, got {num_targets}")
        if not 0 <= most_targets <= num_targets:
            raise ValueError(f"most_targets must be in 0..{num_targets}, got {most_targets}")
        self.k, self.num_targets, self.most_targets = k, num_targets, most_targets
        self.users, self.longest, self.width, self.dtype, self.device = keys.users, keys.longest, keys.width, keys.key_MA.dtype, keys.device
        self.tiling = tiling or SearchTiling.choose(
            keys.width, self.dtype, k, num_targets, most_targets, keys.longest, generation(keys.device)
        )
        self.blocks = triton.cdiv(keys.longest, self.tiling.block)
        if self.blocks > 65535 or self.users > 65535:
            raise ValueError(
                f"at most 65535 users and {65535 * self.tiling.block} behaviors fit a launch, got {self.users}, {keys.longest}"
            )
        if keys.longest * keys.width >= 2**31:
            raise ValueError(f"a history must hold less than 2^31 numbers, got {keys.longest} keys of {keys.width}")

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
    rows, early = min(tiling.rescan, 32 * tiling.keep_warps), starts_early(w.device)
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
        "GROUP": tiling.group,
        "EARLY": early,
        "HAS_SCALE": keys.scale_UA is not None,
        "HAS_VALID": valid_M is not None,
        "HAS_BIAS": bias_M is not None,
        "HAS_CATEGORY": category_score_TC is not None,
        "HAS_BONUS": bonus is not None,
    }
    strides = {"group_stride": w.group_max.shape[1], "blocks": w.blocks}
    # A product and a sum that are rounded apart give equal keys equal scores wherever they stand in a tile: the tie rule needs it.
    options = {"enable_fp_fusion": False}
    # Gathered terms take more registers, in pass 1 more than four warps have.
    gathered = category_M is not None or bonus is not None
    filter_warps = max(8, tiling.filter_warps) if gathered else tiling.filter_warps
    return [
        Launch(
            group_max_kernel,
            (1 + triton.cdiv(w.most_targets, tiling.targets), w.blocks, w.users),
            {**arguments, "key_square": w.key_square, **strides},
            {
                **constants,
                "TARGETS": tiling.targets,
                "COLUMNS": tiling.columns,
                "FILTER": matrix_format,
                "INTERPRETED": triton.knobs.runtime.interpret,
            },
            {**options, "num_stages": tiling.stages, "num_warps": filter_warps, "maxnreg": 208 if gathered else tiling.filter_registers},
        ),
        Launch(
            keep_best_kernel,
            (w.most_targets, w.users),
            {
                **arguments,
                "survivor": w.group_max.view(torch.int32),
                "key_square": w.key_square,
                "kept_list": w.kept_list,
                "lane_list": w.kept_list.view(torch.int32),
                "index": w.index_TK,
                "score": w.score_TK,
                **strides,
                "block": tiling.block,
                "k": w.k,
            },
            {
                **constants,
                "COARSE": tiling.coarse,
                # Maxima that a thread reads at once: 32.
                "FOLDS": max(1, min(4, 1024 * tiling.keep_warps // tiling.coarse)),
                "EACH": tiling.rescan // rows,
                "ROWS": rows,
                "CAPACITY": tiling.capacity,
                "SLOTS": max(tiling.k_pad, 32 * tiling.keep_warps),
                "CHUNK": tiling.chunk,
                "K_PAD": tiling.k_pad,
                # Sums of `A` products, here and in the matrix unit, err by less than A 2^-22 of |target| |key|.
                "ERROR": rounding + keys.width * 2.0**-22,
            },
            {
                **options,
                "num_warps": tiling.keep_warps,
                "maxnreg": 208 if gathered else tiling.keep_registers,
                "launch_pdl": generation(w.device) >= 9,
            },
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
