"""The allow-list against every log call that is written in the services."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from common.logging import ALLOWED_FIELDS

ROOT = Path(__file__).parents[2]
METHODS = {"debug", "info", "warning", "error", "critical", "exception", "bind"}
# Described by `common.logging` itself, or taken by it.
BUILT_IN = {"error_type", "error_frames", "error_causes", "library", "location", "exc_info"}


def is_log_call(call: ast.Call) -> bool:
    match call.func:
        case ast.Attribute(value=receiver, attr=name):
            return name in METHODS and "log" in ast.unparse(receiver)
        case ast.Name(id=name):
            return name == "log_fault"
        case _:
            return False


def logged_fields() -> Iterator[tuple[str, str]]:
    """File and line, and field, of every keyword of every log call."""
    for package in ("common", "coordinator", "site_agent", "demo"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and is_log_call(node):
                    where = f"{path.relative_to(ROOT)}:{node.lineno}"
                    yield from ((where, keyword.arg) for keyword in node.keywords if keyword.arg is not None)


def test_every_field_that_is_logged_is_allowed() -> None:
    assert [(where, field) for where, field in logged_fields() if field not in ALLOWED_FIELDS | BUILT_IN] == []


def test_no_field_is_allowed_that_nobody_logs() -> None:
    assert ALLOWED_FIELDS - BUILT_IN - {field for _, field in logged_fields()} == set()
