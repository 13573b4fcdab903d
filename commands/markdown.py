"""Markdown that the generated pages are made of."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table; `|` inside a cell is escaped."""
    cells = [head, ["---"] * len(head), *lines]
    text = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in cells)
    return "".join(f"| {line} |\n" for line in text)
