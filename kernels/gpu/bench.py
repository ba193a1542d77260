"""Search and ranking on a GPU side by side with what else is installed: `run(device)`, then `report(...)`, or `python -m kernels.gpu`.

Nothing is timed before its answers equal a float64 reference. On the CPU the kernels are interpreted: the path is the same, the times say
nothing, and the report says so.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from kernels import gpu
from kernels.gpu import rivals, roofline
from kernels.gpu.keys import RaggedKeys, ragged_keys
from kernels.gpu.ranking import DeviceBehaviors, DeviceHead, DeviceTables, DeviceTargets, RankWorkspace, pool_and_score
from kernels.gpu.roofline import Ceilings
from kernels.gpu.search import SearchWorkspace, search_launches, search_topk
from kernels.gpu.timing import eager_us, graph_us, spread

CATEGORIES = 300
_GATED = 16
_FORMATS = (torch.float32, torch.bfloat16, torch.float16, torch.int8)


@dataclass(frozen=True, slots=True)
class GpuShape:
    """`users` of L behaviors with N targets each, attention width A, K kept; with a position bias, with category scores looked up."""

    length: int
    targets: int
    width: int
    kept: int
    users: int = 1
    bias: bool = False
    category: bool = False

    def __str__(self) -> str:
        more = (", position bias" if self.bias else "") + (", category scores" if self.category else "")
        return f"{self.users} x {self.length:,} x {self.targets:,}, d {self.width}, K {self.kept}{more}"


GRID = (
    GpuShape(1_000, 128, 16, 20),
    GpuShape(10_000, 1, 16, 50),
    GpuShape(10_000, 512, 16, 50),
    GpuShape(10_000, 512, 16, 50, bias=True),
    GpuShape(10_000, 512, 16, 50, category=True),
    GpuShape(10_000, 512, 32, 50),
    GpuShape(10_000, 512, 64, 50),
    GpuShape(100_000, 1_000, 16, 100),
    GpuShape(2_000, 64, 16, 50, users=64, bias=True),
)
"""The grid of the CPU benchmark, and a batch of users; d 32 is what category scores cost when they are part of the key."""


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One input of a shape: targets and keys of all users, float32 on the device."""

    shape: GpuShape
    target_TA: Tensor
    target_start_U1: Tensor
    key_MA: Tensor
    bias_M: Tensor | None
    category_M: Tensor | None
    category_score_TC: Tensor | None


def problems(shape: GpuShape, count: int, device: torch.device, *, integers: bool = False) -> list[Problem]:
    """`count` inputs. `integers`: whole numbers in -2..2, where every sum is exact and ties abound."""
    generator = torch.Generator().manual_seed(0)

    def values(*size: int) -> Tensor:
        made = torch.randint(-2, 3, size, generator=generator).float() if integers else torch.randn(size, generator=generator)
        return made.to(device)

    rows, targets = shape.users * shape.length, shape.users * shape.targets
    return [
        Problem(
            shape,
            values(targets, shape.width),
            torch.arange(0, targets + 1, max(1, shape.targets), dtype=torch.int32, device=device),
            values(rows, shape.width),
            values(rows) if shape.bias else None,
            torch.randint(0, CATEGORIES, (rows,), dtype=torch.int32, generator=generator).to(device) if shape.category else None,
            values(targets, CATEGORIES) if shape.category else None,
        )
        for _ in range(count)
    ]


