"""Shows a run while it goes on: a page on a terminal, a line for each change elsewhere. The reports are handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live

from coordinator import cli_text
from fedmedlora.v1 import admin_pb2

Page = Callable[[admin_pb2.RunReport], RenderableType]
Show = Callable[[admin_pb2.RunReport], None]


@contextmanager
def showing(console: Console, page: Page, *, is_kept: bool) -> Iterator[Show]:
    """Gives a function that shows the run as it stands; ``is_kept``: the last page stays on the terminal."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=not is_kept) as live:
            yield lambda report: live.update(page(report), refresh=True)
    else:
        told: set[str] = set()
        yield lambda report: _tell(report, told, console)


def _tell(report: admin_pb2.RunReport, told: set[str], console: Console) -> None:
    for line in cli_text.story(report):
        if line not in told:
            told.add(line)
            console.print(line, soft_wrap=True, highlight=False, markup=False)
