"""ONNX Runtime for an artifact's graphs; imported where a graph is scored, since the kernels need none of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def open_session(path: Path, num_threads: int) -> Any:
    """A session of the graph on the CPU, its operators one after the other. Raises: ImportError when onnxruntime is not installed."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
