"""Registers, spills and shared memory of every kernel, compiled for GPUs that need not be there: `python -m kernels.gpu.resources`.

The launches are the very ones that `kernels.gpu.search` and `kernels.gpu.ranking` would run, over tensors without memory.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.gpu.head import head_launches
from kernels.gpu.keys import KEY_DTYPES, RaggedKeys
from kernels.gpu.launch import Launch
from kernels.gpu.ranking import DeviceBehaviors, DeviceHead, DeviceTables, DeviceTargets, RankWorkspace, pool_launch
from kernels.gpu.search import SameItemBonus, SearchTiling, SearchWorkspace, search_launches

ARCHITECTURES = (80, 90, 100)
_POINTER = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int8: "*i8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


@dataclass(frozen=True, slots=True)
class Resources:
    """What one kernel takes: `registers` and `spilled_bytes` (local memory) of a thread, `shared_bytes` of a block of threads; and whether
    it uses the matrix unit, and the `shuffles` between threads in its code."""

    kernel: str
    case: str
    architecture: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    threads: int
    matrix_unit: bool
    shuffles: int

    @property
    def blocks_per_sm(self) -> int:
        """Blocks that fit one multiprocessor by registers (65,536), shared memory (164 KiB on sm_80, 228 KiB after) and threads (2,048)."""
        shared = (164 if self.architecture == 80 else 228) * 1024
        by_registers = 65536 // (-(-self.registers // 8) * 8 * self.threads)
        return min(by_registers, shared // (self.shared_bytes + 1024), 2048 // self.threads, 32)


def compiled(launch: Launch, architecture: int) -> Any:
    """The kernel of `launch` compiled for sm_`architecture`; pointers are taken to be aligned to 16 bytes, as torch allocates them."""
    arguments = {**launch.arguments, **launch.constants}
    if "EARLY" in arguments:
        arguments["EARLY"] = architecture >= 90
    signature, constants, attributes = {}, {}, {}
    free = set(launch.kernel.do_not_specialize)
    for place, name in enumerate(launch.kernel.arg_names):
        value = arguments[name]
        if isinstance(value, torch.Tensor):
            signature[name] = _POINTER[value.dtype]
        elif name in launch.constants or value is None:
            signature[name], constants[name] = "constexpr", value
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
        if isinstance(value, torch.Tensor) or (signature[name] == "i32" and name not in free and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=dict(launch.options))


def resources(case: str, launch: Launch, architecture: int) -> Resources:
    """Compile and read what the assembler says. Raises: RuntimeError where its output cannot be read."""
    kernel = compiled(launch, architecture)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(kernel.asm["cubin"])
        tool = triton.knobs.nvidia.cuobjdump.path
        text = subprocess.run([tool, "-res-usage", path], check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", text)
    if found is None:
        raise RuntimeError(f"cuobjdump said nothing of registers: {text!r}")
    registers, stack, shared, local = map(int, found.groups())
    ptx = kernel.asm["ptx"]
    return Resources(
        kernel=kernel.metadata.name,
        case=case,
        architecture=architecture,
        registers=registers,
        spilled_bytes=stack + local,
        shared_bytes=max(shared, kernel.metadata.shared),
        threads=32 * kernel.metadata.num_warps,
        matrix_unit=re.search(r"\b(mma\.sync|wgmma\.mma_async|tcgen05\.mma)", ptx) is not None,
        shuffles=ptx.count("shfl.sync"),
    )


def search_case(
    dtype: torch.dtype,
    width: int,
    targets: int,
    length: int,
    k: int,
    *,
    everything: bool = False,
    users: int = 1,
    generation: int = 9,
) -> list[Launch]:
    """The launches of one search on tensors without memory; `everything` adds bias, mask, category scores and bonus."""
    with torch.device("meta"):
        rows = users * length
        start = torch.empty(users + 1, dtype=torch.int32)
        keys = RaggedKeys(torch.empty(rows, width, dtype=dtype), start, length, torch.empty(users, width) if dtype == torch.int8 else None)
        tiling = SearchTiling.choose(width, dtype, k, users * targets, targets, length, generation)
        workspace = SearchWorkspace(keys, users * targets, k, most_targets=targets, tiling=tiling)
        target = torch.empty(users * targets, width)
        if not everything:
            return search_launches(target, start, keys, workspace)
        integers = torch.empty(rows, dtype=torch.int32)
        bonus = SameItemBonus(integers, torch.empty(users * targets, dtype=torch.int32), 1.0)
        valid, bias = torch.empty(rows, dtype=torch.bool), torch.empty(rows)
        return search_launches(target, start, keys, workspace, bias, valid, integers, torch.empty(users * targets, 300), bonus)


def rank_case(dtype: torch.dtype, widths: tuple[int, int, int], targets: int, k: int) -> list[Launch]:
    """The launches of one ranking on tensors without memory."""
    with torch.device("meta"):
        integers = torch.empty(10_000, dtype=torch.int32)
        mine, start = torch.empty(targets, dtype=torch.int32), torch.empty(2, dtype=torch.int32)
        tables = DeviceTables(*(torch.empty(100, width, dtype=dtype) for width in widths))
        extra = torch.empty(targets, 40)
        features = 3 * tables.width + 1 + extra.shape[1]
        head = DeviceHead(
            torch.empty(features, 200), torch.empty(200), 0.1, torch.empty(200, 80), torch.empty(80), 0.1, torch.empty(80), 0.0
        )
        index, score = torch.empty(targets, k, dtype=torch.int32), torch.empty(targets, k)
        behavior = DeviceBehaviors(integers, integers, integers, start)
        workspace = RankWorkspace(targets, head)
        pool = pool_launch(index, score, tables, behavior, DeviceTargets(mine, mine, start), extra, head, workspace)
        return [pool, *head_launches(head, workspace.features_TF, workspace.hidden, workspace.click_probability_T)]


def cases(architecture: int) -> Iterator[tuple[str, Launch]]:
    """Every launch worth compiling for an architecture, with its name."""
    generation = architecture // 10
    for dtype in _POINTER:
        name = str(dtype).removeprefix("torch.")
        if dtype in (torch.float32, torch.bfloat16):
            for widths in ((16, 16, 16), (64, 32, 32), (512, 64, 64)):
                for launch in rank_case(dtype, widths, 512, 50):
                    yield f"{name} R={sum(widths)} K=50", launch
        if dtype not in KEY_DTYPES:
            continue
        for width, everything in ((16, False), (16, True), (64, False), (64, True), (256, False), (256, True)):
            for launch in search_case(dtype, width, 512, 10_000, 50, everything=everything, generation=generation):
                yield f"{name} A={width} K=50{' all terms' if everything else ''}", launch
    for width, targets, k in ((16, 1000, 100), (16, 1000, 512), (100, 1000, 128), (16, 1, 50)):
        for launch in search_case(torch.bfloat16, width, targets, 100_000, k, generation=generation):
            yield f"bfloat16 A={width} K={k} N={targets}", launch


def main() -> None:
    """Print the table, or JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--architecture", type=int, action="append", choices=ARCHITECTURES)
    asked = parser.parse_args()
    found = [resources(name, launch, sm) for sm in asked.architecture or ARCHITECTURES for name, launch in cases(sm)]
    if asked.json:
        json.dump([{**asdict(one), "blocks_per_sm": one.blocks_per_sm} for one in found], sys.stdout)
        return
    print(f"{'kernel':20}{'case':36}{'sm':>5}{'registers':>10}{'spilled':>8}{'shared':>8}{'threads':>8}{'blocks/SM':>10}")
    for one in found:
        print(
            f"{one.kernel:20}{one.case:36}{one.architecture:5}{one.registers:10}{one.spilled_bytes:8}{one.shared_bytes:8}"
            f"{one.threads:8}{one.blocks_per_sm:10}{'  matrix unit' if one.matrix_unit else ''}"
        )


if __name__ == "__main__":
    main()
