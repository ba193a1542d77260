"""`kernels.search_topk` on the device for one user at a time: NumPy in, NumPy out.

A user's keys are copied to the device at their first search and stay there, so a request moves targets, bias and the answer alone; keys
appended since follow them. One search runs at a time, in one stream: it fills a device, and its buffers can be shared.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton
from torch import Tensor

from kernels import gpu
from kernels.gpu.keys import RaggedKeys
from kernels.gpu.search import SameItemBonus, SearchWorkspace, search_topk
from kernels.room import Room
from kernels.search.arguments import F32, I32, SearchArguments
from kernels.search.keys import ItemBonus, SearchKeys

_MOST_TARGETS = 4096
_FEWEST, _SHORTEST = 16, 256
"""Targets and kept behaviors, and lengths, are rounded up to powers of two from here on: a workspace, and what Triton compiles,
serve many calls."""
_WORKSPACES = 8
_MOST = 1e37
"""Scores that could be larger than this are refused: beyond float32 they would have no order."""
_SHARE, _INTERPRETED_BYTES = 0.5, 1 << 30
"""Share of the device's free memory that keys may take."""
_NOBODY = -2


class _Rows(Room):
    """Keys on the device, [capacity, A], of a user's older and newer forms; None once they had to make room."""

    def __init__(self, key: Tensor, used: int) -> None:
        super().__init__(len(key), used)
        self.key: Tensor | None = key


@dataclass(frozen=True, slots=True)
class OnDevice:
    """`length` rows from the first of `rows` on are keys, before the first of which `dropped` had left; none is larger than `most`."""

    rows: _Rows
    dropped: int
    length: int
    most: float


class _Memory:
    """Keys on the device: where those in use take more than `limit` bytes, the ones searched least lately are let go."""

    def __init__(self, limit: float) -> None:
        self.limit, self._held = limit, 0
        self._bytes: OrderedDict[weakref.ref[_Rows], int] = OrderedDict()

    def used(self, rows: _Rows, key: Tensor) -> None:
        """Count these in, as the newest."""
        own = weakref.ref(rows)
        if own in self._bytes:
            self._bytes.move_to_end(own)
            return
        self._bytes[own] = key.nbytes
        self._held += key.nbytes
        if self._held <= self.limit:
            return
        for known in [known for known in self._bytes if known() is None]:  # forgotten by all who knew them, and freed
            self._held -= self._bytes.pop(known)
        while self._held > self.limit and len(self._bytes) > 1:
            known, size = self._bytes.popitem(last=False)
            self._held -= size
            if (oldest := known()) is not None:
                oldest.key = None


_LOCK = threading.Lock()
_workspaces: OrderedDict[tuple[int, ...], SearchWorkspace] = OrderedDict()


@cache
def _device() -> torch.device:
    able, reason = gpu.can_run()
    if not able:
        raise RuntimeError(f"search backend 'triton' cannot run: {reason}")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def _memory() -> _Memory:
    return _Memory(_SHARE * torch.cuda.mem_get_info()[0] if _device().type == "cuda" else _INTERPRETED_BYTES)


def search(a: SearchArguments) -> tuple[I32, F32]:
    """See `kernels.search_topk`: checked arguments, of which k is at most 512 and the width at most 256.

    Raises: RuntimeError, ValueError as `kernels.search.triton_backend.search`.
    """
    num_targets, (length, width) = len(a.target_NA), a.keys.key_LA.shape
    index_NK = np.full((num_targets, a.k), -1, dtype=np.int32)
    score_NK = np.full((num_targets, a.k), -np.inf, dtype=np.float32)
    if not num_targets or not length:
        return index_NK, score_NK
    if width == 0:  # one more dimension that adds nothing
        a = a._replace(target_NA=np.zeros((num_targets, 1), np.float32), keys=SearchKeys(np.zeros((length, 1), np.float32)))
    with _LOCK:
        held, room = _on_device(a.keys)
        first = a.keys.dropped - held.dropped
        key = room[first : first + length]
        _refuse_overflow(a, held.most)
        item_L, own_N = (None, None) if a.bonus is None else _items(a.bonus, length)
        for start in range(0, num_targets, _MOST_TARGETS):
            some = slice(start, start + _MOST_TARGETS)
            index, score = _searched(a, key, some, item_L, None if own_N is None else own_N[some])
            index_NK[some], score_NK[some] = index[:, : a.k].cpu().numpy(), score[:, : a.k].cpu().numpy()
    return index_NK, score_NK


