"""The compiled library that the operations share: where it is, whether it loads, and the CPU level it is to use."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy.typing as npt

FOLDER = Path(__file__).resolve().parent
PATH = FOLDER / "_native.so"
RECORD = PATH.with_name("_native_build.txt")
"""What the build said, written by setup.py beside the library or in its place."""
LEVEL_VARIABLE = "DARE_CPU_LEVEL"
LEVELS = {"avx512-vnni": 3, "avx512": 2, "avx2": 1, "scalar": 0}
"""Best first; the numbers of native/cpu_level.hpp."""

FAILURES = {
    1: "the library was built from other sources",
    2: "this CPU lacks the level",
    3: "out of memory",
    4: "keys that wide are not prepared",
    5: "a value is not sound",
}
"""What a status other than 0 of a call means."""


def library() -> tuple[ctypes.CDLL | None, str]:
    """The library, loaded once, and its file name, or None and why not."""
    try:
        return _load(PATH), PATH.name
    except (OSError, AttributeError) as error:
        return None, f"{PATH.name} cannot be loaded: {error}" if PATH.exists() else f"{PATH.name} {build_record()}"


def build_record() -> str:
    """What the build said: which compiler built the library, or why none did."""
    return RECORD.read_text().strip() if RECORD.exists() else "not built: the package was not installed (make setup)"


def level() -> tuple[str | None, str]:
    """The CPU level to use and why, or None and why none: what DARE_CPU_LEVEL names, else the best that this CPU runs."""
    loaded, reason = library()
    return (None, reason) if loaded is None else _level(PATH, os.environ.get(LEVEL_VARIABLE))


def can_run() -> tuple[bool, str]:
    """Whether the library loads and a level is chosen, with both named, or why not."""
    if (found := _known()) is not None:
        return True, found.reason
    return False, level()[1]


def ready(operation: str) -> tuple[ctypes.CDLL, int]:
    """The library and the number of the CPU level to use. Raises: RuntimeError naming the operation and why it cannot run."""
    if (found := _known()) is None:
        raise RuntimeError(f"{operation} backend 'native' cannot run: {level()[1]}")
    return found.library, found.level


def last_ready(operation: str) -> tuple[ctypes.CDLL, int]:
    """`ready`, without asking the environment anew after `can_run`."""
    return ready(operation) if (found := _last[0]) is None else (found.library, found.level)


def address(array: npt.NDArray[Any]) -> int:
    """Where the values of a C-contiguous array start."""
    try:
        # Three times quicker than asking the array, but only for arrays that can be written.
        return ctypes.addressof(ctypes.c_char.from_buffer(cast(Any, array)))
    except (TypeError, ValueError):
        return int(array.__array_interface__["data"][0])


def _c_getenv() -> Callable[[bytes], bytes | None]:
    """C's getenv, with the GIL, where there is one to be had: `os.environ.get` of a variable that is not set takes a tenth of the smallest
    search. Python passes on to C what it sets."""
    try:
        getenv = ctypes.PyDLL(None).getenv
    except (TypeError, OSError, AttributeError):
        return lambda name: None if (value := os.environ.get(os.fsdecode(name))) is None else os.fsencode(value)
    getenv.argtypes, getenv.restype = [ctypes.c_char_p], ctypes.c_char_p
    return cast(Callable[[bytes], bytes | None], getenv)


_getenv = _c_getenv()
_LEVEL_VARIABLE = os.fsencode(LEVEL_VARIABLE)


@dataclass(frozen=True, slots=True)
class _Known:
    path: Path
    forced: bytes | None
    library: ctypes.CDLL
    level: int
    reason: str


_last: list[_Known | None] = [None]
"""The last that could run. Asked several times in every request, so that neither the file system nor the CPU is."""


def _known() -> _Known | None:
    forced, last = _getenv(_LEVEL_VARIABLE), _last[0]
    if last is not None and last.path is PATH and last.forced == forced:
        return last
    loaded, (name, reason) = library()[0], level()
    if loaded is None or name is None:
        return None
    _last[0] = _Known(PATH, forced, loaded, LEVELS[name], f"{PATH.name}, {name} ({reason})")
    return _last[0]


def _sources() -> str | None:
    """`digest` of setup.py over the sources beside this file; None where the package was installed without them."""
    every = sorted(path for place in ("native", "*/native") for path in FOLDER.glob(f"{place}/*.[ch]pp"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in every)).hexdigest()[:16] if every else None


@functools.lru_cache(maxsize=8)
def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    loaded.dare_sources.argtypes, loaded.dare_sources.restype = [], ctypes.c_char_p
    if (there := _sources()) not in (None, loaded.dare_sources().decode()):
        raise OSError(f"it was built from other sources than those of today, {there}: make setup")
    loaded.dare_cpu_runs.argtypes, loaded.dare_cpu_runs.restype = [ctypes.c_int32], ctypes.c_int
    return loaded


@functools.lru_cache(maxsize=32)
def _level(path: Path, forced: str | None) -> tuple[str | None, str]:
    runs = _load(path).dare_cpu_runs
    if forced is None:
        return next(name for name, number in LEVELS.items() if runs(number)), "the best of this CPU"
    if forced not in LEVELS:
        return None, f"{LEVEL_VARIABLE} must be one of {', '.join(LEVELS)}, got {forced!r}"
    if not runs(LEVELS[forced]):
        return None, f"{LEVEL_VARIABLE}={forced}: this CPU cannot run it"
    return forced, f"{LEVEL_VARIABLE} names it"
