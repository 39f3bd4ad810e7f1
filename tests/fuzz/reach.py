"""Which lines of which modules an input reaches, by tracing. Fuzzes nothing."""

from __future__ import annotations

import ast
import sys
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz.target import Target

# From a line to the next one in the same call: module, line before (0: the call's first), line.
Step = tuple[str, int, int]


def reached(target: Target, content: bytes) -> set[Step]:
    """The steps that ``target`` takes in its own modules on ``content``, with nothing remembered from before."""
    names = {str(sys.modules[module].__file__): module for module in target.modules}
    for module in target.modules:
        for value in vars(sys.modules[module]).values():
            getattr(value, "cache_clear", lambda: None)()
    steps: set[Step] = set()

    def begin(frame: FrameType, _event: str, _argument: object) -> Any:
        module = names.get(frame.f_code.co_filename)
        if module is None:
            return None
        before = 0

        def step(frame: FrameType, event: str, _argument: object) -> Any:
            nonlocal before
            if event == "line":
                steps.add((module, before, frame.f_lineno))
                before = frame.f_lineno
            return step

        return step

    others = sys.gettrace()
    sys.settrace(begin)
    try:
        target.run(content)
    finally:
        sys.settrace(others)
    return steps


@lru_cache
def statements(module: str) -> tuple[tuple[int, int], ...]:
    """First and last line of each statement inside functions; of one with a body, those before its body.

    What a module runs once, when it is imported, no input can reach.
    """
    tree = ast.parse(Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {node for function in functions for node in ast.walk(function) if isinstance(node, ast.stmt)}
    return tuple(sorted(_span(node) for node in inside.difference(functions) if not _is_docstring(node)))


def _span(node: ast.stmt) -> tuple[int, int]:
    body: list[ast.stmt] = getattr(node, "body", [])
    last = body[0].lineno - 1 if body else node.end_lineno
    return node.lineno, max(node.lineno, last or node.lineno)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