def _searched(a: SearchArguments, key: Tensor, some: slice, item_L: I32 | None, own_n: I32 | None) -> tuple[Tensor, Tensor]:
    """The kept of some of the targets, in buffers that the next search writes."""
    target = a.target_NA[some]
    count, (length, width) = len(target), key.shape
    keys = RaggedKeys(key, torch.tensor([0, length], dtype=torch.int32, device=_device()), length)
    workspace = _workspace(_at_least(count, _FEWEST), _at_least(length, _SHORTEST), _at_least(a.k, _FEWEST), width)
    bonus = None
    if a.bonus is not None and item_L is not None and own_n is not None:
        bonus = SameItemBonus(_sent(item_L), _sent(own_n, workspace.num_targets), a.bonus.value)
    score = a.category_score_NC
    index_TK, score_TK = search_topk(
        _sent(target, workspace.num_targets),
        torch.tensor([0, count], dtype=torch.int32, device=_device()),
        keys,
        workspace,
        bias_M=None if a.bias_L is None else _sent(a.bias_L),
        valid_M=None if a.valid_L is None else _sent(a.valid_L),
        category_M=None if score is None or a.category_L is None else _sent(a.category_L),
        category_score_TC=None if score is None else _sent(score[some], workspace.num_targets),
        bonus=bonus,
    )
    return index_TK[:count], score_TK[:count]


def _at_least(value: int, least: int) -> int:
    return max(least, int(triton.next_power_of_2(value)))


def _sent(value: npt.NDArray[Any], rows: int | None = None) -> Tensor:
    """A copy on the device, of `rows` rows if that is more, those behind the values unset."""
    sent = torch.tensor(value, device=_device())
    if rows is None or rows == len(value):
        return sent
    made = torch.empty((rows, *value.shape[1:]), dtype=sent.dtype, device=_device())
    made[: len(value)] = sent
    return made


def _workspace(num_targets: int, longest: int, k: int, width: int) -> SearchWorkspace:
    shape = (num_targets, longest, k, width)
    if shape not in _workspaces:
        start = torch.tensor([0, longest], dtype=torch.int32, device=_device())
        like = RaggedKeys(torch.empty((longest, width), device=_device()), start, longest)
        _workspaces[shape] = SearchWorkspace(like, num_targets, k)
        if len(_workspaces) > _WORKSPACES:
            _workspaces.popitem(last=False)
    _workspaces.move_to_end(shape)
    return _workspaces[shape]


def _on_device(keys: SearchKeys) -> tuple[OnDevice, Tensor]:
    """These keys on the device, and all rows that they are among: what is there of them, or of those they were appended to, and what is
    missing behind it."""
    held, end = keys.on_device, keys.dropped + keys.length
    if isinstance(held, OnDevice) and held.rows.key is not None:
        key, missing = held.rows.key, end - held.dropped - held.length
        if missing and held.rows.take(held.length, missing):
            new = keys.key_LA[-missing:]
            key[held.length : held.length + missing] = _sent(new)
            held = OnDevice(held.rows, held.dropped, held.length + missing, max(held.most, _largest(new)))
        if end == held.dropped + held.length:
            keys.on_device = held
            _memory().used(held.rows, key)
            return held, key
    room = _sent(keys.key_LA, keys.length + keys.length // 8 + _SHORTEST)
    keys.on_device = held = OnDevice(_Rows(room, keys.length), keys.dropped, keys.length, _largest(keys.key_LA))
    _memory().used(held.rows, room)
    return held, room


def _largest(value: F32) -> float:
    return max(float(value.max()), -float(value.min()))


def _refuse_overflow(a: SearchArguments, most: float) -> None:
    score = _largest(a.target_NA) * most * a.target_NA.shape[1]
    score += sum(_largest(value) for value in (a.bias_L, a.category_score_NC) if value is not None and value.size)
    score += 0.0 if a.bonus is None else abs(a.bonus.value)
    if not score <= _MOST:
        raise ValueError(f"scores could be as large as {score:.3g}, a GPU's must stay below {_MOST:g}")


def _items(bonus: ItemBonus, length: int) -> tuple[I32, I32]:
    """A number for the item of each behavior, int32 [L], and for that of each target, int32 [N], told from who gains with whom.

    Raises: ValueError where the lists of two targets have a part in common, or a list names a behavior twice.
    """
    size = np.diff(bonus.start_N1)
    target = np.repeat(np.arange(len(size), dtype=np.int32), size)
    item_L = np.full(length, -1, dtype=np.int32)
    item_L[bonus.index] = target
    own_N = np.full(len(size), _NOBODY, dtype=np.int32)
    some = size > 0
    own_N[some] = item_L[bonus.index[bonus.start_N1[:-1][some]]]
    count = np.bincount(item_L[item_L >= 0], minlength=len(size))
    if (item_L[bonus.index] != own_N[target]).any() or (count[own_N[some]] != size[some]).any():
        raise ValueError("bonus.index must name whole items on a GPU: lists that are equal or have nothing in common, got others")
    return item_L, own_N
