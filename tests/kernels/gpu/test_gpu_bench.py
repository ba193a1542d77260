"""The benchmark's path, through Triton's interpreter at a tiny shape, or on the device where there is one."""

from __future__ import annotations

import json
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; `make test-gpu` runs these tests")
pytest.importorskip("triton", reason="triton is not installed; `make test-gpu` runs these tests")

from kernels.gpu import bench, rivals
from kernels.gpu.bench import GpuShape, gate, problems

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TINY = (GpuShape(70, 2, 16, 5), GpuShape(40, 1, 8, 4, users=2, bias=True, category=True))


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return bench.run(DEVICE, grid=TINY, ranking=[(2, 6)], repeats=1, inputs=2)


def test_every_format_and_torch_is_timed_at_every_shape(found: dict[str, Any]) -> None:
    for shape in TINY:
        timed = {row["entrant"] for row in found["rows"] if row["shape"] == str(shape) and "median_us" in row}
        assert {*(f"triton {name} keys" for name in ("float32", "bfloat16", "float16", "int8")), "torch matmul + topk"} <= timed
    ranked = {row["entrant"] for row in found["rows"] if row["operation"] == "ranking"}
    assert ranked == {"triton float32 tables", "triton bfloat16 tables", "torch float32 tables"}
    assert all(0 < row["p10_us"] <= row["median_us"] <= row["p90_us"] for row in found["rows"] if "median_us" in row)
    assert json.loads(json.dumps(found)) == found


def test_who_is_left_out_is_said_with_a_reason(found: dict[str, Any]) -> None:
    left_out = {row["entrant"]: row["left_out"] for row in found["rows"] if row["shape"] == str(TINY[1]) and "left_out" in row}
    assert left_out["faiss knn_gpu"] == left_out["cuVS brute_force"] == "has no bias, category scores or batches of users"
    assert "left out: has no bias" in bench.report(found)


def test_an_interpreted_report_says_so(found: dict[str, Any]) -> None:
    assert ("these times say nothing" in bench.report(found)) == (DEVICE == "cpu")


@pytest.mark.parametrize("integers", [False, True])
def test_a_wrong_answer_stops_the_benchmark(integers: bool) -> None:
    shape = GpuShape(90, 3, 8, 5, bias=True)
    problem = problems(shape, 1, torch.device(DEVICE), integers=integers)[0]
    call, keys, _, _ = bench.ours(problem, torch.float32)
    index, score = (part.clone() for part in call())
    gate("triton", problem, (index, score), keys.dequantised(), same_order=integers)
    if integers:
        with pytest.raises(SystemExit, match="keeps other behaviors than the reference; nothing was timed"):
            gate("triton", problem, (index.flip(1), score), keys.dequantised(), same_order=True)
        return
    with pytest.raises(SystemExit, match=r"a kept score is .* off the reference; nothing was timed"):
        gate("triton", problem, (index, score + 0.01), keys.dequantised(), same_order=False)
    with pytest.raises(SystemExit, match=r"a kept score is .* off the reference; nothing was timed"):
        gate("triton", problem, (index.flip(1), score), keys.dequantised(), same_order=False)


@pytest.mark.skipif(DEVICE == "cuda", reason="the CPU and the interpreter go together")
def test_a_device_that_does_not_fit_the_interpreter_is_refused() -> None:
    with pytest.raises(RuntimeError, match="device 'cuda' does not go with TRITON_INTERPRET=1"):
        bench.run("cuda")


def test_a_rival_without_its_package_is_left_out() -> None:
    assert rivals._missing("pylibraft.no_such_part") is not None
