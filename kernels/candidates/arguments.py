"""What the rows of candidates are read from, checked once: a model's catalogue, and one user's history."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.checks import array, hold, within
from kernels.lookup import HashIndex

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class CatalogueRows:
    """A model's I items by hash: `item_row` i32 [I + 1] their rows in `item_VA`, `category` i32 [I + 1] their category codes, the last for
    the item that nobody knows; `category_row` i32 [C] the rows of codes in `category_GA`. Rows of the tables, f32, are multiplied by
    `scale`.

    Raises: ValueError naming what has another dtype or shape, or leads out of another.
    """

    index: HashIndex
    item_row: I32
    category: I32
    category_row: I32
    item_VA: F32
    category_GA: F32
    scale: float = 1.0
    prepared: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What a backend keeps of it, by the backend's name."""

    def __post_init__(self) -> None:
        for name in ("item_VA", "category_GA"):
            hold(self, name, array(name, getattr(self, name), np.float32, (None, None)))
        rows, ends = (len(self.index) + 1,), (len(self.item_VA), len(self.category_row), len(self.category_GA))
        for name, shape, end in zip(("item_row", "category", "category_row"), (rows, rows, (None,)), ends, strict=True):
            hold(self, name, array(name, getattr(self, name), np.int32, shape))
            within(name, getattr(self, name), 0, end)


@dataclass(frozen=True, slots=True)
class HistoryRows:
    """One user's: `index` of the items, `category_record_C` i32 [C] the record of each category code, -1 for one never seen.

    Raises: ValueError for another dtype or shape.
    """

    index: HashIndex
    category_record_C: I32
    prepared: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What a backend keeps of it, by the backend's name."""

    def __post_init__(self) -> None:
        hold(self, "category_record_C", array("category_record_C", self.category_record_C, np.int32, (None,)))


@dataclass(frozen=True, slots=True)
class CandidateRows:
    """Of N candidates, i32 [N]: `place_N` in the catalogue and `indexed_N` in the history's index (-1 where absent), `item_row_N` and
    `category_row_N` in the tables, `category_record_N` in the history (-1); `attn_NA` f32 [N, A] the rows of both tables, scaled."""

    place_N: I32
    item_row_N: I32
    category_row_N: I32
    indexed_N: I32
    category_record_N: I32
    attn_NA: F32
