"""Equally long columns that grow at one end and lose rows at the other, shared between an older holder and a newer one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.room import Room

Column = npt.NDArray[Any]
_LEAST_ROOM = 64


class _Buffer(Room):
    """Columns with room for more rows than are used."""

    def __init__(self, columns: Sequence[Column], capacity: int) -> None:
        self.column = tuple(np.empty((capacity, *column.shape[1:]), column.dtype) for column in columns)
        super().__init__(capacity, len(columns[0]))
        for room, column in zip(self.column, columns, strict=True):
            room[: self.used] = column


@dataclass(frozen=True, slots=True)
class GrowingRows:
    """Rows `first` to `end` of columns [capacity, ...]; immutable: what is appended makes another one, which shares the memory.

    Use `GrowingRows.of`.
    """

    _buffer: _Buffer
    first: int
    end: int

    @classmethod
    def of(cls, columns: Sequence[Column]) -> GrowingRows:
        """Copies of the columns, with room for an eighth more."""
        length = len(columns[0])
        return cls(_Buffer(columns, length + length // 8 + _LEAST_ROOM), 0, length)

    def __len__(self) -> int:
        return self.end - self.first

    def column(self, index: int) -> Column:
        """A view of one column: C-contiguous, not to be written."""
        return self._buffer.column[index][self.first : self.end]

    def columns(self) -> list[Column]:
        """Views of all columns."""
        return [column[self.first : self.end] for column in self._buffer.column]

    def appended(self, columns: Sequence[Column], drop: int = 0) -> GrowingRows:
        """The rows without the first `drop`, and newer ones: copied only when there is no room, or another holder has taken it."""
        new, first = len(columns[0]), self.first + drop
        buffer, end = self._buffer, self.end
        if not buffer.take(end, new):
            kept = [column[first:end] for column in buffer.column]
            length = end - first
            buffer = _Buffer(kept, length + new + length // 4 + _LEAST_ROOM)
            first, end = 0, length
            buffer.used += new
        for room, column in zip(buffer.column, columns, strict=True):
            room[end : end + new] = column
        return GrowingRows(buffer, first, end + new)

    @property
    def nbytes(self) -> int:
        """Bytes held, room included."""
        return sum(column.nbytes for column in self._buffer.column)
