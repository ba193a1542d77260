"""Compiles the C++ of `kernels/` into one shared library, `kernels/_native.so` (docs/adr/0004); the rest of the build is pyproject.toml.

The library has a C ABI and no Python in it. A system compiler is used where one works, else the `ziglang` wheel, which build_backend.py
asks for only then. With neither the install succeeds without the library. `kernels/_native_build.txt` says what happened, and
`dare doctor` repeats it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
LIBRARY, RECORD = "_native.so", "_native_build.txt"
ZIG = "ziglang>=0.13"
# No -march: each CPU level is compiled by function attributes and chosen when it runs. No OpenMP: threads are the standard library's.
FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-fPIC", "-pthread", "-fvisibility=hidden", "-fno-math-errno", "-fno-semantic-interposition",
         "-Wall", "-Wextra")  # fmt: skip
PROGRAM = "#include <thread>\n#include <vector>\nint main() { std::thread([] {}).join(); return int(std::vector<int>().size()); }\n"


def sources() -> list[Path]:
    """Every translation unit, in a stable order."""
    return sorted([*ROOT.glob("kernels/native/*.cpp"), *ROOT.glob("kernels/*/native/*.cpp")])


def digest() -> str:
    """What the sources hold, which the library can be asked for: `kernels/native_library.py` refuses one built from others."""
    every = sorted(path for place in ("native", "*/native") for path in ROOT.glob(f"kernels/{place}/*.[ch]pp"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in every)).hexdigest()[:16]


def system_compiler() -> tuple[list[str] | None, str]:
    """The command of a system compiler that compiles and links C++17 with threads, or None and why each failed."""
    named = os.environ.get("CXX")
    tried = []
    for command in [shlex.split(named)] if named else [["g++"], ["c++"], ["clang++"]]:
        if shutil.which(command[0]) is None:
            tried.append(f"{command[0]} is not installed")
            continue
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "program.cpp"
            program.write_text(PROGRAM)
            done = ran([*command, *FLAGS, "-shared", "-o", str(program.with_suffix(".so")), str(program)])
        if done.returncode == 0:
            return command, ""
        tried.append(f"{shlex.join(command)} cannot compile C++17: {last_line(done.stderr)}")
    return None, "; ".join(tried)


def zig_compiler() -> tuple[list[str] | None, str]:
    """The command of the `ziglang` wheel, for any CPU and an old C library, or None and why not."""
    if ran([sys.executable, "-m", "ziglang", "version"]).returncode:
        return None, "ziglang is not installed"
    # Zig's own default is the CPU it runs on.
    target = ["-mcpu=baseline", "-fno-sanitize=undefined"]
    if sys.platform == "linux":
        libc = "gnu.2.17" if platform.libc_ver()[0] == "glibc" else "musl"
        target += ["-target", f"{platform.machine()}-linux-{libc}"]
    return [sys.executable, "-m", "ziglang", "c++", *target], ""


def ran(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def name_of(command: list[str]) -> str:
    return "ziglang" if "ziglang" in command else shlex.join(command)


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1][:200] if text.strip() else "no message"


def compiled(command: list[str], library: Path, flags: tuple[str, ...] = FLAGS, *, strip: bool = True) -> str:
    """Compile all sources with `command` into `library`, replaced in one step. Returns "" or the compiler's errors."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".native-") as folder:
        objects = [Path(folder) / f"{source.parent.parent.name}-{source.stem}.o" for source in sources()]
        include = [f"-I{ROOT / 'kernels' / 'native'}", f'-DDARE_SOURCES="{digest()}"']
        commands = [
            [*command, *flags, *include, "-c", "-o", str(made), str(source)] for source, made in zip(sources(), objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            failed = [done.stderr for done in pool.map(ran, commands) if done.returncode]
        if failed:
            return failed[0]
        linked = Path(folder) / LIBRARY
        done = ran([*command, *flags, "-shared", *(["-s"] if strip else []), "-o", str(linked), *map(str, objects)])
        if done.returncode:
            return done.stderr
        # A process that has the old library mapped keeps it.
        linked.replace(library)
    return ""


def build(folder: Path) -> str:
    """Put the library, if one can be compiled, and the record of what happened into `folder`. Returns the record."""
    library = folder / LIBRARY
    command, reason = system_compiler()
    if command is None:
        command, zig_reason = zig_compiler()
        reason = f"{reason}; {zig_reason}" if zig_reason else ""
    if command is None:
        record = f"not built: no C++ compiler works: {reason}"
    elif errors := compiled(command, library):
        print(errors, file=sys.stderr)
        record = f"not built: {name_of(command)} failed: {last_line(errors)}"
    else:
        record = f"built by {name_of(command)}: {(ran([*command, '--version']).stdout.splitlines() or ['unknown version'])[0]}"
    if not record.startswith("built"):
        # One left from other sources would pass for this one.
        library.unlink(missing_ok=True)
    (folder / RECORD).write_text(record + "\n")
    print(f"kernels/{LIBRARY} {record}", file=sys.stderr)
    return record


class BuildNative(build_ext):
    """The compilation in place of setuptools' own, which would link Python in."""

    def folder(self) -> Path:
        return ROOT / "kernels" if self.inplace else Path(self.build_lib) / "kernels"

    def run(self) -> None:
        self.folder().mkdir(parents=True, exist_ok=True)
        build(self.folder())

    def get_outputs(self) -> list[str]:
        return [str(path) for name in (LIBRARY, RECORD) if (path := self.folder() / name).exists()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class AnyPythonWheel(bdist_wheel):
    """A wheel for this platform and any Python 3: nothing in it is compiled against Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class NativeDistribution(Distribution):
    """Says that there is something to compile."""

    def has_ext_modules(self) -> bool:
        return True


if __name__ == "__main__":
    setup(
        distclass=NativeDistribution,
        ext_modules=[
            Extension(
                "kernels._native",
                [str(source.relative_to(ROOT)) for source in sources()],
                depends=[str(header.relative_to(ROOT)) for header in sorted(ROOT.glob("kernels/**/native/*.hpp"))],
            )
        ],
        cmdclass={"build_ext": BuildNative, "bdist_wheel": AnyPythonWheel},
    )
