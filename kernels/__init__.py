"""The operations of the request path on bare arrays: search, ranking, features, look-up, candidates (docs/architecture.md)."""

from kernels.candidates import CandidateRows, CatalogueRows, HistoryRows, candidate_rows, candidates_backends, occurrences
from kernels.features import HistoryFacts, ItemFacts, KeyRecords, candidate_features, features_backends
from kernels.lookup import HashIndex, lookup_backends, lookup_rows
from kernels.ranking import (
    BehaviorRows,
    FeatureBins,
    HeadWeights,
    PreparedHead,
    RankTables,
    TargetRows,
    attention_weight,
    pool_and_score,
    ranking_backends,
)
from kernels.search import ItemBonus, SearchKeys, approximate_backends, search_backends, search_topk

__all__ = [
    "BehaviorRows",
    "CandidateRows",
    "CatalogueRows",
    "FeatureBins",
    "HashIndex",
    "HeadWeights",
    "HistoryFacts",
    "HistoryRows",
    "ItemBonus",
    "ItemFacts",
    "KeyRecords",
    "PreparedHead",
    "RankTables",
    "SearchKeys",
    "TargetRows",
    "approximate_backends",
    "attention_weight",
    "candidate_features",
    "candidate_rows",
    "candidates_backends",
    "features_backends",
    "lookup_backends",
    "lookup_rows",
    "occurrences",
    "pool_and_score",
    "ranking_backends",
    "search_backends",
    "search_topk",
]
