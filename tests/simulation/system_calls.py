"""The calls that the services make to files, on the disks of simulated machines, for paths below ``/simulated``.

Each change is a place to die: before it, or, of a write, in the middle of it. Other paths and handles go to the real
system. Python's own buffers are real, over a handle that is not: what they hold when a process dies was never written.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import random
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import PurePath
from typing import Any, BinaryIO

import pytest

from tests.simulation.disk import Entry, File, Folder, Link, status_of, system_error
from tests.simulation.machines import Life, Machine

ROOT = "simulated"
# Far above any handle that the system gives.
_FIRST_HANDLE = 1 << 20
# Small, so that a file of some hundred bytes goes out in several writes.
_BUFFER_BYTES = 256


@dataclass(slots=True)
class Opened:
    """What a handle stands for; the process that opened it is the one that uses it."""

    entry: Entry
    name: str
    machine: Machine
    life: Life

    @property
    def file(self) -> File:
        if not isinstance(self.entry, File):
            raise system_error(errno.EISDIR, (self.name,))
        return self.entry

    def write(self, content: bytes, offset: int) -> int:
        self.life.place(f"write {self.name}", lambda rng: self._write(content[: rng.randint(0, len(content))], offset))
        return self._write(content, offset)

    def _write(self, content: bytes, offset: int) -> int:
        held = self.file.content
        held.extend(bytes(max(0, offset - len(held))))
        held[offset : offset + len(content)] = content
        self.file.changed_at_ns = self.machine.now_ns()
        return len(content)


@dataclass(frozen=True, slots=True)
class Place:
    """A path of a simulated machine."""

    machine: Machine
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        return "/".join(self.parts)

    @property
    def folder(self) -> Folder:
        return self.machine.disk.folder(self.parts[:-1])

    @property
    def entry(self) -> Entry:
        return self.machine.disk.find(self.parts)

    @property
    def is_there(self) -> bool:
        return not self.parts or self.parts[-1] in self.folder.names

    def change(self, what: str, entry: Entry | None) -> None:
        """Give the name to ``entry``, or take it away."""
        folder = self.folder
        self.machine.life.place(f"{what} {self.name}")
        folder.change(**{self.parts[-1]: entry})


class _Raw(io.RawIOBase):
    """What lies under a buffered file: reads and writes where it stands."""

    def __init__(self, calls: SystemCalls, handle: int, *, at_end: bool) -> None:
        self._calls, self._handle = calls, handle
        self._at = len(calls.opened(handle).file.content) if at_end else 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._handle

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        size = len(self._calls.opened(self._handle).file.content)
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        content = self._calls.pread(self._handle, len(buffer), self._at)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def write(self, content: Any) -> int:
        written = self._calls.pwrite(self._handle, bytes(content), self._at)
        self._at += written
        return written

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._calls.close(self._handle)


@dataclass(frozen=True, slots=True)
class _Scanned:
    """One name in a folder, as `os.scandir` gives it."""

    name: str
    path: str
    entry: Entry

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return isinstance(self.entry, Folder)

    def is_symlink(self) -> bool:
        return isinstance(self.entry, Link)


class SystemCalls:
    """Calls of the modules os, io and shutil on the disks of ``machines``."""

    def __init__(self, machines: dict[str, Machine], rng: random.Random) -> None:
        self._machines = machines
        self._rng = rng
        self._opened: dict[int, Opened] = {}
        self._handles = count(_FIRST_HANDLE)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """In the block they are what the modules call."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("stat", "lstat", "listdir", "scandir", "mkdir", "rmdir", "unlink", "chmod", "statvfs", "open"):
                patch.setattr(os, name, self._on_path(getattr(os, name), getattr(self, name)))
            for name in ("rename", "replace", "link"):
                patch.setattr(os, name, self._on_two_paths(getattr(os, name), getattr(self, name)))
            for name in ("close", "fsync", "fstat", "pread", "preadv", "pwrite", "ftruncate", "fdopen"):
                patch.setattr(os, name, self._on_handle(getattr(os, name), getattr(self, name)))
            patch.setattr(fcntl, "flock", self._on_handle(fcntl.flock, self.flock))
            patch.setattr(os, "symlink", self._on_symlink(os.symlink))
            patch.setattr(io, "open", self._on_path(io.open, self.open_file))
            patch.setattr(shutil, "rmtree", self._on_path(shutil.rmtree, self.rmtree))
            patch.setattr(secrets, "token_hex", lambda count=32: self._rng.randbytes(count).hex())
            yield

    def opened(self, handle: int) -> Opened:
        if handle not in self._opened:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._opened[handle]

    # Paths

    def stat(self, place: Place, *, follow_symlinks: bool = True) -> os.stat_result:
        return status_of(place.entry)

    lstat = stat

    def listdir(self, place: Place) -> list[str]:
        """In an order of its own each time: a file system promises none."""
        names = sorted(place.machine.disk.folder(place.parts).names)
        self._rng.shuffle(names)
        return names

    @contextmanager
    def scandir(self, place: Place) -> Iterator[list[_Scanned]]:
        entries = place.machine.disk.folder(place.parts).names
        path = f"/{ROOT}/{place.machine.name}/{place.name}"
        yield [_Scanned(name, f"{path}/{name}", entries[name]) for name in self.listdir(place)]

    def mkdir(self, place: Place, mode: int = 0o777) -> None:
        if place.is_there:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), place.name)
        place.change("mkdir", Folder())

    def rmdir(self, place: Place) -> None:
        if place.machine.disk.folder(place.parts).names:
            raise system_error(errno.ENOTEMPTY, place.parts)
        place.change("rmdir", None)

    def unlink(self, place: Place) -> None:
        _ = place.entry
        place.change("unlink", None)

    def chmod(self, place: Place, mode: int, *, follow_symlinks: bool = True) -> None:
        entry = place.entry
        place.machine.life.place(f"chmod {place.name}")
        if isinstance(entry, File):
            entry.mode = mode

    def statvfs(self, place: Place) -> os.statvfs_result:
        """A disk with room."""
        return os.statvfs_result((4096, 4096, 1 << 30, 1 << 30, 1 << 30, 0, 0, 0, 0, 255))

    def symlink(self, target: str, place: Place) -> None:
        if place.is_there:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), place.name)
        place.change("symlink", Link(target))

    def rename(self, source: Place, target: Place) -> None:
        """One change where both names are in one folder; in two folders each is a change of its own."""
        entry = source.entry
        if target.folder is source.folder:
            source.machine.life.place(f"rename {source.name} {target.parts[-1]}")
            source.folder.change(**{source.parts[-1]: None, target.parts[-1]: entry})
        else:
            source.machine.life.place(f"rename {source.name} {target.name}")
            target.folder.change(**{target.parts[-1]: entry})
            source.folder.change(**{source.parts[-1]: None})

    replace = rename

    def link(self, source: Place, target: Place) -> None:
        if target.is_there:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target.name)
        target.change("link", source.entry)

    def open(self, place: Place, flags: int, mode: int = 0o777) -> int:
        is_there = place.is_there
        if flags & os.O_EXCL and is_there:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), place.name)
        if flags & os.O_CREAT and not is_there:
            place.change("create", File(mode, changed_at_ns=place.machine.now_ns()))
        entry = place.entry
        if flags & os.O_DIRECTORY and not isinstance(entry, Folder):
            raise system_error(errno.ENOTDIR, place.parts)
        handle = next(self._handles)
        self._opened[handle] = Opened(entry, place.name, place.machine, place.machine.life)
        if flags & os.O_TRUNC and self._opened[handle].file.content:
            self.ftruncate(handle, 0)
        return handle

    def open_file(self, place: Place, mode: str = "r", *_options: Any) -> BinaryIO:
        flags = {"rb": os.O_RDONLY, "wb": os.O_WRONLY | os.O_CREAT | os.O_TRUNC, "ab": os.O_WRONLY | os.O_CREAT}
        return self.fdopen(self.open(place, flags[mode], 0o644), mode)

    def rmtree(self, place: Place, ignore_errors: bool = False) -> None:
        with suppress(*((FileNotFoundError,) if ignore_errors else ())):
            folder = place.machine.disk.folder(place.parts)
            for name in self.listdir(place):
                below = Place(place.machine, (*place.parts, name))
                (self.rmtree if isinstance(folder.names[name], Folder) else self.unlink)(below)
            self.rmdir(place)

    # Handles

    def close(self, handle: int) -> None:
        self._opened.pop(handle, None)

    def fsync(self, handle: int) -> None:
        opened = self.opened(handle)
        opened.life.place(f"sync {opened.name}")
        assert not isinstance(opened.entry, Link)
        opened.entry.sync()

    def flock(self, handle: int, operation: int) -> None:
        """A machine's agent is alone with its files: one process at a time."""
        self.opened(handle)

    def fstat(self, handle: int) -> os.stat_result:
        return status_of(self.opened(handle).entry)

    def pread(self, handle: int, length: int, offset: int) -> bytes:
        return bytes(self.opened(handle).file.content[offset : offset + length])

    def preadv(self, handle: int, buffers: list[memoryview], offset: int) -> int:
        (buffer,) = buffers
        content = self.pread(handle, len(buffer), offset)
        buffer[: len(content)] = content
        return len(content)

    def pwrite(self, handle: int, content: bytes, offset: int) -> int:
        return self.opened(handle).write(bytes(content), offset)

    def ftruncate(self, handle: int, size: int) -> None:
        opened = self.opened(handle)
        opened.life.place(f"truncate {opened.name}")
        del opened.file.content[size:]

    def fdopen(self, handle: int, mode: str = "r") -> BinaryIO:
        raw = _Raw(self, handle, at_end=mode == "ab")
        if mode == "rb":
            return io.BufferedReader(raw)
        return io.BufferedWriter(raw, _BUFFER_BYTES)

    # Which of the two systems is meant

    def _place_of(self, path: Any) -> Place | None:
        if not isinstance(path, str | PurePath):
            return None
        parts = PurePath(path).parts
        if parts[:2] != ("/", ROOT) or len(parts) < 3:
            return None
        return Place(self._machines[parts[2]], parts[3:])

    def _on_path(self, real: Callable[..., Any], simulated: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = ".", *args: Any, **options: Any) -> Any:
            place = self._place_of(path)
            return real(path, *args, **options) if place is None else simulated(place, *args, **options)

        return call

    def _on_two_paths(self, real: Callable[..., Any], simulated: Callable[..., Any]) -> Callable[..., Any]:
        def call(source: Any, target: Any, **options: Any) -> Any:
            first, second = self._place_of(source), self._place_of(target)
            return real(source, target, **options) if first is None or second is None else simulated(first, second)

        return call

    def _on_symlink(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, path: Any, *args: Any, **options: Any) -> Any:
            place = self._place_of(path)
            return real(target, path, *args, **options) if place is None else self.symlink(str(target), place)

        return call

    def _on_handle(self, real: Callable[..., Any], simulated: Callable[..., Any]) -> Callable[..., Any]:
        def call(handle: Any, *args: Any, **options: Any) -> Any:
            is_ours = isinstance(handle, int) and handle >= _FIRST_HANDLE
            return simulated(handle, *args, **options) if is_ours else real(handle, *args, **options)

        return call
