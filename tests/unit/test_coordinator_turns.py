"""Turns of streams: so many at once, none for ever, none lost."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.adapters.rpc.turns import Turns

LONG = 3600.0


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class _Stream:
    """Takes a turn and keeps it until it is told to end."""

    def __init__(self, turns: Turns) -> None:
        self.moves = asyncio.Event()
        self.end = asyncio.Event()
        self.task = asyncio.create_task(self._run(turns))

    async def _run(self, turns: Turns) -> None:
        async with turns.turn():
            self.moves.set()
            await self.end.wait()


async def test_only_so_many_move_at_once_and_the_first_that_waits_is_next() -> None:
    turns = Turns(at_once=2, seconds=LONG)
    streams = [_Stream(turns) for _ in range(4)]
    await _settle()
    assert [each.moves.is_set() for each in streams] == [True, True, False, False]
    streams[1].end.set()
    await _settle()
    assert [each.moves.is_set() for each in streams] == [True, True, True, False]
    for each in streams:
        each.end.set()
    await asyncio.gather(*(each.task for each in streams))


async def test_who_is_slow_goes_on_without_a_turn_and_gives_it_up_once() -> None:
    turns = Turns(at_once=1, seconds=0.001)
    slow = _Stream(turns)
    quick = _Stream(turns)
    await asyncio.wait_for(quick.moves.wait(), 10)
    assert not slow.task.done()
    slow.end.set()
    quick.end.set()
    await asyncio.gather(slow.task, quick.task)
    patient = Turns(at_once=1, seconds=LONG)
    patient._free = turns._free
    last = [_Stream(patient) for _ in range(2)]  # one turn is left, not two
    await _settle()
    assert [each.moves.is_set() for each in last] == [True, False]
    for each in last:
        each.end.set()
    await asyncio.gather(*(each.task for each in last))


@pytest.mark.parametrize("cut", [0, 1], ids=["while it moves", "while it waits"])
async def test_a_stream_that_is_cut_leaves_its_turn_to_others(cut: int) -> None:
    turns = Turns(at_once=1, seconds=LONG)
    streams = [_Stream(turns) for _ in range(3)]  # the first moves, the others wait
    await _settle()
    streams[cut].task.cancel()
    others = [each for each in streams if each is not streams[cut]]
    for each in others:
        each.end.set()
    await asyncio.gather(*(each.task for each in others))
    assert all(each.moves.is_set() for each in others)
