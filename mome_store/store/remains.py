"""What can still be read in a catalogue that nothing confirms. Only memories have checksums of their own."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from mome_store.errors import DamagedStoreError, ReadError, SchemaError
from mome_store.store import sqlite_access
from mome_store.store.catalog import CATALOG_NAME, STORE_META, CommitRow, memory_of
from mome_store.store.memory import Memory
from mome_store.store.zarr_metadata import StoreLayout


def surviving_memories(directory: Path) -> dict[int, Memory]:
    """The memories that can still be read and match their checksum, by id, whatever the state of the catalogue.

    They may belong to groups that were removed.
    """

    def query(connection: sqlite3.Connection) -> dict[int, Memory]:
        found = {}
        for order in ("ASC", "DESC"):  # from both ends up to what can't be read
            try:
                for row in connection.execute(f"SELECT * FROM memories ORDER BY id {order}"):
                    memory = memory_of(row)
                    if memory is not None:
                        found[int(row[0])] = memory
            except (sqlite3.Error, UnicodeDecodeError, ValueError, TypeError):
                continue
        return found

    try:
        return sqlite_access.read(directory / CATALOG_NAME, query)
    except (DamagedStoreError, ReadError):
        return {}


def surviving_layout(directory: Path) -> StoreLayout | None:
    """The layout that a catalogue in any state tells of, unconfirmed; None where it tells none."""

    def query(connection: sqlite3.Connection) -> StoreLayout | None:
        rows = connection.execute("SELECT value FROM meta WHERE name = ?", (STORE_META,)).fetchall()
        return StoreLayout.from_json(json.loads(rows[-1][0])) if rows else None

    try:
        return sqlite_access.read(directory / CATALOG_NAME, query)
    except (DamagedStoreError, ReadError, SchemaError, ValueError, TypeError, LookupError):
        return None


def surviving_commit(directory: Path) -> CommitRow | None:
    """The newest row of `commits` that a catalogue in any state tells of, unconfirmed."""

    def query(connection: sqlite3.Connection) -> CommitRow | None:
        row = connection.execute("SELECT * FROM commits ORDER BY id DESC LIMIT 1").fetchone()
        return None if row is None else CommitRow(*(int(value) for value in row[:-1]))

    try:
        return sqlite_access.read(directory / CATALOG_NAME, query)
    except (DamagedStoreError, ReadError, ValueError, TypeError):
        return None
