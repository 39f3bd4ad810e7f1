"""Files that are whole or absent, whenever the process dies. It knows nothing of what is in them."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` through a temporary file beside it: fsync, rename, fsync of the folder."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    publish_file(temporary, path)


def publish_file(temporary: Path, path: Path) -> None:
    """Rename ``temporary``, whose content is on disk, to ``path``, and make the new name durable."""
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
