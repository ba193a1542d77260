"""Embedding tables, and the two spaces a model sees them through: attention (narrow) and representation (wide)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from model.batch import UserBatch
from model.config import ModelConfig
from model.recency import NUM_AGES, NUM_BUCKETS
from model.tables_layout import PADDING_ROW

FIELDS = ("item", "category", "recency")


@dataclass(frozen=True, slots=True)
class Rows:
    """What one space says about a batch: `behavior_LD` [L, 2d] and `target_MD` [T * C, 2d], each [item ; category]."""

    behavior_LD: Tensor
    target_MD: Tensor


class Space(Protocol):
    """One embedding space: vectors of items, categories and recencies, possibly different for behaviors and targets."""

    width: int
    """d, per field."""

    def rows(self, batches: Sequence[UserBatch]) -> list[Rows]:
        """Rows of every batch."""

    def recency_PD(self) -> Tensor:
        """Recency vectors of behaviors, [P, d]; with ages, of every pair of recency and age: [P * NUM_AGES, d]."""

    def target_time_D(self) -> Tensor:
        """The recency vector of the target, [d]."""

    def table(self, field: str, of_target: bool) -> Tensor:
        """The whole table of a field (item, category or recency), as behaviors or targets see it: [rows, d]."""


class Tables(nn.Module):
    """One set of tables, shared between targets and behaviors: item [V, d], category [C, d], recency [P, d].

    Args:
        num_items, num_categories: rows including padding and unknown.
        width: d, per field.
        std: of the normal initialisation.
        ages: a table of age buckets [NUM_AGES, d] is added to that of recency.
    """

    def __init__(self, num_items: int, num_categories: int, width: int, std: float, ages: bool = False) -> None:
        super().__init__()
        self.width = width
        self.item = nn.Embedding(num_items, width, padding_idx=PADDING_ROW)
        self.category = nn.Embedding(num_categories, width, padding_idx=PADDING_ROW)
        self.recency = nn.Embedding(NUM_BUCKETS, width)
        with torch.no_grad():
            for table in (self.item, self.category, self.recency):
                table.weight.normal_(0.0, std)
            self.item.weight[PADDING_ROW] = 0.0
            self.category.weight[PADDING_ROW] = 0.0
        self.age = nn.Embedding(NUM_AGES, width) if ages else None
        if self.age is not None:
            nn.init.normal_(self.age.weight, 0.0, std)

    def content(self, item: Tensor, category: Tensor) -> Tensor:
        """[item ; category] rows: [..., 2d]."""
        return torch.cat([self.item(item), self.category(category)], dim=-1)

    def rows(self, batches: Sequence[UserBatch]) -> list[Rows]:
        """Rows of every batch. All batches share one lookup, so that the backward pass adds to each table once."""
        item = torch.cat([part for batch in batches for part in (batch.item_L, batch.target_item_TC.flatten())])
        category = torch.cat([part for batch in batches for part in (batch.category_L, batch.target_category_TC.flatten())])
        sizes = [size for batch in batches for size in (len(batch.item_L), batch.target_item_TC.numel())]
        parts = torch.split(self.content(item, category), sizes)
        return [Rows(behavior, target) for behavior, target in zip(parts[::2], parts[1::2], strict=True)]

    def recency_PD(self) -> Tensor:
        weight: Tensor = self.recency.weight
        return weight if self.age is None else (weight[:, None] + self.age.weight).flatten(0, 1)

    def target_time_D(self) -> Tensor:
        weight: Tensor = self.recency.weight
        return weight[0] if self.age is None else weight[0] + self.age.weight[0]

    def table(self, field: str, of_target: bool) -> Tensor:
        if field == "recency":
            return self.recency_PD()
        weight: Tensor = getattr(self, field).weight
        return weight


class UntiedTables(nn.Module):
    """Two sets of tables that share no weight, one for behaviors and one for targets. Args: as `Tables`."""

    def __init__(self, num_items: int, num_categories: int, width: int, std: float, ages: bool = False) -> None:
        super().__init__()
        self.width = width
        self.behavior = Tables(num_items, num_categories, width, std, ages)
        self.target = Tables(num_items, num_categories, width, std, ages)

    def rows(self, batches: Sequence[UserBatch]) -> list[Rows]:
        behavior, target = self.behavior.rows(batches), self.target.rows(batches)
        return [Rows(b.behavior_LD, t.target_MD) for b, t in zip(behavior, target, strict=True)]

    def recency_PD(self) -> Tensor:
        return self.behavior.recency_PD()

    def target_time_D(self) -> Tensor:
        return self.target.target_time_D()

    def table(self, field: str, of_target: bool) -> Tensor:
        return (self.target if of_target else self.behavior).table(field, of_target)


class _FieldMaps(nn.Module):
    """A linear map without bias for each field; starts as the identity (cut or padded with zeros where the widths differ)."""

    def __init__(self, source: int, width: int) -> None:
        super().__init__()
        self.item, self.category, self.recency = (nn.Linear(source, width, bias=False) for _ in FIELDS)
        for linear in (self.item, self.category, self.recency):
            nn.init.eye_(linear.weight)

    def content(self, rows_XD: Tensor) -> Tensor:
        """[item ; category] rows, mapped field by field."""
        item, category = rows_XD.chunk(2, dim=-1)
        return torch.cat([self.item(item), self.category(category)], dim=-1)


class MappedTables(nn.Module):
    """A space that is a linear map of other tables, one map for behaviors and one for targets. Args: `tables` mapped; `width` d."""

    def __init__(self, tables: Tables, width: int) -> None:
        super().__init__()
        self.width = width
        self._tables = (tables,)  # the model owns them
        self.behavior = _FieldMaps(tables.width, width)
        self.target = _FieldMaps(tables.width, width)

    def rows(self, batches: Sequence[UserBatch]) -> list[Rows]:
        found = self._tables[0].rows(batches)
        return [Rows(self.behavior.content(rows.behavior_LD), self.target.content(rows.target_MD)) for rows in found]

    def recency_PD(self) -> Tensor:
        return self.table("recency", of_target=False)

    def target_time_D(self) -> Tensor:
        return self.table("recency", of_target=True)[0]

    def table(self, field: str, of_target: bool) -> Tensor:
        linear: nn.Linear = getattr(self.target if of_target else self.behavior, field)
        mapped: Tensor = linear(self._tables[0].table(field, of_target))
        return mapped


def build_spaces(config: ModelConfig, num_items: int, num_categories: int) -> tuple[nn.ModuleList, Space, Space]:
    """The tables of a model and its attention and representation spaces over them (`ModelConfig.tables`).

    Returns: modules that own every parameter; attention space; representation space.
    """

    def made(kind: type[Tables] | type[UntiedTables], width: int) -> Tables | UntiedTables:
        return kind(num_items, num_categories, width, config.init_std, config.ages)

    if config.tables in ("decoupled", "untied"):
        kind = Tables if config.tables == "decoupled" else UntiedTables
        attn, representation = made(kind, config.attn_width), made(kind, config.repr_width)
        return nn.ModuleList([attn, representation]), attn, representation
    shared = Tables(num_items, num_categories, config.repr_width, config.init_std, config.ages)
    if config.tables == "shared":
        return nn.ModuleList([shared]), shared, shared
    mapped = MappedTables(shared, config.attn_width), MappedTables(shared, config.repr_width)
    return nn.ModuleList([shared, *mapped]), *mapped
