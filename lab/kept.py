"""Findings in a file: what each arm gave with each seed, for another day or another machine. Counts, and no text.

A line is what one arm gave with one seed, under a digest of what was asked. What is there under the digest of what is
asked now is not done again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from common.errors import FedMedError, InputInvalidError, Reason
from common.files import write_whole
from common.ids import Digest, check_digest
from lab.findings import Kept, Rule

_FORMAT = 1
_COUNTS = ("true_positives", "predicted", "gold")
_RULES = [rule.value for rule in Rule]
_KEPT: TypeAdapter[Kept] = TypeAdapter(Kept)


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
    document = _KEPT.dump_python(kept, exclude_defaults=True)  # not in mode "json", which makes a NaN null
    for row in document["played"].get("scored", ()):
        for rule in row.keys() & _RULES:
            row[rule] = [[one[name] for name in _COUNTS] for one in row[rule]]
    return json.dumps({"format": _FORMAT, **document}, separators=(",", ":")).encode() + b"\n"


def _read_line(line: bytes, where: str) -> Kept:
    try:
        return _kept(json.loads(line))
    except (FedMedError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        message = f"{where}: expected findings as fedmed-lab writes them, got {why:.200}"
        raise InputInvalidError(Reason.CONFIG_INVALID, message) from None


def _kept(document: dict[str, Any]) -> Kept:
    if (got := document.pop("format")) != _FORMAT:
        raise ValueError(f"format: expected {_FORMAT}, got {got!r}")
    for row in document["played"].get("scored", ()):
        for rule in row.keys() & _RULES:
            row[rule] = [dict(zip(_COUNTS, one, strict=True)) for one in row[rule]]
    kept = _KEPT.validate_json(json.dumps(document), strict=True, extra="forbid")
    check_digest(kept.asked, "asked")
    return kept
