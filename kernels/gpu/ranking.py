"""Stage 2 on a GPU: `pool_and_score` for the targets of batched users, in a workspace allocated once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from kernels.gpu import MAX_KEPT
from kernels.gpu.head import DeviceHead, check_head, head_launches
from kernels.gpu.keys import tensor
from kernels.gpu.launch import Launch, starts_early
from kernels.gpu.ranking_kernels import pool_kernel

MAX_TABLE_WIDTH = 512
MAX_EXTRA = 1024

__all__ = ["DeviceBehaviors", "DeviceHead", "DeviceTables", "DeviceTargets", "RankWorkspace", "pool_and_score"]


@dataclass(frozen=True, slots=True, eq=False)
class DeviceTables:
    """Representation tables on the device: `item` [V, Ri], `category` [C, Rc], `recency` [P, Rp], all float32 or all bfloat16."""

    item: Tensor
    category: Tensor
    recency: Tensor

    def __post_init__(self) -> None:
        kind, device = self.item.dtype, self.item.device
        if kind not in (torch.float32, torch.bfloat16):
            raise ValueError(f"tables must be float32 or bfloat16, got {kind}")
        for name in ("item", "category", "recency"):
            table = getattr(self, name)
            tensor(f"tables.{name}", table, kind, (None, None), device)
            if not 1 <= table.shape[1] <= MAX_TABLE_WIDTH:
                raise ValueError(f"tables.{name} must be 1..{MAX_TABLE_WIDTH} wide, got {table.shape[1]}")
        if len(self.recency) == 0:
            raise ValueError("tables.recency must hold row 0, the target's, got 0 rows")

    @property
    def width(self) -> int:
        """R."""
        return int(self.item.shape[1] + self.category.shape[1] + self.recency.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class DeviceBehaviors:
    """Table rows of all users' behaviors, int32 [M] each, with `start_U1` int32 [U + 1] as in `RaggedKeys`."""

    item_M: Tensor
    category_M: Tensor
    recency_M: Tensor
    start_U1: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class DeviceTargets:
    """Table rows of all users' targets, int32 [T] each, with `start_U1` int32 [U + 1]; a target's recency row is 0."""

    item_T: Tensor
    category_T: Tensor
    start_U1: Tensor


class RankWorkspace:
    """Every buffer of `pool_and_score` for T targets, at most `most_targets` of one user; the next call overwrites its answers."""

    def __init__(self, num_targets: int, head: DeviceHead, *, most_targets: int | None = None) -> None:
        most_targets = num_targets if most_targets is None else most_targets
        if not 0 <= most_targets <= num_targets:
            raise ValueError(f"most_targets must be in 0..{num_targets}, got {most_targets}")
        self.num_targets, self.most_targets = num_targets, most_targets
        features, hidden = head.w1.shape
        # Rows of a multiple of 16, which Triton specialises on: it then loads 16 bytes at a time.
        self.features_TF, self.hidden = (
            head.w1.new_empty(num_targets, triton.cdiv(features, 16) * 16),
            head.w1.new_empty(num_targets, hidden),
        )
        self.click_probability_T, self.mass_T = head.w1.new_empty(num_targets), head.w1.new_empty(num_targets)


def pool_and_score(
    index_TK: Tensor,
    score_TK: Tensor,
    tables: DeviceTables,
    behavior: DeviceBehaviors,
    target: DeviceTargets,
    extra_TE: Tensor,
    head: DeviceHead,
    workspace: RankWorkspace,
) -> tuple[Tensor, Tensor]:
    """Click probability of each target from its kept behaviors (DARE equations 3 to 6): three launches.

    Args:
        index_TK: int32 [T, K] positions in the user's own history, -1 for none. score_TK: float32 [T, K], never read where none.
        extra_TE: float32 [T, E], finite. Rows in `behavior` and `target` must exist in the tables: checking would wait for the device.
        workspace: made for T and this head.
    Returns: click probability float32 [T] and mass float32 [T], both the workspace's; with none kept h = 0 and mass = 0.
    Raises: ValueError naming the argument and the value.
    """
    w = workspace
    pool_launch(index_TK, score_TK, tables, behavior, target, extra_TE, head, w).run()
    for launch in head_launches(head, w.features_TF, w.hidden, w.click_probability_T):
        launch.run()
    return w.click_probability_T, w.mass_T