def gate(name: str, problem: Problem, found: tuple[Tensor, Tensor], key_MA: Tensor, *, same_order: bool) -> None:
    """Compare the first 16 targets of every user with float64 on the device: kept scores, or with `same_order` the very same behaviors.

    Raises: SystemExit naming what differs; nothing may then be timed.
    """
    shape = problem.shape
    kept = min(shape.kept, shape.length)
    for user in range(shape.users):
        rows = slice(user * shape.length, (user + 1) * shape.length)
        mine = slice(user * shape.targets, user * shape.targets + min(_GATED, shape.targets))
        score = problem.target_TA[mine].double() @ key_MA[rows].double().T
        if problem.bias_M is not None:
            score += problem.bias_M[rows]
        if problem.category_M is not None and problem.category_score_TC is not None:
            score += problem.category_score_TC[mine][:, problem.category_M[rows].long()]
        index, value = (part[mine, :kept] for part in found)
        if same_order:
            # Whole scores and the position as a fraction: ties go to the newer.
            expected = (score + torch.arange(shape.length, device=score.device) / shape.length).topk(kept).indices
            if not torch.equal(index.long(), expected):
                raise SystemExit(f"{name}, {shape}: keeps other behaviors than the reference; nothing was timed")
            continue
        norm = problem.target_TA[mine].norm(dim=1, keepdim=True) * key_MA[rows].norm(dim=1).max()
        for other in (score.topk(kept).values, score.gather(1, index.long())):
            error = float(((value - other).abs() / norm.clamp_min(1.0)).max()) if value.numel() else 0.0
            if not error <= 1e-5:
                raise SystemExit(f"{name}, {shape}: a kept score is {error:.2g} off the reference; nothing was timed")


def ours(
    problem: Problem, dtype: torch.dtype, shared: SearchWorkspace | None = None
) -> tuple[Callable[[], tuple[Tensor, Tensor]], RaggedKeys, SearchWorkspace, Callable[[], None]]:
    """Search over keys prepared in `dtype` as a callable, those keys, the workspace (`shared` between inputs, as a service has it), and
    pass 1 alone."""
    shape = problem.shape
    keys = ragged_keys(problem.key_MA, [shape.length] * shape.users, dtype)
    workspace = shared or SearchWorkspace(keys, len(problem.target_TA), shape.kept, most_targets=shape.targets)
    terms: dict[str, Any] = {"bias_M": problem.bias_M, "category_M": problem.category_M, "category_score_TC": problem.category_score_TC}
    given = (problem.target_TA, problem.target_start_U1, keys, workspace)
    return lambda: search_topk(*given, **terms), keys, workspace, search_launches(*given, **terms)[0].run


def measure_search(shape: GpuShape, device: torch.device, repeats: int, inputs: int, most: Ceilings | None) -> list[dict[str, Any]]:
    """Gate and time every entrant at one shape; ours with the least time that `most` allows."""
    whole, given = problems(shape, 1, device, integers=True)[0], problems(shape, inputs, device)
    rows = []
    for dtype in _FORMATS:
        name = f"triton {str(dtype).removeprefix('torch.')} keys"
        if dtype != torch.int8:
            # Rounding -2..2 to multiples of 2 / 127 makes them no whole numbers any more.
            call, keys, _, _ = ours(whole, dtype)
            gate(name, whole, call(), keys.dequantised(), same_order=True)
        calls, firsts, workspace = [], [], None
        for one in given:
            call, keys, workspace, first = ours(one, dtype, workspace)
            gate(name, one, call(), keys.dequantised(), same_order=False)
            calls.append(call)
            firsts.append(first)
        moved = shape.users * (shape.length * shape.width * dtype.itemsize + shape.targets * (4 * shape.width + 8 * shape.kept))
        operations = 2 * shape.users * shape.targets * shape.length * shape.width
        floor = most.floor_us(operations, moved, matrix_unit=True) if most else None
        rows += _rows("search", shape, name, calls, repeats, device, capturable=True, floor=floor)
        if device.type == "cuda":
            row = {"operation": "search", "shape": str(shape), "entrant": name, "mode": "pass 1"}
            rows.append({**row, **spread(graph_us(firsts, repeats, device))})
    for name, rival in rivals.search_rivals(shape.bias, shape.category, shape.users, device).items():
        if isinstance(rival, str):
            rows.append({"operation": "search", "shape": str(shape), "entrant": name, "left_out": rival})
            continue
        calls = [rival.prepare(one) for one in given]
        for one, call in zip(given, calls, strict=True):
            gate(name, one, call(), one.key_MA, same_order=False)
        rows += _rows("search", shape, name, calls, repeats, device, capturable=rival.capturable)
    return rows


