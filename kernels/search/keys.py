"""`SearchKeys`: one user's attention keys, prepared once, appended to incrementally, safe to share between threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.checks import array, finite
from kernels.native_library import address

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
SHORTEST_PREPARED, WIDEST_PREPARED = 1000, 2048
"""Histories shorter than this many behaviors, and wider keys, have no prepared form: its fixed cost would be more than it saves."""
_SLOTS, _GROUP, _LINE = 256, 16, 64


@dataclass(frozen=True, slots=True)
class ItemBonus:
    """For target n the behaviors `index[start_N1[n]:start_N1[n + 1]]` gain `value`. `start_N1` int64 [N + 1], `index` int32 [M]."""

    start_N1: npt.NDArray[np.int64]
    index: I32
    value: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a backend made of the first `length` keys: `memory` u8, read at `address`; never changed."""

    memory: npt.NDArray[np.uint8]
    address: int
    length: int


def _room(rows: int, width: int) -> F32:
    """f32 [rows, width] from the start of a cache line on: rows that lie across two cost twice the memory traffic."""
    memory = np.empty(4 * rows * width + _LINE, dtype=np.uint8)
    start = -address(memory) % _LINE
    return memory[start : start + 4 * rows * width].view(np.float32).reshape(rows, width)


class _Buffer:
    """Room for more rows than are used; whoever holds the newest view may append in place."""

    def __init__(self, capacity: int, width: int) -> None:
        self.key = _room(capacity, width)
        self.category = np.empty(capacity, dtype=np.int32)
        self.used = 0
        self.lock = threading.Lock()


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
        self._prepared: Prepared | None = None
        self._targets = 0
        self._lock = threading.Lock()

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
        prepared = self._bytes_to_prepare() if self._prepared is None else self._prepared.memory.nbytes
        if self._buffer is not None:
            return self._buffer.key.nbytes + self._buffer.category.nbytes + prepared
        return self.key_LA.nbytes + (0 if self._category is None else self._category.nbytes) + prepared

    @property
    def preparable(self) -> bool:
        """Whether keys of this length and width have a prepared form."""
        return self.length >= SHORTEST_PREPARED and 1 <= len(self.key_LA[0]) <= WIDEST_PREPARED

    def _bytes_to_prepare(self) -> int:
        if not self.preparable:
            return 0
        length, width = self.key_LA.shape
        # Every category may leave a group of slots all but empty.
        groups = 1 if self._category is None else min(length, int(self._category.max()) - int(self._category.min()) + 1)
        slots = -(-(length + groups * (_GROUP - 1)) // _SLOTS) * _SLOTS
        return int(slots * (2 * 4 * -(-width // 4) + 4))

    def count_targets(self, targets: int) -> int:
        """How many targets these keys, and those they were appended to, were searched for, with `targets` more. Threads may lose some."""
        self._targets += targets
        return self._targets

    @property
    def prepared_now(self) -> Prepared | None:
        """The prepared form so far: of these keys, or of the older ones they were appended to."""
        return self._prepared

    def prepared(self, enough: Callable[[Prepared], bool], build: Callable[[], Prepared]) -> Prepared:
        """The prepared form, if it is `enough`, else what `build` makes, kept; threads that ask at once wait for one of them.

        Rows that do not start at a cache line are copied to one first.
        """
        with self._lock:
            if self._prepared is None or not enough(self._prepared):
                if self._placed[1] % _LINE:
                    own = _room(*self.key_LA.shape)
                    own[:] = self.key_LA
                    self._placed = own, address(own)
                self._prepared = build()
            return self._prepared

    def append(self, attn_behavior_MA: F32, category_M: I32 | None = None) -> SearchKeys:
        """Keys with M newer behaviors added. This object stays valid and unchanged; the rows are shared, not copied, when possible.

        Raises: ValueError as the constructor, and when categories are given to keys without them or the other way round.
        """
        key = array("attn_behavior_MA", attn_behavior_MA, np.float32, (None, self.key_LA.shape[1]))
        finite("attn_behavior_MA", key)
        if (category_M is None) != (self._category is None):
            raise ValueError("category_M must be given exactly when the keys have categories")
        category = None if category_M is None else array("category_M", category_M, np.int32, (len(key),))
        old, total = self.length, self.length + len(key)
        buffer = self._buffer
        if buffer is not None:
            with buffer.lock:
                if buffer.used == old and total <= len(buffer.key):
                    buffer.used = total
                else:
                    buffer = None
        if buffer is None:
            buffer = _Buffer(total + total // 4 + 16, self.key_LA.shape[1])
            buffer.key[:old] = self.key_LA
            if self._category is not None:
                buffer.category[:old] = self._category
            buffer.used = total
        buffer.key[old:total] = key
        if category is not None:
            buffer.category[old:total] = category
        grown = SearchKeys.__new__(SearchKeys)
        grown._placed = buffer.key[:total], address(buffer.key)
        grown._category = None if category is None else buffer.category[:total]
        grown._buffer = buffer
        # Of rows that both share.
        grown._prepared = self._prepared
        grown._targets = self._targets
        grown._lock = threading.Lock()
        return grown
