"""`kernels.bench.ranking_bench` with rivals: torch in its naive and its good form, and ONNX Runtime on the portable graph.

OMP_NUM_THREADS=1 python tests/kernels/ranking/bench_against_torch.py [--threads 1]
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
import torch
from torch.nn import functional

from kernels import HeadWeights, RankTables
from kernels.bench.ranking_bench import RankProblem, main
from model.rank_graph import rank_graph

_NAMES = ("item", "category", "recency")


class Torch:
    """Stage 2 in torch. `naive`: the target product before pooling; else one `embedding_bag` for each table and the product after.

    Weights and tables are those of every call, so their tensors are made once; what belongs to a request is converted within the time."""

    def __init__(self, naive: bool) -> None:
        self.naive = naive
        self._of: dict[int, tuple[HeadWeights, list[torch.Tensor], list[torch.Tensor]]] = {}

    def _resident(self, tables: RankTables, head: HeadWeights) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        if id(head) not in self._of:
            weights = [torch.from_numpy(value) for value in (head.w1, head.b1, head.w2, head.b2, head.w3)]
            self._of[id(head)] = head, [torch.from_numpy(getattr(tables, name)) for name in _NAMES], weights
        return self._of[id(head)][1:]

    @torch.inference_mode()
    def __call__(self, one: RankProblem) -> np.ndarray:
        tables, (w1, b1, w2, b2, w3) = self._resident(one.tables, one.head)
        index, score = torch.from_numpy(one.index_NK).long(), torch.from_numpy(one.score_NK)
        weight, total = score.softmax(dim=1), score.logsumexp(dim=1)
        rows = [torch.from_numpy(getattr(one.behavior, f"{name}_L"))[index] for name in _NAMES]
        own = [torch.from_numpy(one.target.item_N), torch.from_numpy(one.target.category_N)]
        u = torch.cat([tables[0][own[0]], tables[1][own[1]], tables[2][0].expand(len(index), -1)], dim=1)
        if self.naive:
            kept = torch.cat([table[row] for table, row in zip(tables, rows, strict=True)], dim=2)
            h = (weight[:, :, None] * kept).sum(dim=1)
            product = (weight[:, :, None] * (kept * u[:, None])).sum(dim=1)
        else:
            bags = [
                functional.embedding_bag(row, table, per_sample_weights=weight, mode="sum") for table, row in zip(tables, rows, strict=True)
            ]
            h = torch.cat(bags, dim=1)
            product = u * h
        mass = functional.softplus(total)[:, None]
        x = torch.cat([u, h, product, mass, torch.from_numpy(one.extra_NE)], dim=1)
        x = functional.prelu(torch.addmm(b1, x, w1), torch.tensor([one.head.a1]))
        x = functional.prelu(torch.addmm(b2, x, w2), torch.tensor([one.head.a2]))
        return torch.sigmoid(x @ w3 + one.head.b3).numpy()


class OnnxRuntime:
    """The portable graph, with the gather in NumPy."""

    def __init__(self, num_threads: int) -> None:
        self._threads = num_threads
        self._session: dict[int, tuple[HeadWeights, onnxruntime.InferenceSession]] = {}

    def __call__(self, one: RankProblem) -> np.ndarray:
        if id(one.head) not in self._session:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
            graph = rank_graph(one.head, one.tables.width)
            self._session[id(one.head)] = one.head, onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        rows = [getattr(one.behavior, f"{name}_L")[one.index_NK] for name in _NAMES]
        kept = np.concatenate([getattr(one.tables, name)[row] for name, row in zip(_NAMES, rows, strict=True)], axis=2)
        recency = np.broadcast_to(one.tables.recency[0], (len(kept), one.tables.recency.shape[1]))
        own = np.concatenate([one.tables.item[one.target.item_N], one.tables.category[one.target.category_N], recency], axis=1)
        given = {"target_NR": own, "behavior_NKR": kept, "score_NK": one.score_NK, "extra_NE": one.extra_NE}
        found: np.ndarray = self._session[id(one.head)][1].run(["click_probability_N"], given | {"valid_NK": one.index_NK >= 0})[0]
        return found


if __name__ == "__main__":
    threads = int(sys.argv[sys.argv.index("--threads") + 1]) if "--threads" in sys.argv else 1
    torch.set_num_threads(threads)
    main({"torch naive": Torch(naive=True), "torch embedding_bag": Torch(naive=False), "onnxruntime": OnnxRuntime(threads)})
