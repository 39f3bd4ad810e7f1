"""Downloads of adapters: resumed, checked, and what a full disk means."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from common.errors import OverloadedError, Reason, TransferBrokenError
from common.ids import Digest, digest_of
from site_agent.app.download import download_once
from site_agent.domain.assignment import AdapterRef

CONTENT = bytes(range(256)) * 40
ADAPTER = AdapterRef(digest=digest_of(CONTENT), size_bytes=len(CONTENT), spec_digest=digest_of(b"spec"))


class _Source:
    """Has ``content``, of which it gives so many bytes a call."""

    def __init__(self, content: bytes = CONTENT, give: int = len(CONTENT)) -> None:
        self.content = content
        self.give = give
        self.offsets: list[int] = []

    async def download(self, digest: Digest, offset: int) -> AsyncGenerator[bytes, None]:
        assert digest == ADAPTER.digest
        self.offsets.append(offset)
        for start in range(offset, min(offset + self.give, len(self.content)), 1000):
            yield self.content[start : start + 1000]


async def test_what_arrived_is_not_fetched_again(tmp_path: Path) -> None:
    source, path = _Source(give=3000), tmp_path / "adapter"
    for _ in range(3):
        with pytest.raises(TransferBrokenError) as caught:
            await download_once(source, ADAPTER, path)
        assert caught.value.reason is Reason.STREAM_ENDED_EARLY
    await download_once(source, ADAPTER, path)
    assert source.offsets == [0, 3000, 6000, 9000]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT + b"x"])
async def test_another_file_than_announced_is_forgotten(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(TransferBrokenError) as caught:
        await download_once(_Source(content, give=len(content)), ADAPTER, tmp_path / "adapter")
    assert caught.value.reason is Reason.DIGEST_DIFFERS
    assert not (tmp_path / "adapter").exists()


async def test_a_full_disk_may_pass_and_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "adapter"
    part = tmp_path / "adapter.part"
    part.symlink_to("/dev/full")  # takes nothing: "no space left on device"
    with pytest.raises(OverloadedError, match=re.escape(str(len(CONTENT)))) as caught:
        await download_once(_Source(), ADAPTER, path)
    assert (caught.value.reason, caught.value.retryable) == (Reason.DISK_FULL, True)
    part.unlink()
    await download_once(_Source(), ADAPTER, path)
    assert path.read_bytes() == CONTENT
