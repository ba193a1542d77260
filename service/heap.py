"""The C library's heap: one for all threads, and what is free within it given back now and then. And Python's: what stays is not searched.

Prepared users come and go, small and large, in whatever thread has them. glibc gives threads heaps of their own and keeps what is freed
within them: a cache of constant size, whose content moves from the heap of one thread to that of another, grew the process by 13 % an
hour (docs/results/2026-11-26-soak.md).
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import platform

_M_ARENA_MAX = -8
TRIM_S = 60.0
"""Time between two returns of what is free."""


def _libc() -> ctypes.CDLL | None:
    """The C library where it is glibc: others have neither of the two functions."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def share_one_heap() -> None:
    """Let all threads that are yet to allocate use one heap. Nothing where the C library is not glibc."""
    if (libc := _libc()) is not None:
        libc.mallopt(_M_ARENA_MAX, 1)


def keep_what_there_is() -> None:
    """Never search what has been made so far for objects that nobody holds: 84,000 objects of modules and the application took 37 ms, or
    70 beside other work, in which no request was answered. What is let go of is freed as before, but for objects that hold each other."""
    gc.collect()
    gc.freeze()


def trim() -> None:
    """Give whole free pages back to the system; a few ms, in which other threads may wait for memory."""
    if (libc := _libc()) is not None:
        libc.malloc_trim(0)


async def keep_trimmed() -> None:
    """`trim` every `TRIM_S`, off the event loop. Never returns."""
    while True:
        await asyncio.sleep(TRIM_S)
        await asyncio.to_thread(trim)
