"""Where there is no CUDA device the kernels run in Triton's interpreter, which must be asked for before they are imported."""

from __future__ import annotations

import importlib.util
import os

if importlib.util.find_spec("torch") is not None:
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
