"""`SearchKeys`: one user's attention keys, prepared once, appended to incrementally, safe to share between threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.aligned import LINE, aligned
from kernels.checks import array, finite
from kernels.native_library import address
from kernels.room import Room

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
SHORTEST_PREPARED, WIDEST_PREPARED = 1000, 2048
"""Histories shorter than this many behaviors, and wider keys, have no prepared form: its fixed cost would be more than it saves."""
_SLOTS, _GROUP = 256, 16
_ROOM_SHARE = 8
"""Keys and prepared forms are made with room for an eighth more."""


@dataclass(frozen=True, slots=True)
class ItemBonus:
    """For target n the behaviors `index[start_N1[n]:start_N1[n + 1]]` gain `value`. `start_N1` int64 [N + 1], `index` int32 [M]."""

    start_N1: npt.NDArray[np.int64]
    index: I32
    value: float


class PreparedBody:
    """`memory` u8 that prepared forms share: newer ones write behind the rows of older ones, the first `used`, while they hold `lock`."""

    def __init__(self, memory: npt.NDArray[np.uint8], used: int) -> None:
        self.memory, self.used = memory, used
        self.lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a backend made of `length` keys, before the first of which `dropped` others had left: `memory` u8, read at `address`, and
    `body`; what it says of those keys never changes."""

    memory: npt.NDArray[np.uint8]
    address: int
    body: PreparedBody
    dropped: int
    length: int

    @property
    def end(self) -> int:
        """Behaviors dropped or prepared: those that follow are not prepared."""
        return self.dropped + self.length

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.memory.nbytes + self.body.memory.nbytes


def _capacity(length: int) -> int:
    return length + length // _ROOM_SHARE + _GROUP


class _Buffer(Room):
    """Keys, and their categories, with room for more rows than are used."""

    def __init__(self, capacity: int, columns: Sequence[F32], category_L: I32 | None) -> None:
        super().__init__(capacity, len(columns[0]))
        self.key: F32 = aligned((capacity, sum(column.shape[1] for column in columns)), np.float32)
        np.concatenate(columns, axis=1, out=self.key[: self.used])
        self.category: I32 | None = None
        if category_L is not None:
            self.category = np.empty(capacity, dtype=np.int32)
            self.category[: self.used] = category_L

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.key.nbytes + (0 if self.category is None else self.category.nbytes)


