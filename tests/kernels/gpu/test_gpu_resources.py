"""Every kernel compiles for an A100, an H100 and a B200 without one of them, keeps its numbers in registers and leaves room for others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed; `make test-gpu` runs these tests")
pytest.importorskip("triton", reason="triton is not installed; `make test-gpu` runs these tests")

ROOT = Path(__file__).parents[3]
MOST = {
    "group_max_kernel": {"registers": 208, "shared_bytes": 100 * 1024},
    "keep_best_kernel": {"registers": 208, "shared_bytes": 17 * 1024},
    "pool_kernel": {"registers": 208, "shared_bytes": 9 * 1024},
    "hidden_kernel": {"registers": 208, "shared_bytes": 100 * 1024},
    "output_kernel": {"registers": 208, "shared_bytes": 100 * 1024},
}
"""An A100 gives a block 163 KiB of shared memory; 208 registers of 256 threads are the most that still start."""


@pytest.fixture(scope="module", params=[80, 90, 100])
def compiled(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What `python -m kernels.gpu.resources` says; a process of its own, because the interpreter cannot be left once chosen."""
    command = [sys.executable, "-m", "kernels.gpu.resources", "--json", "--architecture", str(request.param)]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert {one["kernel"] for one in found} == set(MOST)
    return found


def test_nothing_spills(compiled: list[dict[str, Any]]) -> None:
    assert [one for one in compiled if one["spilled_bytes"]] == []


def test_registers_and_shared_memory_stay_bounded(compiled: list[dict[str, Any]]) -> None:
    assert [one for one in compiled for name, most in MOST[one["kernel"]].items() if one[name] > most] == []


def test_the_matrix_unit_filters_in_every_format(compiled: list[dict[str, Any]]) -> None:
    filters = [one for one in compiled if one["kernel"] == "group_max_kernel"]
    assert {one["case"].split()[0] for one in filters} == {"float32", "bfloat16", "float16", "int8"}
    assert all(one["matrix_unit"] for one in filters)


def test_a_maximum_stays_in_its_thread(compiled: list[dict[str, Any]]) -> None:
    filters = [one for one in compiled if one["kernel"] == "group_max_kernel" and " A=16 " in one["case"]]
    # Measuring the keys, once a block, takes a few shuffles; a maximum shared between threads would take some for every score.
    assert len(filters) >= 8
    assert all(one["shuffles"] <= 12 for one in filters)


def test_plain_search_leaves_room_for_three_blocks_a_multiprocessor(compiled: list[dict[str, Any]]) -> None:
    plain = [
        one for one in compiled if one["case"].startswith("bfloat16 A=16") and "all terms" not in one["case"] and "512" not in one["case"]
    ]
    assert len(plain) >= 6
    assert all(one["blocks_per_sm"] >= 3 for one in plain)
