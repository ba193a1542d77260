"""Catalogue retrieval: faiss and NumPy find the same neighbours, inverted lists most of them, and the pool holds what users take next."""

from __future__ import annotations

import numpy as np
import pytest

import model.retrieval as retrieval_module
from kernels import RankTables
from model.item_hash import hash_item_ids
from model.pool_recall import pool_recall
from model.retrieval import Retrieval
from model.runtime import ScoringRuntime
from tests.conftest import Tiny


def tables_of(runtime: ScoringRuntime) -> RankTables:
    return runtime._embedding.tables


def pools(runtime: ScoringRuntime, retrieval: Retrieval, tiny: Tiny, size: int) -> list[list[int]]:
    item_hash, found = hash_item_ids(tiny.log.item_id), []
    for user in range(20):
        rows = slice(tiny.log.user_start[user], tiny.log.user_start[user + 1])
        state = runtime.prepare(item_hash[tiny.log.item[rows]], tiny.log.timestamp[rows])
        found.append(retrieval.candidates(state, size, False).tolist())
    return found


def test_numpy_retrieves_what_faiss_does(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed")
    runtime = ScoringRuntime.load(tiny.artifacts)
    with_faiss = Retrieval(runtime.catalogue, tables_of(runtime))
    monkeypatch.setattr(retrieval_module.importlib.util, "find_spec", lambda name: None)
    without = Retrieval(runtime.catalogue, tables_of(runtime))
    assert (with_faiss.describe()["backend"], without.describe()["backend"]) == ("faiss", "numpy")
    assert "faiss is not installed" in without.describe()["reason"]
    for one, other in zip(pools(runtime, with_faiss, tiny, 100), pools(runtime, without, tiny, 100), strict=True):
        assert len(set(one) & set(other)) >= 98, "equal similarities may come in another order at the end of a list"


def test_a_large_catalogue_is_searched_by_lists_that_hold_most_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed")
    rng = np.random.default_rng(0)
    center = rng.standard_normal((200, 32))
    vector = (center[rng.integers(0, 200, 20_000)] + 1.0 * rng.standard_normal((20_000, 32))).astype(np.float32)
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    flat, exactly = retrieval_module._index_of(vector)
    assert exactly == "faiss flat, all items compared"
    monkeypatch.setattr(retrieval_module, "_FLAT_ITEMS", 10_000)
    lists, approximately = retrieval_module._index_of(vector)
    assert approximately == "faiss inverted lists, 32 of 282 read: approximate"
    exact, found = flat.search(vector[:200], 20)[1], lists.search(vector[:200], 20)[1]
    recall = np.mean([len(np.intersect1d(one, other)) / 20 for one, other in zip(exact, found, strict=True)])
    assert 0.9 < recall < 1


def test_the_pool_holds_more_the_larger_it_is_and_chance_is_beaten(tiny: Tiny) -> None:
    runtime = ScoringRuntime.load(tiny.artifacts)
    done: list[tuple[int, int]] = []
    found = pool_recall(runtime, tiny.log, [20, 60, 300], most=150, report=lambda *now: done.append(now))
    assert found["num_targets"] == 150 and done[-1] == (150, 150)
    small, middle, whole = (one["recall"] for one in found["pools"])
    assert small < middle <= whole
    assert middle > 2 * 60 / 300, "users return to a few items; drawing the pool by lot would hold a fifth"
    assert found["pools"][2]["recall_known_items"] == 1, "a pool as large as the catalogue holds every item that can be retrieved"
    assert found["pools"][1]["recall_taken_before"] > found["pools"][1]["recall_new_to_the_user"]
