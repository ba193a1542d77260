"""Where each item occurs in one history, for the bonus of a candidate's own item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels import HashIndex, ItemBonus, occurrences
from model.record_table import Occurring, starts

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Occurrences:
    """Where each item occurs in one history: `index` of D distinct item hashes; those of the d-th are at `position[start[d]:start[d + 1]]`,
    ascending (`start` i64 [D + 1], `position` i32 [P]). Of behaviors that came since, `newer_hash` u64 [V] ascending are at
    `newer_position` i32 [V]; of the P, those of `gone_hash` u64 [G] ascending have left, the oldest of each item.

    Positions count from a behavior that had `first` older ones dropped after it. `behind` behaviors came or left since `index` was made.
    """

    index: HashIndex
    start: I64
    position: I32
    newer_hash: U64
    newer_position: I32
    gone_hash: U64
    first: int = 0
    behind: int = 0

    @classmethod
    def build(cls, found: Occurring) -> Occurrences:
        """Occurrences of a whole history."""
        return cls._made(HashIndex(found.key), found.start, found.place.astype(np.int32))

    @classmethod
    def _made(cls, index: HashIndex, start: I64, position: I32) -> Occurrences:
        none = np.zeros(0, np.uint64)
        return cls(index, start, position, none, np.zeros(0, np.int32), none)

    def extended(self, item_hash_M: U64, length: int, gone_hash: U64) -> Occurrences:
        """Occurrences after M newer behaviors came and the oldest of `length` left, those of the items `gone_hash`, oldest first."""
        first = self.first + len(gone_hash)
        position = np.arange(self.first + length, self.first + length + len(item_hash_M), dtype=np.int32)
        stays = self.newer_position >= first
        newer, position = np.concatenate([self.newer_hash[stays], item_hash_M]), np.concatenate([self.newer_position[stays], position])
        order = np.argsort(newer, kind="stable")
        of_index = gone_hash[: max(0, len(self.position) - self.first)]
        gone = np.sort(np.concatenate([self.gone_hash, of_index]))
        behind = self.behind + len(item_hash_M) + len(gone_hash)
        return Occurrences(self.index, self.start, self.position, newer[order], position[order], gone, first, behind)

    def rebuilt(self) -> Occurrences:
        """The same, with an index of the items that are in the history."""
        stays = self.position >= self.first
        in_order = np.repeat(self.index.sorted_hash_V, np.diff(self.start))[stays]
        at = np.searchsorted(in_order, self.newer_hash, side="right")
        in_order = np.insert(in_order, at, self.newer_hash)
        position = np.insert(self.position[stays], at, self.newer_position) - np.int32(self.first)
        start = starts(in_order)
        return self._made(HashIndex(in_order[start[:-1]]), start, position)

    def bonus(self, candidate_hash_N: U64, indexed_N: I32, value: float) -> ItemBonus:
        """The score bonus of the behaviors of each candidate's own item. Args: `indexed_N` i32 [N] the items of `index` that
        the candidates are, -1 for none."""
        if not len(self.newer_hash) and not len(self.gone_hash):
            return ItemBonus(*occurrences(self.start, self.position, indexed_N, self.first), value)
        # -1 starts and ends where the first item starts.
        left = self.start.take(indexed_N, mode="clip")
        if len(self.gone_hash):
            left = left + _counted(self.gone_hash, candidate_hash_N)[1]
        wanted = size = self.start.take(indexed_N + np.int32(1)) - left
        if anything_newer := len(self.newer_hash) > 0:
            newer_left, newer = _counted(self.newer_hash, candidate_hash_N)
            wanted = size + newer
        start, within = _spread(wanted)
        # Of newer behaviors this reads on, into other items; they are written over.
        index = self.position.take(within + np.repeat(left - start[:-1], wanted), mode="clip")
        if anything_newer and newer.any():
            newer_start, within = _spread(newer)
            at = within + np.repeat(start[:-1] + size - newer_start[:-1], newer)
            index[at] = self.newer_position[within + np.repeat(newer_left - newer_start[:-1], newer)]
        index -= np.int32(self.first)
        return ItemBonus(start, index, value)

    @property
    def nbytes(self) -> int:
        """Bytes held; those of the index are the items' records'."""
        arrays = (self.start, self.position, self.newer_hash, self.newer_position, self.gone_hash)
        return sum(array.nbytes for array in arrays)


def _counted(sorted_hash: U64, hash_N: U64) -> tuple[I64, I64]:
    """Where each of N hashes starts among the sorted ones, and how often it is there: i64 [N] each."""
    left = np.searchsorted(sorted_hash, hash_N)
    return left, np.searchsorted(sorted_hash, hash_N, side="right") - left


def _spread(size_N: I64) -> tuple[I64, I64]:
    """Where each of N runs of these lengths starts, i64 [N + 1], and 0, 1, 2... to the last end."""
    start = np.zeros(len(size_N) + 1, dtype=np.int64)
    np.cumsum(size_N, out=start[1:])
    return start, np.arange(start[-1])
