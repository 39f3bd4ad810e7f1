"""Room for trainers: how many at once, who goes first, and its end."""

from __future__ import annotations

import asyncio

import pytest

from lab.slots import OutOfTimeError, Slots


async def test_no_more_work_at_once_than_there_are_slots() -> None:
    slots, at_work, most = Slots(2, lambda: False), 0, 0

    async def work() -> None:
        nonlocal at_work, most
        async with slots.hold((0,)):
            at_work += 1
            most = max(most, at_work)
            await asyncio.sleep(0)
            at_work -= 1

    await asyncio.gather(*(work() for _ in range(6)))

    assert (most, at_work) == (2, 0)


async def test_what_stands_first_in_the_experiment_goes_first() -> None:
    slots, order = Slots(1, lambda: False), []

    async def work(priority: int) -> None:
        async with slots.hold((priority,)):
            order.append(priority)
            await asyncio.sleep(0)

    await asyncio.gather(*(work(priority) for priority in (9, 3, 1, 2)))

    assert order == [9, 1, 2, 3]  # the slot was free when the first one came


async def test_when_time_is_over_nothing_more_is_begun() -> None:
    is_over = False
    slots, begun = Slots(1, lambda: is_over), 0

    async def work() -> None:
        nonlocal is_over, begun
        async with slots.hold((0,)):
            begun += 1
            is_over = True
            await asyncio.sleep(0)

    outcomes = await asyncio.gather(*(work() for _ in range(3)), return_exceptions=True)

    assert begun == 1
    assert [type(one) for one in outcomes] == [type(None), OutOfTimeError, OutOfTimeError]


async def test_a_slot_comes_back_after_work_that_failed_or_was_given_up() -> None:
    slots = Slots(1, lambda: False)
    with pytest.raises(ZeroDivisionError):
        async with slots.hold((0,)):
            raise ZeroDivisionError
    async with slots.hold((0,)):
        waiting = asyncio.create_task(slots.hold((0,)).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    async with slots.hold((0,)):
        pass