class SearchKeys:
    """Keys of L behaviors, oldest first.

    Args: `attn_behavior_LA` f32 [L, A], finite; `category_L` int32 [L], needed when category scores are looked up.
    Raises: ValueError for wrong shapes or dtypes, and for NaN or infinity.
    """

    def __init__(self, attn_behavior_LA: F32, category_L: I32 | None = None) -> None:
        key = array("attn_behavior_LA", attn_behavior_LA, np.float32, (None, None))
        finite("attn_behavior_LA", key)
        category = None if category_L is None else array("category_L", category_L, np.int32, (len(key),))
        self._placed, self._category = (key, address(key)), category
        self._buffer: _Buffer | None = None
        self._end, self._dropped = len(key), 0
        self._prepared: Prepared | None = None
        self._targets = 0
        self.on_device: object = None
        """What a backend keeps of these keys on a device of its own; shared, as the prepared form is, with keys appended to these."""
        self._lock = threading.Lock()

    @classmethod
    def joined(cls, columns_L: Sequence[F32], category_L: I32 | None = None) -> SearchKeys:
        """Keys whose columns are those of the arrays, f32 [L, A1], [L, A2]..., side by side, with room for newer behaviors.

        Raises: ValueError as the constructor.
        """
        columns = [array("columns_L", column, np.float32, (len(columns_L[0]), None)) for column in columns_L]
        buffer = _Buffer(_capacity(len(columns[0])), columns, category_L)
        keys = cls(buffer.key[: buffer.used], None if buffer.category is None else buffer.category[: buffer.used])
        keys._buffer = buffer
        return keys

    @property
    def length(self) -> int:
        """L."""
        return len(self._placed[0])

    @property
    def key_LA(self) -> F32:
        """f32 [L, A], C-contiguous, not to be written."""
        return self._placed[0]

    @property
    def placed(self) -> tuple[F32, int]:
        """The rows and where they start in memory, as long as the array is held: preparing may move them."""
        return self._placed

    @property
    def category_L(self) -> I32 | None:
        """int32 [L] or None."""
        return self._category

    @property
    def nbytes(self) -> int:
        """Bytes held: room for appends included, and the prepared form, before it is built too, so that a cache need not grow unasked."""
        prepared = self._bytes_to_prepare() if self._prepared is None else self._prepared.nbytes
        if self._buffer is not None:
            return self._buffer.nbytes + prepared
        rows = _capacity(self.length) if self.preparable and self._placed[1] % LINE else self.length
        return int(rows * (4 * self.key_LA.shape[1] + (0 if self._category is None else 4)) + prepared)

    @property
    def dropped(self) -> int:
        """Oldest behaviors dropped so far, of those that these keys were made from and of those appended since."""
        return self._dropped

    @property
    def preparable(self) -> bool:
        """Whether keys of this length and width have a prepared form."""
        length, width = self._placed[0].shape
        return bool(length >= SHORTEST_PREPARED and 1 <= width <= WIDEST_PREPARED)

    def _bytes_to_prepare(self) -> int:
        if not self.preparable:
            return 0
        length, width = self.key_LA.shape
        # Every category may leave a group of slots all but empty.
        groups = 1 if self._category is None else min(length, int(self._category.max()) - int(self._category.min()) + 1)
        slots = -(-(length + groups * (_GROUP - 1)) // _SLOTS) * _SLOTS
        slots += slots // _ROOM_SHARE + _SLOTS if self._category is None else 0
        return int(slots * (2 * 4 * -(-width // 4) + 4))

    def count_targets(self, targets: int) -> int:
        """How many targets these keys, and those they were appended to, were searched for, with `targets` more. Threads may lose some."""
        self._targets += targets
        return self._targets

    @property
    def prepared_now(self) -> Prepared | None:
        """The prepared form so far: of these keys, or of the older ones they were appended to."""
        return self._prepared

    def prepared(self, enough: Callable[[Prepared], bool], build: Callable[[Prepared | None], Prepared]) -> Prepared:
        """The prepared form, if it is `enough`, else what `build` makes of it, kept; threads that ask at once wait for one of them.

        Rows that do not start at a cache line are copied to one first, with room for more.
        """
        with self._lock:
            if self._prepared is None or not enough(self._prepared):
                if self._buffer is None and self._placed[1] % LINE:
                    buffer = _Buffer(_capacity(self.length), [self.key_LA], self._category)
                    self._placed = buffer.key[: self.length], address(buffer.key)
                    self._buffer = buffer
                self._prepared = build(self._prepared)
            return self._prepared

    def append(self, attn_behavior_MA: F32, category_M: I32 | None = None, drop: int = 0) -> SearchKeys:
        """Keys with M newer behaviors added and the `drop` oldest left out. This object stays valid and unchanged; the rows are shared, not
        copied, when possible.

        Raises: ValueError as the constructor, when categories are given to keys without them or the other way round, and when `drop` is not
        in 0..L.
        """
        key = array("attn_behavior_MA", attn_behavior_MA, np.float32, (None, self.key_LA.shape[1]))
        finite("attn_behavior_MA", key)
        if (category_M is None) != (self._category is None):
            raise ValueError("category_M must be given exactly when the keys have categories")
        category = None if category_M is None else array("category_M", category_M, np.int32, (len(key),))
        if not 0 <= drop <= self.length:
            raise ValueError(f"drop must be in 0..{self.length}, got {drop}")
        kept, buffer, end = self.length - drop, self._buffer, self._end
        if buffer is None or not buffer.take(end, len(key)):
            total = kept + len(key)
            buffer = _Buffer(total + total // 4 + 16, [self.key_LA[drop:]], None if self._category is None else self._category[drop:])
            buffer.used, end = total, kept
        rows = slice(end - kept, end + len(key))
        buffer.key[end : rows.stop] = key
        if buffer.category is not None and category is not None:
            buffer.category[end : rows.stop] = category
        grown = SearchKeys.__new__(SearchKeys)
        grown._placed = buffer.key[rows], address(buffer.key) + rows.start * buffer.key.strides[0]
        grown._category = None if buffer.category is None else buffer.category[rows]
        grown._buffer, grown._end, grown._dropped = buffer, rows.stop, self._dropped + drop
        # Of rows that both share.
        grown._prepared = self._prepared
        grown._targets, grown.on_device = self._targets, self.on_device
        grown._lock = threading.Lock()
        return grown
