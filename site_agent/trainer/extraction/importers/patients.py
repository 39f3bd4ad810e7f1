"""Whose each document is, as a site says it in a table of two columns. It holds no note."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from common.errors import InputInvalidError, Reason

COLUMNS = ("document", "patient")
MAX_PATIENTS_BYTES = 64 * 2**20


def read_patients(path: Path) -> dict[str, str]:
    """The patient of each document, from a CSV file with the columns ``document`` and ``patient``.

    Raises:
        InputInvalidError: NOTES_INVALID, with the first row that is wrong; ids of patients are not shown.
    """
    try:
        if path.stat().st_size > MAX_PATIENTS_BYTES:
            raise _invalid(path, f"expected at most {MAX_PATIENTS_BYTES} bytes, got more")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return _patients(csv.reader(stream, strict=True), path)
    except OSError as error:
        problem = f"cannot be read ({type(error).__name__})"
    except UnicodeDecodeError:
        problem = "expected UTF-8, got something else"
    except csv.Error:
        problem = "expected CSV, got a syntax error"
    raise _invalid(path, problem)


def _patients(rows: Iterator[list[str]], path: Path) -> dict[str, str]:
    if tuple(next(rows, ())) != COLUMNS:
        raise _invalid(path, f"row 1: expected the columns {' and '.join(COLUMNS)}, got others")
    patients: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        where = f"row {number}"
        if len(row) != len(COLUMNS) or not all(row):
            raise _invalid(path, f"{where}: expected a document and a patient, got {len(row)} values or an empty one")
        document, patient = row
        if patients.setdefault(document, patient) != patient:
            raise _invalid(path, f"{where}: expected one patient a document, got two")
    return patients


def _invalid(path: Path, problem: str) -> InputInvalidError:
    return InputInvalidError(Reason.NOTES_INVALID, f"{path.name}: {problem}")
