"""The same grid on a GPU, through the Triton backends."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from service.bench import hardware, report
from service.commands.terminal import console, emit


def check_device() -> None:
    """Raises: RuntimeError naming the first thing that is missing."""
    for package, why in (("torch", "tensors on the GPU"), ("triton", "the kernels of kernels/gpu")):
        if importlib.util.find_spec(package) is None:
            raise RuntimeError(f"--device cuda needs {package} ({why}): it is not installed")
    import torch

    if not torch.cuda.is_available():
        built = "this torch is built without CUDA" if torch.version.cuda is None else "no CUDA device answers"
        raise RuntimeError(f"--device cuda needs an NVIDIA GPU: {built} (torch {torch.__version__})")


def bench_cuda(out: Path | None, as_json: bool) -> None:
    """`dare bench kernels --device cuda`: the grid of `kernels.gpu.bench`. Raises: RuntimeError naming what is missing."""
    check_device()
    from kernels.gpu import bench

    with console.status("measuring on the GPU"):
        found = bench.run("cuda")
    text = bench.report(found)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if out is not None:
        files = report.write(out, report.stem("kernels-cuda"), text, {"commit": hardware.commit(), **found})
        console.print("written: " + ", ".join(str(file) for file in files), soft_wrap=True)
    emit(found, as_json)
