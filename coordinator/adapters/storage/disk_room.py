"""Says before an upload's first byte whether it will find room: no upload is to fill a disk up. Writes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import OverloadedError, Reason
from common.files import is_disk_full


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskRoom:
    """How much uploads may take of a disk.

    Attributes:
        reserve_bytes: What they leave free of the file system: for the database, candidates and whoever else writes.
        quota_bytes: What all files of the store may take together; 0 for no more than the file system has.
    """

    reserve_bytes: int = 0
    quota_bytes: int = 0

    def check(self, folders: Iterable[Path], missing_bytes: int) -> None:
        """Whether ``missing_bytes`` can still come, of all uploads that are under way and of the one to begin.

        Raises:
            OverloadedError: DISK_FULL; it may pass.
        """
        known = list(folders)
        status = os.statvfs(known[0])
        free = status.f_bavail * status.f_frsize
        if missing_bytes + self.reserve_bytes > free:
            raise OverloadedError(
                Reason.DISK_FULL,
                f"the coordinator's disk: expected {missing_bytes + self.reserve_bytes} bytes free, got {free}",
            )
        taken = sum(_size(path) for folder in known for path in folder.iterdir()) if self.quota_bytes else 0
        if self.quota_bytes and taken + missing_bytes > self.quota_bytes:
            raise OverloadedError(
                Reason.DISK_FULL,
                f"the coordinator's quota: expected at most {self.quota_bytes} bytes, got {taken + missing_bytes}",
            )


@contextmanager
def telling_full_disk() -> Iterator[None]:
    """Make a full disk a refusal that may pass.

    Raises:
        OverloadedError: DISK_FULL.
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise OverloadedError(Reason.DISK_FULL, "the coordinator's disk is full; try again later") from None
        raise


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # removed meanwhile
        return 0
