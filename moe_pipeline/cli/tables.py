"""Tables for standard output: plain text that a terminal, a file and a mail show alike."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence

PLAIN_WIDTH = 150  # where the output is no terminal, so that rows are not broken at 80 letters


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> str:
    """Rows of cells as text; columns of numbers are right-aligned, long cells wrap inside their column."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(head):
        numeric = bool(rows) and all(_is_number(row[index]) for row in rows)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    width = shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")


def _is_number(cell: str) -> bool:
    text = cell.strip().split(" ")[0].rstrip("%")
    try:
        float(text)
    except ValueError:
        return text in {"", "-"}
    return True
