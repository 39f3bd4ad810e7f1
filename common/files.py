"""Files that are there whole or not at all: written beside their place, synced, renamed; and files kept private."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from common.errors import InputInvalidError, Reason

# Of files that a killed process left behind; whoever owns the folder may delete them when it starts.
PARTIAL_SUFFIX = ".partial"


@contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` when the block ends well; otherwise nothing is left of it.

    Args:
        path: In a folder that exists.
        mode: Permissions from the first byte on, less the umask.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            partial.unlink()
        raise
    sync_folder(path.parent)


def write_whole(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write ``content`` to ``path``, or leave what was there."""
    with replacing(path, mode) as file:
        file.write(content)


def read_private(path: Path) -> bytes:
    """The content of a file that nobody but its owner may read or write.

    Raises:
        InputInvalidError: CONFIG_INVALID, with the command that mends it.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            message = f"{path}: expected a file for its owner alone; run: chmod 600 {path}"
            raise InputInvalidError(Reason.CONFIG_INVALID, message)
        return file.read()


def is_disk_full(error: OSError) -> bool:
    """Whether there was no room: on the file system, in the user's quota, or under the process's limit."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make ``folder``, and what is missing above it, durably; one that is there stays.

    Each name is durable before anything is made below it: what a killed process had made and not synced is synced by
    the next one.
    """
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode, exist_ok=True)
    with suppress(PermissionError):  # whoever may not read the folder above did not make this one
        sync_folder(folder.parent)


def sync_file(path: Path) -> None:
    """Make the content and the permissions of a file durable; its name is its folder's."""
    _sync(path, os.O_RDONLY | os.O_CLOEXEC)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable: a renamed file survives a power cut only after this (POSIX fsync)."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