def pool_launch(
    index_TK: Tensor,
    score_TK: Tensor,
    tables: DeviceTables,
    behavior: DeviceBehaviors,
    target: DeviceTargets,
    extra_TE: Tensor,
    head: DeviceHead,
    w: RankWorkspace,
) -> Launch:
    """The checked launch of `pool_kernel`. Raises: ValueError naming the argument and the value."""
    device, targets, users = tables.item.device, w.num_targets, len(target.start_U1) - 1
    tensor("index_TK", index_TK, torch.int32, (targets, None), device)
    k = index_TK.shape[1]
    if not 1 <= k <= MAX_KEPT:
        raise ValueError(f"index_TK must be 1..{MAX_KEPT} wide, got {k}")
    tensor("score_TK", score_TK, torch.float32, (targets, k), device)
    rows = len(behavior.item_M)
    for name in ("item_M", "category_M", "recency_M"):
        tensor(f"behavior.{name}", getattr(behavior, name), torch.int32, (rows,), device)
    for name in ("item_T", "category_T"):
        tensor(f"target.{name}", getattr(target, name), torch.int32, (targets,), device)
    tensor("target.start_U1", target.start_U1, torch.int32, (None,), device)
    tensor("behavior.start_U1", behavior.start_U1, torch.int32, (users + 1,), device)
    if not 1 <= users <= 65535:
        raise ValueError(f"target.start_U1 must be for 1..65535 users, got {users}")
    tensor("extra_TE", extra_TE, torch.float32, (targets, None), device)
    extra = extra_TE.shape[1]
    if extra > MAX_EXTRA:
        raise ValueError(f"extra_TE must be at most {MAX_EXTRA} wide, got {extra}")
    features = 3 * tables.width + 1 + extra
    check_head(head, features, device)
    if tuple(w.hidden.shape) != (targets, head.w1.shape[1]) or w.features_TF.shape[1] != triton.cdiv(features, 16) * 16:
        raise ValueError(f"the workspace is for another head than one of {features} and {head.w1.shape[1]} inputs")
    widths = {"RI": tables.item.shape[1], "RC": tables.category.shape[1], "RP": tables.recency.shape[1]}
    padded = {f"{name}_PAD": max(4, triton.next_power_of_2(width)) for name, width in widths.items()}
    # Rows gathered at a time: 128 numbers of all tables a thread.
    warps = 1 if sum(padded.values()) <= 128 else 4
    chunk = max(8, min(64, triton.next_power_of_2(4096 * warps // sum(padded.values()) + 1) // 2))
    return Launch(
        pool_kernel,
        (w.most_targets, users),
        {
            "index": index_TK,
            "score": score_TK,
            "item": tables.item,
            "category": tables.category,
            "recency": tables.recency,
            "behavior_item": behavior.item_M,
            "behavior_category": behavior.category_M,
            "behavior_recency": behavior.recency_M,
            "behavior_start": behavior.start_U1,
            "target_start": target.start_U1,
            "target_item": target.item_T,
            "target_category": target.category_T,
            "extra": extra_TE,
            "features": w.features_TF,
            "mass": w.mass_T,
            "k": k,
            "extra_width": extra,
            "feature_stride": w.features_TF.shape[1],
        },
        {
            "K_PAD": max(16, triton.next_power_of_2(k)),
            "CHUNK": chunk,
            **widths,
            **padded,
            "E_PAD": max(4, triton.next_power_of_2(max(1, extra))),
            "EARLY": starts_early(device),
        },
        {"num_warps": warps, "enable_fp_fusion": False},
    )
