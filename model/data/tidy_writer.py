"""Writes a tidy folder in bounded memory: behaviors are dealt into buckets by user on disk, each bucket is sorted, all are joined."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from model.data.raw_log import RawDataError, ReadReport

BUCKET_BYTES = 96 << 20
"""Bytes of source per bucket; one bucket at a time is in memory while it is sorted."""
MOST_BUCKETS = 512
ROW_GROUP = 1 << 20
NOT_TAKEN = "impression without a click (label 0): no behavior"
FOLD = 8
"""Row groups whose items are held before they are folded into one: bounds the memory of the catalogue."""


class TidyWriter:
    """Use as a context: `add` behaviors in the source's order, `join`, `publish`. The folder shows nothing before all of it is written.

    Args:
        folder: created; `publish` replaces its `interactions.parquet` and `items.parquet`.
        source_bytes: size of the source, decides the number of buckets.
        order: columns to sort a user's behaviors by; equal ones keep the source's order.
        distinct: columns whose equality makes a row a duplicate of an earlier one; empty: all rows are kept.
        impressions: the rows have a `label`; those with 1 are behaviors, and all of users with a behavior go to `impressions.parquet`.

    Users come one after the other, their order among each other means nothing. An interruption removes what was written so far; what a
    kill leaves, the next writer removes.
    """

    def __init__(
        self, folder: Path, source_bytes: int, order: tuple[str, ...], distinct: tuple[str, ...] = (), impressions: bool = False
    ) -> None:
        self.folder = folder
        self.staging = folder / ".partial"
        self._order, self._distinct, self._labelled = order, distinct, impressions
        self._buckets = max(1, min(MOST_BUCKETS, -(-source_bytes // BUCKET_BYTES)))
        self._streams: dict[int, pa.RecordBatchStreamWriter] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir(parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()
        shutil.rmtree(self.staging, ignore_errors=True)

    @property
    def interactions(self) -> Path:
        """The joined file, before it is published."""
        return self.staging / "interactions.parquet"

    @property
    def impressions(self) -> Path:
        """The joined impressions, before they are published."""
        return self.staging / "impressions.parquet"

    def add(self, frame: pl.DataFrame) -> None:
        """Append behaviors; `user_id` holds whole numbers of 0 or more, and the columns are the same in every call."""
        dealt = frame.with_columns((pl.col("user_id") % self._buckets).alias("_bucket"))
        for (which,), part in dealt.partition_by("_bucket", maintain_order=True, include_key=False, as_dict=True).items():
            table = part.to_arrow(compat_level=pl.CompatLevel.oldest())
            if which not in self._streams:
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                stream = pa.ipc.new_stream(str(self._bucket(which)), table.schema, options=options)
                self._streams[which] = self._open.enter_context(stream)
            self._streams[which].write_table(table)

    def join(self, report: ReadReport, progress: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Sort every bucket, drop duplicates, write `interactions` and count behaviors and users in the report.

        Args: `progress` is called with (buckets done, of all).
        Raises: RawDataError when no behavior is left.
        """
        self._open.close()
        users = offered = 0
        with ExitStack() as stack:
            behaviors, impressions = (_ParquetSink(path, stack) for path in (self.interactions, self.impressions))
            for done, which in enumerate(sorted(self._streams)):
                frame = self._sorted(which, report)
                if self._labelled:
                    everything = frame
                    frame = everything.filter(pl.col("label") == 1).drop("label")
                    report.drop(NOT_TAKEN, len(everything) - len(frame))
                    answered = everything.filter(pl.col("user_id").is_in(frame["user_id"].unique().implode()))
                    impressions.write(answered.select("user_id", "item_id", "timestamp", "label"))
                    offered += len(answered)
                users += frame["user_id"].n_unique()
                report.kept += len(frame)
                behaviors.write(frame)
                self._bucket(which).unlink()
                progress(done + 1, len(self._streams))
        if not report.kept:
            raise RawDataError(f"no behavior is left of {report.read:,} rows: {report.dropped}")
        report.written |= {"behaviors": report.kept, "users": users}
        if self._labelled:
            report.written["impressions"] = offered

    def publish(self, items: pl.DataFrame | None, report: ReadReport) -> None:
        """Put the files in place, the interactions last, and count the items.

        Raises: RawDataError when the folder holds `items.parquet` or `impressions.parquet` of another set and this one writes none.
        """
        if items is not None:
            items.write_parquet(self.staging / "items.parquet")
            report.written["items"] = len(items)
        names = ("items.parquet", "impressions.parquet")
        for name in names:
            if (self.folder / name).exists() and not (self.staging / name).exists():
                raise RawDataError(f"{self.folder / name} is already there, and this source has none of its own; choose another folder")
        for name in names:
            if (self.staging / name).exists():
                (self.staging / name).replace(self.folder / name)
        self.interactions.replace(self.folder / "interactions.parquet")

    def _bucket(self, which: int) -> Path:
        return self.staging / f"bucket-{which}.arrow"

    def _sorted(self, which: int, report: ReadReport) -> pl.DataFrame:
        with pa.ipc.open_stream(pa.memory_map(str(self._bucket(which)))) as stream:
            frame = pl.DataFrame(stream.read_all())
        frame = frame.sort("user_id", *self._order, maintain_order=True)
        if self._distinct:
            distinct = frame.unique(list(self._distinct), keep="first", maintain_order=True)
            report.drop("exact duplicate", len(frame) - len(distinct))
            return distinct
        return frame


class _ParquetSink:
    """A Parquet file that appears with its first rows."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path, self._stack = path, stack
        self._open: pq.ParquetWriter | None = None

    def write(self, frame: pl.DataFrame) -> None:
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._open is None:
            self._open = self._stack.enter_context(pq.ParquetWriter(self._path, table.schema, compression="zstd"))
        self._open.write_table(table, row_group_size=ROW_GROUP)


def _folded(path: Path, columns: list[str], fold: Callable[[pl.DataFrame], pl.DataFrame]) -> pl.DataFrame:
    """`fold` of all rows, row group by row group; a fold of folds must be the fold of all."""
    file = pq.ParquetFile(path)
    parts: list[pl.DataFrame] = []
    for group in range(file.num_row_groups):
        parts.append(fold(pl.DataFrame(file.read_row_group(group, columns=columns))))
        if len(parts) == FOLD:
            parts = [fold(pl.concat(parts))]
    return fold(pl.concat(parts))


def distinct_items(path: Path) -> pl.DataFrame:
    """The different `item_id` of a written file, sorted."""
    return _folded(path, ["item_id"], lambda frame: frame.unique()).sort("item_id")


def newest_of_item(interactions: Path, columns: tuple[str, ...], report: ReadReport) -> pl.DataFrame:
    """A row per item with the given columns of its newest behavior; at one second the greater values win. Sorted by item.

    The report notes how many items had more than one category.
    """
    keys = ["item_id", *columns]
    pairs = _folded(interactions, [*keys, "timestamp"], lambda frame: frame.group_by(keys).agg(pl.col("timestamp").max()))
    newest = pairs.sort("item_id", "timestamp", *columns, nulls_last=False)
    several = newest.select("item_id", "category_id").unique().group_by("item_id").len().filter(pl.col("len") > 1)
    if len(several):
        report.notes.append(f"{len(several):,} items had more than one category; the newest behavior's is kept")
    return newest.unique("item_id", keep="last", maintain_order=True).drop("timestamp")
