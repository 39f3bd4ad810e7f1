"""Findings in a file: what each arm gave with each seed, for another day or another machine. Counts, and no text.

A line is what one arm gave with one seed, under a digest of what was asked. What is there under the digest of what is
asked now is not done again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from common.errors import InputInvalidError, Reason
from common.files import write_whole
from common.ids import Digest
from lab.findings import Kept, Played

_FORMAT = 1
_COUNTS = ("true_positives", "predicted", "gold")
_PLAYED: TypeAdapter[Played] = TypeAdapter(Played)


def write_kept(path: Path, kept: Iterable[Kept]) -> None:
    """Write them; the file appears whole."""
    write_whole(path, b"".join(_line(one) for one in kept))


def read_kept(paths: Iterable[Path]) -> dict[Digest, Kept]:
    """What the files hold; of what several hold, the last one's.

    Raises:
        InputInvalidError: CONFIG_INVALID, for a file that cannot be read or was not written by `write_kept`.
    """
    kept: dict[Digest, Kept] = {}
    for path in paths:
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            message = f"{path}: expected a file of findings, got {error.strerror}"
            raise InputInvalidError(Reason.CONFIG_INVALID, message) from None
        for number, line in enumerate(lines, start=1):
            one = _read_line(line, f"{path}, line {number}")
            kept[one.asked] = one
    return kept


def _line(kept: Kept) -> bytes:
    played = _PLAYED.dump_python(kept.played, mode="json", exclude_defaults=True)
    for row in played.get("scored", ()):
        for rule in ("strict", "lenient"):
            row[rule] = [[one[name] for name in _COUNTS] for one in row[rule]]
    document = {
        "format": _FORMAT,
        "name": kept.name,
        "seed": kept.seed,
        "asked": kept.asked,
        "made_by": kept.made_by,
        "played": played,
    }
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def _read_line(line: bytes, where: str) -> Kept:
    try:
        document = json.loads(line)
        if (got := document["format"]) != _FORMAT:
            raise ValueError(f"format: expected {_FORMAT}, got {got!r}")
        for row in document["played"].get("scored", ()):
            for rule in ("strict", "lenient"):
                row[rule] = [dict(zip(_COUNTS, one, strict=True)) for one in row[rule]]
        return Kept(
            name=document["name"],
            seed=document["seed"],
            asked=Digest(document["asked"]),
            made_by=document["made_by"],
            played=_PLAYED.validate_python(document["played"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        message = f"{where}: expected findings as fedmed-lab writes them, got {why!s:.200}"
        raise InputInvalidError(Reason.CONFIG_INVALID, message) from None
