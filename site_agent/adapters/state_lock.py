"""One agent at a time in a state folder, by a lock of the kernel that ends with the process. It stores nothing."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import NotNowError, Reason
from common.files import make_folder


@contextmanager
def exclusive(state_folder: Path) -> Iterator[None]:
    """Hold ``state_folder``, which is made if it is not there.

    Raises:
        NotNowError: STORE_IN_USE, another agent holds it.
    """
    make_folder(state_folder, 0o700)
    with (state_folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotNowError(Reason.STORE_IN_USE, f"{state_folder}: another agent works in it") from None
        yield


def is_held(state_folder: Path) -> bool:
    """Whether an agent works in ``state_folder``."""
    try:
        with (state_folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
