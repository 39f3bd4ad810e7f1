"""Uploads that stand still half-way until a test lets them go on, or cuts them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from common.errors import Reason, TransferBrokenError
from common.ids import AssignmentId, Digest
from coordinator.app.ports import BlobStore, PartialUpload
from coordinator.app.update_intake import UpdateIntake
from tests.fakes.coordinator_world import NobodysKeys, World


class Gate:
    """Where every upload stands still once half of it has arrived; ``cut`` ends those that stand there."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._opened = asyncio.Event()
        self._is_cut = False

    def open(self) -> None:
        """Let uploads go on, now and from here on."""
        self._opened.set()

    def cut(self) -> None:
        """End the upload that stands there as a lost link does, and let later ones through."""
        self._is_cut = True
        self._opened.set()

    async def passed(self) -> None:
        """Wait until it is open."""
        self.reached.set()
        await self._opened.wait()
        if self._is_cut:
            self._is_cut = False
            raise TransferBrokenError(Reason.STREAM_ENDED_EARLY, "upload: expected more, got a cut")


class GatedBlobs:
    """A store of files whose uploads pass a gate; everything else is the store's own."""

    def __init__(self, blobs: BlobStore, gate: Gate) -> None:
        self._blobs = blobs
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    async def open_partial(self, assignment_id: AssignmentId, digest: Digest, size_bytes: int) -> PartialUpload:
        partial = await self._blobs.open_partial(assignment_id, digest, size_bytes)
        return _GatedPartial(partial, self._gate, size_bytes // 2)


class _GatedPartial:
    def __init__(self, partial: PartialUpload, gate: Gate, at_bytes: int) -> None:
        self._partial = partial
        self._gate = gate
        self._at_bytes = at_bytes

    @property
    def offset(self) -> int:
        return self._partial.offset

    async def append(self, content: bytes | memoryview) -> None:
        await self._partial.append(content)
        if self._partial.offset >= self._at_bytes:
            await self._gate.passed()

    async def seal(self) -> Digest:
        return await self._partial.seal()

    async def close(self) -> None:
        await self._partial.close()


def gated_intake(world: World, gate: Gate) -> UpdateIntake:
    """The world's intake of updates, behind ``gate``."""
    return UpdateIntake(world.driver, GatedBlobs(world.kept, gate), world.clock, NobodysKeys(), world.standings)


def written(path: Path, content: bytes) -> Path:
    """``path``, with that content."""
    path.write_bytes(content)
    return path
