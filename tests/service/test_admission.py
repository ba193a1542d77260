"""Permits are handed on in order, never lost and never doubled, whatever ends a wait; a wait in vain is refused before it begins."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from service.admission import Admission, Deadline
from service.errors import Problem
from service.metrics import Metrics


def admission(permits: int = 1, queue_length: int = 100, queue_wait_s: float = 30.0) -> Admission:
    return Admission("score", permits, queue_length, queue_wait_s, 1, Metrics())


def soon(budget_ms: int | None) -> Deadline:
    return Deadline(budget_ms, asyncio.get_running_loop().time())


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def test_permits_go_in_order_of_arrival() -> None:
    async def run() -> list[int]:
        admitted, order = admission(), list[int]()

        async def work(place: int) -> None:
            async with admitted.permit(soon(None), forever):
                order.append(place)
                await asyncio.sleep(0)

        await asyncio.gather(*(work(place) for place in range(20)))
        assert admitted.idle
        return order

    assert asyncio.run(run()) == list(range(20))


@pytest.mark.parametrize("seed", range(20))
def test_no_permit_is_lost_or_doubled_whatever_ends_a_wait(seed: int) -> None:
    chance = random.Random(seed)

    async def run() -> None:
        permits = chance.randint(1, 3)
        admitted, running = admission(permits), 0

        async def work() -> None:
            nonlocal running
            leaves_after_s = chance.choice([30.0, chance.random() * 0.01])
            budget = soon(chance.choice([None, None, 1, 3, 8]))
            async with admitted.permit(budget, lambda: asyncio.sleep(leaves_after_s)):
                running += 1
                assert running <= permits
                try:
                    await asyncio.sleep(chance.random() * 0.002)
                    if chance.random() < 0.2:
                        raise Problem(500, "the work failed")
                finally:
                    running -= 1

        async def ended() -> None:
            task = asyncio.ensure_future(work())
            if chance.random() < 0.2:
                asyncio.get_running_loop().call_later(chance.random() * 0.01, task.cancel)
            with contextlib.suppress(Problem, asyncio.CancelledError):
                await task

        await asyncio.gather(*(ended() for _ in range(60)))
        for _ in range(permits):
            assert admitted.idle
            await admitted.permit(soon(None)).__aenter__()
        assert not admitted.idle

    asyncio.run(run())


def test_a_wait_in_vain_is_refused_before_it_begins_but_the_first_in_line_waits() -> None:
    async def run() -> list[str]:
        admitted = admission(permits=1, queue_wait_s=20.0)
        loop, outcome = asyncio.get_running_loop(), list[str]()
        for _ in range(60):  # long enough to have learnt that a permit is held for a moment
            async with admitted.permit(soon(None)):
                await asyncio.sleep(0.003)
        learnt = admitted._held_s
        assert 0.002 < learnt < 2 and loop.is_running()
        admitted._held_s = 11.0  # and that it has become slow

        async def work(place: int) -> None:
            try:
                async with admitted.permit(soon(None)):
                    await asyncio.sleep(0.05)
                outcome.append(f"{place} done")
            except Problem as problem:
                told = "to be expected" in problem.detail and problem.retry_after_s == 1
                outcome.append(f"{place} {'refused' if told else problem.detail}")

        await asyncio.gather(*(work(place) for place in range(3)))
        return outcome

    assert asyncio.run(run()) == ["2 refused", "0 done", "1 done"]


def test_free_are_the_permits_that_nobody_holds_or_waits_for() -> None:
    async def run() -> list[int]:
        admitted, seen = admission(permits=3), list[int]()
        async with contextlib.AsyncExitStack() as held:
            for _ in range(3):
                await held.enter_async_context(admitted.permit(soon(None)))
                seen.append(admitted.free)
        return [*seen, admitted.free]

    assert asyncio.run(run()) == [2, 1, 0, 3]
