"""The Zarr v3 face of a store: what its three `zarr.json` files say, and where Zarr puts a shard.

They follow the Zarr core specification v3.0 and the `sharding_indexed` codec v1.0, so that any Zarr reader opens the
arrays. The catalogue holds the truth; these files must agree with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mome_store.errors import DamagedStoreError, FormatVersionError, ReadError, StoreNotFoundError
from mome_store.store.checksum import canonical_json
from mome_store.store.schema import ExpertSchema

FORMAT_VERSION = 1
ZARR_JSON = "zarr.json"
INDEX_FOLDER = "index"
"""The folder of a store that holds nothing but the router's cache."""

ArrayName = Literal["experts", "keys"]
ARRAYS: tuple[ArrayName, ArrayName] = ("experts", "keys")


@dataclass(frozen=True)
class StoreLayout:
    """What is fixed when a store is created. id: random, so that no other store's files pass for its own."""

    schema: ExpertSchema
    key_dim: int
    rows_per_shard: int
    base_model: Mapping[str, Any] | None
    encoder: Mapping[str, Any] | None
    id: str | None = None  # None: of a store made before there were ids

    def row_bytes(self, array: ArrayName) -> int:
        return self.schema.record_bytes if array == "experts" else 4 * self.key_dim

    def attributes(self) -> dict[str, Any]:
        """`attributes.mome` of the group's zarr.json."""
        return {
            "format": FORMAT_VERSION,
            "schema": self.schema.to_json(),
            "key_dim": self.key_dim,
            "base_model": None if self.base_model is None else dict(self.base_model),
            "encoder": None if self.encoder is None else dict(self.encoder),
        }

    def identity(self) -> dict[str, Any]:
        """What `read_attributes` must give."""
        return self.attributes() | ({} if self.id is None else {"id": self.id})

    def to_json(self) -> dict[str, Any]:
        """What the catalogue keeps: the identity and the shard size."""
        return {**self.identity(), "rows_per_shard": self.rows_per_shard}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StoreLayout:
        return cls(
            schema=ExpertSchema.from_json(value["schema"]),
            key_dim=value["key_dim"],
            rows_per_shard=value["rows_per_shard"],
            base_model=value["base_model"],
            encoder=value["encoder"],
            id=value.get("id"),
        )


def shard_path(directory: Path, array: ArrayName, number: int) -> Path:
    """Where Zarr's default chunk key encoding puts shard `number` of a two-dimensional array of full-width rows."""
    return directory / array / "c" / str(number) / "0"


def group_metadata(layout: StoreLayout) -> bytes:
    attributes: dict[str, Any] = {"mome": layout.attributes()}
    if layout.id is not None:
        attributes["mome_id"] = layout.id
    return _document({"zarr_format": 3, "node_type": "group", "attributes": attributes})


def array_metadata(layout: StoreLayout, array: ArrayName, rows: int) -> bytes:
    width = layout.schema.record_bytes if array == "experts" else layout.key_dim
    sharding = {
        "chunk_shape": [1, width],
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "index_location": "end",
    }
    return _document(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [rows, width],
            "data_type": "uint8" if array == "experts" else "float32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [layout.rows_per_shard, width]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": {},
        }
    )


def read_attributes(directory: Path) -> dict[str, Any]:
    """`attributes.mome` of the store at `directory`, and as `id` its `attributes.mome_id` where there is one.

    Raises StoreNotFoundError where no store is, FormatVersionError for a newer one, DamagedStoreError for damage.
    """
    path = directory / ZARR_JSON
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise StoreNotFoundError(f"{directory}: no expert store is there ({_what_is_there(directory)})") from None
    except OSError as error:
        raise ReadError(path, 0, error.errno or 0) from error
    except (ValueError, RecursionError) as error:  # the latter: nested without end
        raise DamagedStoreError(ZARR_JSON, None, None, f"not JSON: {error}") from error
    told = _member(document, "attributes")
    attributes = _member(told, "mome")
    if not isinstance(attributes, dict):
        raise StoreNotFoundError(
            f"{directory}: holds Zarr data, but no expert store (zarr.json has no attributes.mome)"
        )
    if attributes.get("format") != FORMAT_VERSION:
        raise FormatVersionError(path, attributes.get("format"), FORMAT_VERSION)
    for name, expected in (("zarr_format", 3), ("node_type", "group")):
        if _member(document, name) != expected:
            raise DamagedStoreError(
                ZARR_JSON, None, None, f"{name} is {_member(document, name)!r}, expected {expected!r}"
            )
    return attributes | ({"id": told["mome_id"]} if "mome_id" in told else {})


def metadata_problems(
    directory: Path, attributes: Mapping[str, Any], layout: StoreLayout, rows: Mapping[ArrayName, int]
) -> Iterator[tuple[str, str]]:
    """(file, problem) for each `zarr.json` that disagrees with the catalogue, in its layout or in its rows.

    attributes: as read from the root. Call it after the catalogue has been read, since the arrays grow before a
    commit, never after.
    """
    if attributes.get("id") != layout.id:
        yield ZARR_JSON, "it is of another store than the catalogue"
    elif canonical_json(attributes) != canonical_json(layout.identity()):
        yield ZARR_JSON, "attributes.mome differs from what the catalogue says"
    for array in ARRAYS:
        problem = _array_problem(directory, layout, array, rows[array])
        if problem is not None:
            yield f"{array}/{ZARR_JSON}", problem


def _array_problem(directory: Path, layout: StoreLayout, array: ArrayName, rows: int) -> str | None:
    """What is wrong with an array's zarr.json, which must describe at least `rows` rows, or None.

    More rows are fine: a commit that never happened may have grown the file.
    """
    try:
        found = json.loads((directory / array / ZARR_JSON).read_bytes())
    except OSError as error:
        return f"can't be read: {error.strerror}"
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    expected = json.loads(array_metadata(layout, array, rows))
    shape = _member(found, "shape")
    if not isinstance(shape, list) or len(shape) != 2 or not isinstance(shape[0], int) or shape[0] < rows:
        return f"shape is {shape!r}, expected at least {expected['shape']}"
    expected["shape"][0] = shape[0]
    for name, value in expected.items():
        if _member(found, name) != value:
            return f"{name} is {_member(found, name)!r}, expected {value!r}"
    return None


def _document(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _what_is_there(directory: Path) -> str:
    if not directory.exists():
        return "there is no such directory"
    return "the directory has no zarr.json" if directory.is_dir() else "it is a file"