def measure_ranking(
    targets: int, kept: int, device: torch.device, repeats: int, inputs: int, most: Ceilings | None
) -> list[dict[str, Any]]:
    """Gate and time stage 2, tables of 64 + 32 + 32 in float32 and bfloat16, against torch's gather of every kept row; ours with the least
    time that `most` allows."""
    generator = torch.Generator().manual_seed(0)
    widths, counts, length, hidden = (64, 32, 32), (100_000 if device.type == "cuda" else 1_000, 300, 64), 10_000, (200, 80)

    def values(*size: int, std: float = 1.0) -> Tensor:
        return (std * torch.randn(size, generator=generator)).to(device)

    def rows(high: int, *size: int) -> Tensor:
        return torch.randint(0, high, size, dtype=torch.int32, generator=generator).to(device)

    features = 3 * sum(widths) + 1
    head = DeviceHead(
        values(features, hidden[0], std=0.05), values(hidden[0]), 0.25,
        values(*hidden, std=0.05), values(hidden[1]), 0.25, values(hidden[1], std=0.2), 0.1,
    )  # fmt: skip
    wide = DeviceTables(*(values(many, width, std=0.3) for many, width in zip(counts, widths, strict=True)))
    narrow = DeviceTables(*(getattr(wide, name).bfloat16() for name in ("item", "category", "recency")))
    workspace = RankWorkspace(targets, head)
    found: list[dict[str, Any]] = []
    calls: dict[str, list[Callable[[], Any]]] = {"triton float32 tables": [], "triton bfloat16 tables": [], "torch float32 tables": []}
    for _ in range(inputs):
        index, score = rows(length, targets, kept), values(targets, kept)
        start = torch.tensor([0, length], dtype=torch.int32, device=device)
        behavior = DeviceBehaviors(rows(counts[0], length), rows(counts[1], length), rows(counts[2], length), start)
        whole = torch.tensor([0, targets], dtype=torch.int32, device=device)
        target = DeviceTargets(rows(counts[0], targets), rows(counts[1], targets), whole)
        extra = values(targets, 0)
        for name, tables in (("triton float32 tables", wide), ("triton bfloat16 tables", narrow)):
            call = _call(pool_and_score, index, score, tables, behavior, target, extra, head, workspace)
            _ranking_gate(name, call()[0], rivals.torch_ranking(index, score, tables, behavior, target, head, torch.float64))
            calls[name].append(call)
        plain = _call(rivals.torch_ranking, index, score, wide, behavior, target, head, torch.float32)
        _ranking_gate("torch float32 tables", plain(), rivals.torch_ranking(index, score, wide, behavior, target, head, torch.float64))
        calls["torch float32 tables"].append(plain)
    operations = 2 * targets * (features * hidden[0] + hidden[0] * hidden[1])
    for name, each in calls.items():
        # A behavior's row once, however many targets keep it.
        moved = min(targets * kept, length) * sum(widths) * (2 if "bfloat16" in name else 4) + 4 * (head.w1.numel() + head.w2.numel())
        floor = most.floor_us(operations, moved, matrix_unit=False) if most and name.startswith("triton") else None
        found += _rows("ranking", f"{targets} x K {kept}, R {sum(widths)}", name, each, repeats, device, capturable=True, floor=floor)
    return found


