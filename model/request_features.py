"""Candidate features of one request: compiled where the library runs, else by the NumPy code that training uses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import kernels
from model.candidates import Candidates
from model.catalogue import Catalogue
from model.features import F32, UserMoment, candidate_features, taste_cosines
from model.user_state import UserState

U64 = npt.NDArray[np.uint64]
I32 = npt.NDArray[np.int32]


def request_features(state: UserState, catalogue: Catalogue, candidates: Candidates, timestamp: int) -> F32:
    """Features of N candidates of one user: f32 [N, len(FEATURE_NAMES)]. Args: `timestamp` unix seconds of the request."""
    hash_N, rows = candidates.item_hash_N, candidates.rows
    if not kernels.features_backends()["native"][0]:
        return numpy_features(state, catalogue, hash_N, rows.place_N, timestamp)
    item_N, facts = state.items.places(hash_N, rows.indexed_N), state.facts(catalogue.taste)
    return kernels.candidate_features(facts, catalogue.facts, rows.place_N, item_N, rows.category_record_N, timestamp)


def numpy_features(state: UserState, catalogue: Catalogue, candidate_hash_N: U64, place_N: I32, timestamp: int) -> F32:
    """The same as `request_features`, through the code that training uses."""
    length, size = state.length, len(candidate_hash_N)
    moment = UserMoment(
        length=np.full(size, float(length)),
        now_s=np.full(size, float(timestamp)),
        newest_s=np.full(size, float(state.timestamp_L[-1]) if length else 0.0),
        activity=np.broadcast_to(state.activity, (size, len(state.activity))),
        distinct=np.full(size, float(state.items.distinct)),
    )
    profile_ST = state.facts(catalogue.taste).profile_ST
    return candidate_features(
        state.items.lookup(candidate_hash_N),
        state.categories.lookup(catalogue.category[place_N]),
        moment,
        catalogue.statistic[place_N],
        taste_cosines(profile_ST[None], catalogue.taste.vector[place_N][None])[0],
        catalogue.popularity.at(place_N, np.full(1, timestamp)),
    )
