"""What a search of a given form could keep at best: scores made of the truth behind synthetic data (docs/data.md)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from model.data.log import InteractionLog
from model.search_quality import Quality, Tally, Truth, TruthError, moments

F64 = npt.NDArray[np.float64]
_APART = -30.0
"""Content score of topics that have nothing to do with one another."""
_EITHER = -2.0
"""Content score of a complement where it cannot be told from the topic that it complements: the best of -0.5, -1, -1.5, -2 within .001."""


def ideal_forms(folder: Path, truth: Truth, log: InteractionLog, kept: int) -> dict[str, Quality]:
    """Quality of ideal searches whose score is content(target, behavior) + bias(recency), with one bias for all: DARE's form.

    The bias is the logarithm of the decay with the median half-life. Content is the logarithm of the affinity between topics ("content and
    recency"); the same where a topic and its complement must like one another equally, as <a(t), a(j)> of tied tables does ("symmetric
    content and recency"); and own topic or not ("own topic, newest").

    Raises: TruthError when `truth/` is not that of the log or cannot be read.
    """
    try:
        item = pl.read_parquet(folder / "truth/items.parquet").with_columns(pl.col("item_id").cast(pl.String))
        topics = pl.read_parquet(folder / "truth/topics.parquet").sort("topic")
        parameters = json.loads((folder / "truth/parameters.json").read_text())
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise TruthError(f"{folder}: the topics behind the data cannot be read: {error}") from error
    topic = pl.DataFrame({"item_id": log.item_id}, schema={"item_id": pl.String}).join(
        item, on="item_id", how="left", maintain_order="left"
    )
    if topic["topic"].null_count():
        raise TruthError(f"{folder}: the truth has no topic for {topic['topic'].null_count()} items of the log")
    contents = _contents(topics["complement"].to_numpy(), float(parameters["complement"]))
    floor, half_life = float(parameters["floor"]), float(np.median(topics["half_life"].to_numpy()))
    age = np.arange(int(truth.position.max()), 0, -1)
    bias = np.log(np.maximum(floor + (1 - floor) * np.exp2(-age / half_life), 1e-12))
    return _judged(truth, log, topic["topic"].to_numpy(), contents, bias, kept)


def _contents(complement: npt.NDArray[np.integer], affinity: float) -> dict[str, F64]:
    topics = np.arange(len(complement))
    own = np.full((len(topics), len(topics)), _APART)
    one_way, either = own.copy(), own.copy()
    if affinity > 0:
        one_way[topics, complement] = np.log(affinity)
        either[topics, complement] = either[complement, topics] = _EITHER
    for content in (own, one_way, either):
        content[topics, topics] = 0.0
    return {"content and recency": one_way, "symmetric content and recency": either, "own topic, newest": own}


def _judged(
    truth: Truth, log: InteractionLog, topic: npt.NDArray[np.integer], contents: dict[str, F64], bias: F64, kept: int
) -> dict[str, Quality]:
    tallies = {name: Tally(truth.label, kept) for name in contents}
    for rows in moments(truth):
        relevance = truth.dense(rows)
        length = relevance.shape[1]
        start, size = log.user_start[truth.user[rows.start]], min(kept, length)
        behavior = topic[log.item[start : start + length]]
        for name, content in contents.items():
            score = content[topic[truth.item[rows]]][:, behavior] + bias[-length:]
            best = np.argpartition(-score, size - 1, axis=1)[:, :size]
            order = np.argsort(-np.take_along_axis(score, best, axis=1), axis=1, kind="stable")
            tallies[name].add(relevance, np.take_along_axis(best, order, axis=1))
    return {name: tally.quality() for name, tally in tallies.items()}
