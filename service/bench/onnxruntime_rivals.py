"""ONNX Runtime as a rival: MatMul and TopK for search, the artifact's portable graph for ranking."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from kernels.bench.ranking_bench import RankProblem
from kernels.bench.search_bench import Found, SearchProblem
from model.rank_graph import rank_graph

_TABLES = ("item", "category", "recency")


def _session(graph: bytes, num_threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _search_graph() -> bytes:
    nodes = [
        helper.make_node("MatMul", ["target_NA", "key_AL"], ["product"]),
        helper.make_node("Add", ["product", "bias_L"], ["biased"]),
        helper.make_node("TopK", ["biased", "k"], ["score_NK", "index_NK"], axis=1, largest=1, sorted=1),
    ]

    def value(name: str, kind: int, *shape: str | int) -> Any:
        return helper.make_tensor_value_info(name, kind, list(shape))

    inputs = [value("target_NA", TensorProto.FLOAT, "N", "A"), value("key_AL", TensorProto.FLOAT, "A", "L")]
    inputs += [value("bias_L", TensorProto.FLOAT, "L"), value("k", TensorProto.INT64, 1)]
    outputs = [value("score_NK", TensorProto.FLOAT, "N", "K"), value("index_NK", TensorProto.INT64, "N", "K")]
    graph = helper.make_graph(nodes, "search", inputs, outputs)
    made: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    return made


def _plain_search_graph() -> bytes:
    """The same without a bias to add."""
    whole = onnx.load_from_string(_search_graph())
    del whole.graph.node[1]
    whole.graph.node[1].input[0] = "product"
    del whole.graph.input[2]
    made: bytes = whole.SerializeToString()
    return made


class OnnxSearch:
    """One matrix product and TopK; the transposed keys are made once per user."""

    def __init__(self, num_threads: int) -> None:
        self._plain, self._biased = _session(_plain_search_graph(), num_threads), _session(_search_graph(), num_threads)
        self._resident: dict[int, tuple[SearchProblem, Any]] = {}

    def __call__(self, one: SearchProblem) -> Found:
        if id(one) not in self._resident:
            self._resident[id(one)] = one, np.ascontiguousarray(one.key_LA.T)
        given = {"target_NA": one.target_NA, "key_AL": self._resident[id(one)][1], "k": np.array([one.shape.kept])}
        if one.bias_L is None:
            score, index = self._plain.run(["score_NK", "index_NK"], given)
        else:
            score, index = self._biased.run(["score_NK", "index_NK"], given | {"bias_L": one.bias_L})
        return index.astype(np.int32), score


class OnnxRank:
    """The portable graph, with the gather in NumPy."""

    def __init__(self, num_threads: int) -> None:
        self._threads = num_threads
        self._resident: dict[int, tuple[Any, Any]] = {}

    def __call__(self, one: RankProblem) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        if id(one.head) not in self._resident:
            self._resident[id(one.head)] = one.head, _session(rank_graph(one.head, one.tables.width), self._threads)
        rows = [getattr(one.behavior, f"{name}_L")[one.index_NK] for name in _TABLES]
        kept = np.concatenate([getattr(one.tables, name)[row] for name, row in zip(_TABLES, rows, strict=True)], axis=2)
        recency = np.broadcast_to(one.tables.recency[0], (len(kept), one.tables.recency.shape[1]))
        own = np.concatenate([one.tables.item[one.target.item_N], one.tables.category[one.target.category_N], recency], axis=1)
        given = {"target_NR": own, "behavior_NKR": kept, "score_NK": one.score_NK, "extra_NE": one.extra_NE}
        found: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
        found = self._resident[id(one.head)][1].run(["click_probability_N"], given | {"valid_NK": one.index_NK >= 0})[0]
        return found
