"""`rank.onnx`: stage 2 as a portable graph with no table inside (opset 17); needs the `onnx` package, for export only."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kernels import HeadWeights


def rank_graph(head: HeadWeights, width: int) -> bytes:
    """The graph for a folded head.

    Inputs: `target_NR` f32 [N, R], `behavior_NKR` f32 [N, K, R] the kept rows, `score_NK` f32, `valid_NK` bool, `extra_NE` f32 [N, E].
    Outputs: `click_probability_N`, `mass_N` f32 [N]. With nothing valid, h = 0 and mass = 0.
    """
    graph = _Graph()
    _interest(graph)
    _mass(graph)
    _click_probability(graph, head)
    extra = head.w1.shape[0] - 3 * width - 1 if head.bins is None else len(head.bins.low_EB)
    inputs = [
        _value("target_NR", TensorProto.FLOAT, ["N", width]),
        _value("behavior_NKR", TensorProto.FLOAT, ["N", "K", width]),
        _value("score_NK", TensorProto.FLOAT, ["N", "K"]),
        _value("valid_NK", TensorProto.BOOL, ["N", "K"]),
        _value("extra_NE", TensorProto.FLOAT, ["N", extra]),
    ]
    outputs = [_value("click_probability_N", TensorProto.FLOAT, ["N"]), _value("mass_N", TensorProto.FLOAT, ["N"])]
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in graph.constants.items()]
    made = helper.make_graph(graph.nodes, "rank", inputs, outputs, constants)
    built = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="dare-serving")
    onnx.checker.check_model(built, full_check=True)
    serialized: bytes = built.SerializeToString()
    return serialized


class _Graph:
    """A graph under construction: nodes in order, constants by name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {
            "zero": np.float32(0),
            "one": np.float32(1),
            "lowest": np.float32(-1e30),
            "axis_1": np.array([1], np.int64),
        }

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Adds a node; returns its output's name."""
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output


def _value(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _interest(graph: _Graph) -> None:
    """Softmax over the kept and the weighted sum: "interest_NR", beside "best", "total_safe" and "any_valid"."""
    node = graph.node
    node("Where", ["valid_NK", "score_NK", "lowest"], "score")
    node("ReduceMax", ["score"], "best", axes=[1], keepdims=1)
    node("Sub", ["score", "best"], "relative")
    node("Exp", ["relative"], "power_all")
    node("Where", ["valid_NK", "power_all", "zero"], "power")
    node("ReduceSum", ["power", "axis_1"], "total", keepdims=1)
    node("Greater", ["total", "zero"], "any_valid")
    node("Where", ["any_valid", "total", "one"], "total_safe")
    node("Div", ["power", "total_safe"], "weight")
    node("Unsqueeze", ["weight", "axis_1"], "weight_N1K")
    node("MatMul", ["weight_N1K", "behavior_NKR"], "interest_N1R")
    node("Squeeze", ["interest_N1R", "axis_1"], "interest_NR")


def _mass(graph: _Graph) -> None:
    """log(1 + sum exp(score)) = softplus(best + log total): "mass_N1" and "mass_N"."""
    node = graph.node
    node("Log", ["total_safe"], "log_total")
    node("Add", ["best", "log_total"], "log_sum")
    # softplus(x) = max(x, 0) + log(1 + exp(-|x|)): the operator of that name overflows for large x in some runtimes
    node("Relu", ["log_sum"], "positive")
    node("Abs", ["log_sum"], "absolute")
    node("Neg", ["absolute"], "negative")
    node("Exp", ["negative"], "small")
    node("Add", ["small", "one"], "one_more")
    node("Log", ["one_more"], "log_one_more")
    node("Add", ["positive", "log_one_more"], "mass_all")
    node("Where", ["any_valid", "mass_all", "zero"], "mass_N1")
    node("Squeeze", ["mass_N1", "axis_1"], "mass_N")


def _click_probability(graph: _Graph, head: HeadWeights) -> None:
    """The features [u ; h ; u * h ; mass ; extra ; bins] through the folded head: "click_probability_N"."""
    node, constants = graph.node, graph.constants
    constants |= {"w1": head.w1, "b1": head.b1, "a1": np.float32(head.a1), "w2": head.w2, "b2": head.b2, "a2": np.float32(head.a2)}
    constants |= {"w3": head.w3[:, None], "b3": np.float32(head.b3)}
    node("Mul", ["target_NR", "interest_NR"], "product")
    encoded = []
    if head.bins is not None:
        constants |= {"low": head.bins.low_EB, "bin_width": head.bins.width_EB, "axis_2": np.array([2], np.int64)}
        constants["flat"] = np.array([0, head.bins.low_EB.size], np.int64)
        node("Unsqueeze", ["extra_NE", "axis_2"], "extra_NE1")
        node("Sub", ["extra_NE1", "low"], "beyond")
        node("Div", ["beyond", "bin_width"], "share")
        node("Clip", ["share", "zero", "one"], "bins_NEB")
        encoded = [node("Reshape", ["bins_NEB", "flat"], "bins")]
    node("Concat", ["mass_N1", "extra_NE", *encoded], "given", axis=1)
    centered = "given"
    if head.center is not None:
        constants["center"] = head.center
        centered = node("Sub", ["given", "center"], "centered")
    node("Concat", ["target_NR", "interest_NR", "product", centered], "x0", axis=1)
    for i, source in ((1, "x0"), (2, "y1")):
        node("MatMul", [source, f"w{i}"], f"m{i}")
        node("Add", [f"m{i}", f"b{i}"], f"x{i}")
        node("PRelu", [f"x{i}", f"a{i}"], f"y{i}")
    node("MatMul", ["y2", "w3"], "m3")
    node("Add", ["m3", "b3"], "logit")
    node("Sigmoid", ["logit"], "probability_N1")
    node("Squeeze", ["probability_N1", "axis_1"], "click_probability_N")
