"""A file system in memory that knows what is on its disk: what was synced. A power cut loses or tears the rest.

Strict, as POSIX is: the content of a file is durable after an fsync of the file, its name after an fsync of its folder,
and that folder's name after an fsync of the folder above. Each change that was not synced is on the disk or is not,
whatever the order they were made in; what is left of a file's content may end, or be zeros, from any byte on that was
not on the disk before. (What was, and was not written again, stays: a log is added to. SQLite assumes that too, and
calls it "powersafe overwrite".)
"""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class File:
    """A file's content as the processes see it, and as it is on the disk."""

    mode: int
    content: bytearray = field(default_factory=bytearray)
    changed_at_ns: int = 0
    synced: bytes = b""
    synced_mode: int = 0

    def sync(self) -> None:
        self.synced, self.synced_mode = bytes(self.content), self.mode

    def cut(self, rng: random.Random, kept: float) -> None:
        """Lose power: of what was not synced, some may have been written by itself."""
        if rng.random() >= kept:
            self.content = bytearray(self.synced)
        elif bytes(self.content) != self.synced and rng.random() < 0.5:
            self.content = _torn(self.synced, bytes(self.content), rng)
        if rng.random() >= kept:
            self.mode = self.synced_mode or self.mode
        self.sync()


@dataclass(slots=True, eq=False)
class Link:
    """A symbolic link; it is written with its name."""

    target: str


@dataclass(slots=True, eq=False)
class Folder:
    """Names as the processes see them, as they are on the disk, and the changes in between, each one whole."""

    names: dict[str, Entry] = field(default_factory=dict)
    synced: dict[str, Entry] = field(default_factory=dict)
    unsynced: list[dict[str, Entry | None]] = field(default_factory=list)

    def change(self, **entries: Entry | None) -> None:
        """Give names to entries, or take them away: one change."""
        self.unsynced.append(entries)
        _apply(self.names, entries)

    def sync(self) -> None:
        self.synced, self.unsynced = dict(self.names), []

    def cut(self, rng: random.Random, kept: float) -> None:
        """Lose power: of what was not synced, some may have been written by itself."""
        for entries in self.unsynced:
            if rng.random() < kept:
                _apply(self.synced, entries)
        self.names, self.unsynced = dict(self.synced), []


Entry = File | Folder | Link


class Disk:
    """A tree of folders, with ``srv`` in it; paths are relative to its root, in parts."""

    def __init__(self) -> None:
        self.root = Folder()
        self.root.change(srv=Folder())
        self.root.sync()

    def find(self, parts: tuple[str, ...]) -> Entry:
        """What has that name.

        Raises:
            FileNotFoundError, NotADirectoryError: as of the system.
        """
        entry: Entry = self.root
        for part in parts:
            if not isinstance(entry, Folder):
                raise system_error(errno.ENOTDIR, parts)
            if part not in entry.names:
                raise system_error(errno.ENOENT, parts)
            entry = entry.names[part]
        return entry

    def folder(self, parts: tuple[str, ...]) -> Folder:
        """The folder of that name."""
        entry = self.find(parts)
        if not isinstance(entry, Folder):
            raise system_error(errno.ENOTDIR, parts)
        return entry

    def files(self) -> dict[str, bytes]:
        """Every file by its path."""
        return {"/".join(parts): bytes(entry.content) for parts, entry in _walk(self.root) if isinstance(entry, File)}

    def names(self) -> list[str]:
        """Everything by its path, sorted."""
        return sorted("/".join(parts) for parts, _ in _walk(self.root))

    def lose_power(self, rng: random.Random, kept: float) -> None:
        """Of what was not synced, each change survives with the probability ``kept``."""
        cut: set[int] = set()
        folders = [self.root]
        while folders:
            folder = folders.pop()
            folder.cut(rng, kept)
            for entry in folder.names.values():
                if id(entry) in cut or isinstance(entry, Link):
                    continue
                cut.add(id(entry))
                if isinstance(entry, Folder):
                    folders.append(entry)
                else:
                    entry.cut(rng, kept)


def system_error(number: int, parts: tuple[str, ...]) -> OSError:
    """What the system raises."""
    return OSError(number, os.strerror(number), "/".join(parts))


def status_of(entry: Entry) -> os.stat_result:
    """As `os.stat` gives it."""
    size, changed_at_ns = 0, 0
    match entry:
        case File():
            mode, size, changed_at_ns = stat.S_IFREG | entry.mode, len(entry.content), entry.changed_at_ns
        case Folder():
            mode = stat.S_IFDIR | 0o700
        case Link():
            mode = stat.S_IFLNK | 0o777
    seconds = changed_at_ns // 10**9
    times = {"st_atime_ns": changed_at_ns, "st_mtime_ns": changed_at_ns, "st_ctime_ns": changed_at_ns}
    return os.stat_result((mode, id(entry), 1, 1, 0, 0, size, seconds, seconds, seconds), times)


def _apply(names: dict[str, Entry], entries: dict[str, Entry | None]) -> None:
    for name, entry in entries.items():
        if entry is None:
            names.pop(name, None)
        else:
            names[name] = entry


def _walk(folder: Folder) -> Iterator[tuple[tuple[str, ...], Entry]]:
    for name, entry in folder.names.items():
        yield (name,), entry
        if isinstance(entry, Folder):
            yield from (((name, *below), inner) for below, inner in _walk(entry))


def _torn(synced: bytes, content: bytes, rng: random.Random) -> bytearray:
    """Up to some byte as written; from there on as it was before, zeros up to some length, or nothing."""
    pairs = zip(synced, content, strict=False)
    unchanged = next((place for place, (old, new) in enumerate(pairs) if old != new), min(len(synced), len(content)))
    begins_at = rng.randint(unchanged, len(content))
    rest = rng.choice((synced[begins_at:], bytes(rng.randint(0, len(content) - begins_at)), b""))
    return bytearray(content[:begins_at] + rest)
