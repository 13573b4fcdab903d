"""Tables of figures: shown, and written as a page that names the machine, the day and the commit."""

import datetime
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table

from commands.benching.machine import this_machine

#: As wide as they need where nobody looks at a terminal.
console = Console(width=None if sys.stdout.isatty() else 160)


class Figures(NamedTuple):
    """A table of figures."""

    title: str
    head: list[str]
    lines: list[list[str]]


def show(figures: Figures) -> None:
    """Show a table."""
    shown = Table(*figures.head, title=figures.title or None, title_justify="left")
    for line in figures.lines:
        shown.add_row(*line)
    console.print(shown)


def write_page(folder: Path, name: str, title: str, about: str, tables: Iterable[Figures]) -> None:
    """Write tables into a page of the folder, and say its name."""
    machine, day = this_machine(), datetime.datetime.now(datetime.UTC).date().isoformat()
    text = [f"# {title}, {day}", "", f"{machine}. {about}"]
    for figures in tables:
        text += ["", *([f"## {figures.title}", ""] if figures.title else [])]
        rows = (figures.head, ["---"] * len(figures.head), *figures.lines)
        text += ["| " + " | ".join(cells) + " |" for cells in rows]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{day}-{machine.commit}.md"
    path.write_text("\n".join(text) + "\n")
    click.echo(path)
