"""torch as a rival, in its obvious form and in the best one known. Tensors that outlive a request are made once, as a server would."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from kernels.bench.ranking_bench import RankProblem
from kernels.bench.search_bench import Found, SearchProblem

_TABLES = ("item", "category", "recency")
_GROUP = 16


class TorchSearch:
    """Scores as one matrix product, then topk. `two_level` takes the maximum of every 16 behaviors first, and the topk among the groups
    that hold the K largest maxima: exact as well."""

    def __init__(self, num_threads: int, two_level: bool) -> None:
        self._threads, self._two_level = num_threads, two_level
        self._resident: dict[int, tuple[SearchProblem, torch.Tensor]] = {}

    @torch.inference_mode()
    def kept(self, one: SearchProblem) -> tuple[torch.Tensor, torch.Tensor]:
        """Index i64 [N, K] and score f32 [N, K]."""
        if id(one) not in self._resident:
            self._resident[id(one)] = one, torch.from_numpy(one.key_LA)
        key = self._resident[id(one)][1]
        torch.set_num_threads(self._threads)
        score = torch.from_numpy(one.target_NA) @ key.T
        if one.bias_L is not None:
            score += torch.from_numpy(one.bias_L)
        if one.category_score_NC is not None and one.category_L is not None:
            score += torch.from_numpy(one.category_score_NC)[:, torch.from_numpy(one.category_L).long()]
        k, length = one.shape.kept, score.shape[1]
        groups = length // _GROUP
        if not self._two_level or groups <= k:
            best = score.topk(k, dim=1)
            return best.indices, best.values
        whole = score[:, : groups * _GROUP].view(len(score), groups, _GROUP)
        chosen = whole.amax(dim=2).topk(k, dim=1).indices
        among = whole.gather(1, chosen[:, :, None].expand(-1, -1, _GROUP)).flatten(1)
        place = (chosen[:, :, None] * _GROUP + torch.arange(_GROUP)).flatten(1)
        if length > groups * _GROUP:
            rest = torch.arange(groups * _GROUP, length).expand(len(score), -1)
            among, place = torch.cat([among, score[:, groups * _GROUP :]], dim=1), torch.cat([place, rest], dim=1)
        best = among.topk(k, dim=1)
        return place.gather(1, best.indices), best.values

    def __call__(self, one: SearchProblem) -> Found:
        index, score = self.kept(one)
        return index.to(torch.int32).numpy(), score.numpy()


class TorchRank:
    """Stage 2. `naive`: the target product before pooling; else one `embedding_bag` for each table and the product after."""

    def __init__(self, num_threads: int, naive: bool) -> None:
        self._threads, self._naive = num_threads, naive
        self._resident: dict[int, tuple[Any, list[torch.Tensor], list[torch.Tensor]]] = {}

    def __call__(self, one: RankProblem) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return self.rank(one, torch.from_numpy(one.index_NK).long(), torch.from_numpy(one.score_NK))

    @torch.inference_mode()
    def rank(self, one: RankProblem, index: torch.Tensor, score: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Click probability f32 [N] of kept behaviors i64 [N, K] and their scores."""
        torch.set_num_threads(self._threads)
        tables, (w1, b1, w2, b2, w3) = self._tensors(one)
        weight, total = score.softmax(dim=1), score.logsumexp(dim=1)
        rows = [torch.from_numpy(getattr(one.behavior, f"{name}_L"))[index] for name in _TABLES]
        own = [torch.from_numpy(one.target.item_N), torch.from_numpy(one.target.category_N)]
        u = torch.cat([tables[0][own[0]], tables[1][own[1]], tables[2][0].expand(len(index), -1)], dim=1)
        if self._naive:
            kept = torch.cat([table[row] for table, row in zip(tables, rows, strict=True)], dim=2)
            h = (weight[:, :, None] * kept).sum(dim=1)
            product = (weight[:, :, None] * (kept * u[:, None])).sum(dim=1)
        else:
            bags = [
                functional.embedding_bag(row, table, per_sample_weights=weight, mode="sum") for table, row in zip(tables, rows, strict=True)
            ]
            h = torch.cat(bags, dim=1)
            product = u * h
        x = torch.cat([u, h, product, functional.softplus(total)[:, None], torch.from_numpy(one.extra_NE)], dim=1)
        x = functional.prelu(torch.addmm(b1, x, w1), torch.tensor([one.head.a1]))
        x = functional.prelu(torch.addmm(b2, x, w2), torch.tensor([one.head.a2]))
        return torch.sigmoid(x @ w3 + one.head.b3).numpy()

    def _tensors(self, one: RankProblem) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        if id(one.head) not in self._resident:
            weights = [torch.from_numpy(value) for value in (one.head.w1, one.head.b1, one.head.w2, one.head.b2, one.head.w3)]
            tables = [torch.from_numpy(getattr(one.tables, name)) for name in _TABLES]
            self._resident[id(one.head)] = (one.head, one.tables), tables, weights
        return self._resident[id(one.head)][1:]


class TorchRequest:
    """Both stages without leaving torch. `naive`: matmul and topk, then the naive form of stage 2; else the best form of each."""

    def __init__(self, num_threads: int, naive: bool, two_level: bool) -> None:
        self._search, self._rank = TorchSearch(num_threads, two_level), TorchRank(num_threads, naive)

    def __call__(self, given: tuple[SearchProblem, RankProblem]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        index, score = self._search.kept(given[0])
        return self._rank.rank(given[1], index, score)
