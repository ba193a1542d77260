"""The compiled features of a request equal those that training's code computes, whatever the history, the candidates and the time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kernels import HistoryRows, candidate_rows, features_backends
from model.artifact import Artifact
from model.candidates import Candidates
from model.embedding_rows import EmbeddingRows
from model.features import FEATURE_NAMES
from model.item_hash import hash_item_ids
from model.request_features import numpy_features, request_features
from model.runtime import ScoringRuntime
from tests.conftest import Tiny


@pytest.mark.skipif(not features_backends()["native"][0], reason=features_backends()["native"][1])
@pytest.mark.parametrize("length", [0, 1, 2, 30, 700])
def test_compiled_features_equal_those_of_training(tiny: Tiny, length: int) -> None:
    runtime, rng = ScoringRuntime.load(tiny.artifacts), np.random.default_rng(length)
    known = hash_item_ids([*tiny.log.item_id, "never heard of"])
    candidates = np.append(rng.choice(known, 100), hash_item_ids(["no such item"]))
    place = runtime.catalogue.places(candidates)
    where = EmbeddingRows(Artifact(tiny.artifacts, runtime.version)).of_targets(runtime.catalogue, 1.0)
    state = runtime.prepare(rng.choice(known, length), np.sort(rng.integers(runtime.as_of - 10**7, runtime.as_of, length)))
    grown = runtime.extend(state, known[:3], np.array([runtime.as_of, runtime.as_of, runtime.as_of + 5]))
    for user in (state, grown):
        for now in (0, runtime.as_of - 10**6, runtime.as_of, runtime.as_of + 10**8, 2**32 - 1):
            of_user = Candidates(candidates, candidate_rows(candidates, where, user.record_rows))
            found = request_features(user, runtime.catalogue, of_user, now)
            expected = numpy_features(user, runtime.catalogue, candidates, place, now)
            assert found.shape == (101, len(FEATURE_NAMES))
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_a_cache_counts_the_record_of_every_category(tiny: Tiny) -> None:
    """A user's table over all categories of a large catalogue can be larger than his history."""
    runtime = ScoringRuntime.load(tiny.artifacts)
    state = runtime.prepare(hash_item_ids(tiny.log.item_id[:3]), np.arange(3))
    categories = len(state.record_rows.category_record_C)
    wider = replace(state, record_rows=HistoryRows(state.occurrences.index, np.zeros(1_000_000, np.int32)))
    assert wider.nbytes - state.nbytes == 4 * (1_000_000 - categories) and categories == len(runtime.catalogue.category_row)