def run(
    device: str = "cuda", *, grid: Sequence[GpuShape] = GRID, ranking: Sequence[tuple[int, int]] = ((512, 50), (1_000, 100)),
    repeats: int = 50, inputs: int = 8,
) -> dict[str, Any]:  # fmt: skip
    """Gate and time everything: what ran on what, and a row for each shape and entrant, ready for JSON.

    Args: device: a CUDA device; "cpu" only where Triton is interpreted. inputs: rotating inputs a round. repeats: rounds.
    Raises: RuntimeError saying why the kernels cannot run; SystemExit where an answer is wrong.
    """
    able, reason = gpu.can_run()
    where = torch.device(device)
    if not able:
        raise RuntimeError(f"the GPU's kernels cannot run: {reason}")
    interpreted = bool(triton.knobs.runtime.interpret)
    if (where.type == "cpu") != interpreted:
        raise RuntimeError(f"device {device!r} does not go with TRITON_INTERPRET={int(interpreted)}: a CPU needs 1, a CUDA device 0")
    rows: list[dict[str, Any]] = []
    most = roofline.ceilings(where) if where.type == "cuda" else None
    for shape in grid:
        rows += measure_search(shape, where, repeats, inputs, most)
    for targets, kept in ranking:
        rows += measure_ranking(targets, kept, where, repeats, inputs, most)
    return {
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else f"{platform.machine()} CPU, Triton interpreted",
        "interpreted": interpreted,
        "torch": str(torch.__version__),
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "driver": roofline.driver() if where.type == "cuda" else None,
        "ceilings": most and asdict(most),
        "grid": [asdict(shape) for shape in grid],
        "repeats": repeats,
        "inputs": inputs,
        "rows": rows,
    }


def report(found: Mapping[str, Any]) -> str:
    """The rows as a table: times, times as fast as torch's eager call, and the share that the device would take at least."""
    lines = [f"{found['device']}, torch {found['torch']}, triton {found['triton']}, {found['repeats']} rounds of {found['inputs']} inputs"]
    if found["ceilings"]:
        copy, half, full = (1e-12 * found["ceilings"][name] for name in ("copy_bytes", "bfloat16_operations", "float32_operations"))
        lines.append(
            f"driver {found['driver']}, CUDA {found['cuda']}; measured: copy {copy:.2f} TB/s, products {half:.0f} (bfloat16) and "
            f"{full:.0f} (float32) TFLOP/s\nfloor: operations (search: bfloat16, ranking: float32) or bytes at these rates, as a share"
        )
    if found["interpreted"]:
        lines.append("Triton was interpreted on a CPU: these times say nothing about a GPU.")
    first: dict[tuple[str, str], float] = {}
    for row in found["rows"]:
        if row["entrant"].startswith("torch") and row.get("mode") == "eager":
            first.setdefault((row["operation"], row["shape"]), row["median_us"])
    shown = None
    for row in found["rows"]:
        place = (row["operation"], row["shape"])
        if place != shown:
            lines.append(
                f"\n{row['operation']}: {row['shape']}\n{'':32}{'':8}{'median us':>11}{'p10':>9}{'p90':>9}{'x torch':>9}{'floor':>8}"
            )
            shown = place
        if "left_out" in row:
            lines.append(f"{row['entrant']:32}left out: {row['left_out']}")
            continue
        ratio = f"{first[place] / row['median_us']:9.2f}" if place in first else f"{'-':>9}"
        floor = f"{row['floor_us'] / row['median_us']:8.0%}" if row.get("floor_us") else ""
        lines.append(f"{row['entrant']:32}{row['mode']:8}{row['median_us']:11.1f}{row['p10_us']:9.1f}{row['p90_us']:9.1f}{ratio}{floor}")
    return "\n".join(lines)


def _rows(
    operation: str, shape: object, name: str, calls: Sequence[Callable[[], object]], repeats: int, device: torch.device, *,
    capturable: bool, floor: float | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    modes = {"eager": eager_us(calls, repeats, device)}
    if capturable and device.type == "cuda":
        modes["graph"] = graph_us(calls, repeats, device)
    row = {"operation": operation, "shape": str(shape), "entrant": name}
    return [{**row, "mode": mode, **spread(us), **({"floor_us": floor} if floor else {})} for mode, us in modes.items()]


def _call(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: function(*arguments)


def _ranking_gate(name: str, found: Tensor, expected: Tensor) -> None:
    error = float((found.double() - expected.double()).abs().max()) if found.numel() else 0.0
    if not error <= 1e-5:
        raise SystemExit(f"{name}: a probability is {error:.2g} off the reference; nothing was timed")
