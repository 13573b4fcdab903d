"""The tables that ship with the rules: one reader for all of them."""

import csv
from collections.abc import Iterator
from importlib.resources import files


def table_text(name: str) -> str:
    """Return the text of a file of `tables/`."""
    return (files("consumers.deid") / "tables" / name).read_text()


def table_rows(name: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV of `tables/`, by the names of its header."""
    yield from csv.DictReader(table_text(name).splitlines())
