"""The compiled library under the address and undefined-behavior sanitizers: its test suites, then random calls.

python -m tests.kernels.native.sanitize [--seconds 60] [--seed 0]      (make sanitize)

Builds all sources once more with -fsanitize, into build/sanitized, and runs Python with the sanitizer's allocator, so that every array
has guarded ends and is filled before it is used. The first finding ends the run with the sanitizer's report and status 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
LIBRARY = ROOT / "build" / "sanitized" / "_native.so"
FLAGS = ("-std=c++17", "-O1", "-g", "-fno-omit-frame-pointer", "-fPIC", "-pthread", "-fvisibility=hidden", "-fno-math-errno",
         "-fsanitize=address,undefined", "-fno-sanitize-recover=all")  # fmt: skip
SUITES = ("candidates", "features", "lookup", "ranking", "search")
# -s: a report written while pytest captures would be lost with the process.
_PYTEST = """
import sys
from pathlib import Path
import pytest
from kernels import native_library
native_library.PATH = Path(sys.argv[1])
sys.exit(pytest.main(["-q", "-s", "-p", "no:cacheprovider", "-p", "no:faulthandler", *sys.argv[2:]]))
"""


def build(library: Path = LIBRARY, only: str | None = None) -> Path:
    """The sanitized library, of all operations or of one. Raises: SystemExit with the compiler's errors, or naming the missing compiler."""
    spec = importlib.util.spec_from_file_location("dare_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    command, reason = setup.system_compiler()
    if command is None:
        raise SystemExit(f"no C++ compiler works: {reason}")
    if only is not None:
        chosen = [source for source in setup.sources() if source.parent.parent.name in ("kernels", only)]
        setup.sources = lambda: chosen
    errors = setup.compiled(command, library, FLAGS, strip=False)
    if errors:
        raise SystemExit(errors)
    return library


def environment() -> dict[str, str]:
    """Python with the sanitizer loaded first. Leaks are Python's own affair, and numbers that overflow to infinity are none of ours."""
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout.strip()
    return os.environ | {
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=1:detect_stack_use_after_return=1:max_malloc_fill_size=1000000000",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "OPENBLAS_NUM_THREADS": "1",
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    library = str(build())
    suites = [f"tests/kernels/{name}" for name in SUITES]
    fuzz = ["-m", "tests.kernels.native.fuzz", "--library", library, "--seconds", str(asked.seconds), "--seed", str(asked.seed)]
    runs = {"the suites": [sys.executable, "-c", _PYTEST, library, *suites], "random calls": [sys.executable, *fuzz]}
    for what, command in runs.items():
        if subprocess.run(command, cwd=ROOT, env=environment(), check=False).returncode:
            raise SystemExit(f"{what} were stopped by the first finding, printed above")


if __name__ == "__main__":
    main()
