"""What a store still says of itself that can be trusted: the catalogue's state, the layout, the `zarr.json` files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mome_store.errors import DamagedStoreError, FormatVersionError, ReadError, SchemaError, StoreNotFoundError
from mome_store.store import catalog, remains
from mome_store.store.catalog import CATALOG_NAME, CatalogState
from mome_store.store.rebuild import shard_numbers_on_disk
from mome_store.store.runs import expert_columns, key_columns
from mome_store.store.salvage import content_crc, is_damage, raw_file, scan_records
from mome_store.store.shard import ShardRow, index_bytes
from mome_store.store.zarr_metadata import (
    ARRAYS,
    ZARR_JSON,
    ArrayName,
    StoreLayout,
    metadata_problems,
    read_attributes,
    shard_path,
)


def confirmed_state(directory: Path) -> tuple[CatalogState | None, list[str]]:
    """The newest commit's state where the digest confirms it, and what is wrong with SQLite's file all the same.

    Raises DamagedStoreError where catalogue and `zarr.json` are of different stores: either may be the wrong one.
    """
    try:
        state = catalog.load_state(directory)
    except (DamagedStoreError, ReadError) as error:
        if not is_damage(error):
            raise
        return None, []
    found = state.layout.id
    with suppress(StoreNotFoundError, FormatVersionError, DamagedStoreError, ReadError):
        found = read_attributes(directory).get("id")
    if found != state.layout.id:
        raise DamagedStoreError(
            ZARR_JSON, None, None, "it is of another store than the catalogue; put the right one of the two back"
        )
    try:
        return state, catalog.integrity_problems(directory)
    except DamagedStoreError as error:
        return state, [error.problem]


def surviving_layout(directory: Path) -> tuple[StoreLayout, int | None]:
    """The layout of a store whose catalogue is not confirmed, and how many rows of experts there ever were, if that is
    known. The `zarr.json` files must agree with each other, and records must be as the layout says.
    """
    for layout, rows_ever in (_layout_of_zarr(directory), (remains.surviving_layout(directory), None)):
        if layout is not None and _fits(directory, layout):
            return layout, rows_ever
    raise DamagedStoreError(
        ZARR_JSON,
        None,
        None,
        "neither the zarr.json files nor the catalogue tell what the records are like; put back a copy of either",
    )


def _layout_of_zarr(directory: Path) -> tuple[StoreLayout | None, int | None]:
    arrays: dict[str, Any] = {}
    for array in ARRAYS:
        with suppress(OSError, ValueError):
            arrays[array] = json.loads((directory / array / ZARR_JSON).read_bytes())
    try:
        attributes = read_attributes(directory)
        size = next(iter(arrays.values()))["chunk_grid"]["configuration"]["chunk_shape"][0]
        layout = StoreLayout.from_json({**attributes, "rows_per_shard": size})
        bad = {file for file, _ in metadata_problems(directory, attributes, layout, dict.fromkeys(ARRAYS, 0))}
        if any(f"{array}/{ZARR_JSON}" in bad for array in arrays):
            return None, None
        return layout, int(arrays["experts"]["shape"][0]) if "experts" in arrays else None
    except (StoreNotFoundError, DamagedStoreError, SchemaError, ReadError):
        return None, None
    except (LookupError, TypeError, ValueError, StopIteration):
        return None, None


def _fits(directory: Path, layout: StoreLayout) -> bool:
    """Whether any record is of this layout, or there are no records at all."""
    numbers = shard_numbers_on_disk(directory, "experts")
    for number in numbers:
        with raw_file(shard_path(directory, "experts", number)) as file:
            if file is not None and next(scan_records(file, layout.schema), None) is not None:
                return True
    return not numbers


def check_identity(directory: Path, state: CatalogState) -> None:
    """Raises DamagedStoreError where the catalogue may be another store's: no `zarr.json` tells whose this store is,
    and no shard of keys is as the catalogue says. To repair by such a catalogue would take everything out.

    Shards of experts don't tell stores apart: each record ends with its own CRC-32C, and so the CRC-32C of whole
    records depends on nothing but how many they are.
    """
    with suppress(StoreNotFoundError, FormatVersionError, DamagedStoreError, ReadError):
        read_attributes(directory)
        return  # `confirmed_state` has compared them
    if state.shards and not any(
        row.array == "keys" and _is_as_committed(directory, state, row) for row in state.shards
    ):
        raise DamagedStoreError(
            CATALOG_NAME,
            None,
            None,
            "it may be of another store: zarr.json can't be read, and no keys are as the catalogue says; put zarr.json "
            "or the right catalogue back",
        )


def _is_as_committed(directory: Path, state: CatalogState, row: ShardRow) -> bool:
    with raw_file(shard_path(directory, row.array, row.number)) as file:
        length = row.bytes - index_bytes(state.layout.rows_per_shard)
        return file is not None and file.size >= length and content_crc(file, length) == row.content_crc


def bad_metadata(directory: Path, layout: StoreLayout, rows: Mapping[ArrayName, int]) -> list[str]:
    """The `zarr.json` files that are not as the layout says, or describe fewer rows."""
    bad = []
    attributes = layout.identity()
    try:
        attributes = read_attributes(directory)
    except (StoreNotFoundError, FormatVersionError, DamagedStoreError, ReadError):
        bad.append(ZARR_JSON)
    return bad + [file for file, _ in metadata_problems(directory, attributes, layout, rows)]


def rows_needed(state: CatalogState) -> dict[ArrayName, int]:
    """How many rows each array must have. A shard that was written anew has gaps, so its last row is further on."""
    rows = state.rows()
    live = {"experts": expert_columns(state.experts)[0], "keys": key_columns(state.keys)[0]}
    return {array: max([rows[array], *(live[array][-1:] + 1).tolist()]) for array in ARRAYS}
