"""Which part of an SQLite file a byte belongs to, by its format: https://www.sqlite.org/fileformat2.html."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

_HEADER_BYTES = 100
_INTERIOR, _LEAF = (2, 5), (10, 13)

UNUSED = "a byte that SQLite does not use"
HEADER = "the header of the file"
SCHEMA = "the words of the tables' definitions"


def parts_of(database: Path, content: bytes) -> Callable[[int], str]:
    """A function from an offset in `content` (that file, whole) to the part there, one of the above or a table's name.

    For files as small as ours: a table is one page, but for what overflows.
    """
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        names = dict(connection.execute("SELECT rootpage, name FROM sqlite_schema"))
    size = int.from_bytes(content[16:18], "big")

    def part(offset: int) -> str:
        page = content[offset // size * size :][:size]
        at = offset % size
        start = _HEADER_BYTES if offset < size else 0
        if at < start:
            return HEADER
        kind = page[start]
        if kind not in _INTERIOR + _LEAF:  # what overflows from a row of `meta`: the layout
            return "meta" if at < len(page.rstrip(b"\0")) else UNUSED
        cells, first_cell = (int.from_bytes(page[start + i : start + i + 2], "big") for i in (3, 5))
        pointers_end = start + (12 if kind in _INTERIOR else 8) + 2 * cells
        if pointers_end <= at < first_cell:
            return UNUSED
        return names.get(offset // size + 1, SCHEMA)

    return part
