"""Work handed to threads comes back with its result or its exception; a wait given up harms nobody; closing finishes the rest."""

from __future__ import annotations

import asyncio
import threading

import pytest

from service.threads import Threads


def test_results_and_exceptions_come_back_and_work_leaves_the_loop() -> None:
    async def run() -> None:
        threads = Threads(2, "work")
        assert await asyncio.gather(*(threads.run(lambda n=n: n * n) for n in range(50))) == [n * n for n in range(50)]
        assert (await threads.run(threading.current_thread)).name.startswith("work-")

        def fails() -> None:
            raise LookupError("this one")

        with pytest.raises(LookupError, match="this one"):
            await threads.run(fails)
        assert await threads.run(lambda: "still here") == "still here"
        threads.close()

    asyncio.run(run())


def test_no_more_threads_than_asked_for_work_at_a_time() -> None:
    at_work, most, lock = 0, 0, threading.Lock()
    met = threading.Barrier(3)

    def work() -> None:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        met.wait(30)
        with lock:
            at_work -= 1

    async def run() -> None:
        threads = Threads(3, "work")
        await asyncio.gather(*(threads.run(work) for _ in range(9)))
        threads.close()

    asyncio.run(run())
    assert most == 3


def test_a_wait_given_up_does_not_end_the_work_nor_the_thread() -> None:
    go_on, done = threading.Event(), threading.Event()

    async def run() -> None:
        threads = Threads(1, "work")
        waiting = threads.run(lambda: (go_on.wait(30), done.set()))
        waiting.cancel()
        go_on.set()
        assert await threads.run(lambda: 7) == 7
        assert done.is_set() and waiting.cancelled()
        threads.close()

    asyncio.run(run())


def test_closing_finishes_what_was_handed_over_even_when_the_loop_is_gone() -> None:
    done = list[int]()
    threads = Threads(1, "work")

    async def run() -> None:
        for n in range(20):
            threads.run(lambda n=n: done.append(n))

    asyncio.run(run())
    threads.close()
    assert done == list(range(20))
