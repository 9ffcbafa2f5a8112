"""A catalogue from the records alone, for a store whose own catalogue is lost.

A record's trailer says which expert it is and of which group. That is enough to name every whole record again, and not
enough for the rest, which is never guessed:

* Whose key a key is only the catalogue told, and likewise a group's memory: the groups come back without either.
* A removed group's records look like any other's until a compaction drops them, so it comes back as well.
* How many experts a group has is told by its neighbours: a group's experts lie in consecutive rows. Where a neighbour
  is damaged or missing, the group may have lost one of its own, and stays out.
* mode and activation are in no record: whoever asks for the repair must know them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from mome_store.store.record import Trailer
from mome_store.store.runs import ExpertRun, GroupRun, Run, joined
from mome_store.store.salvage import FoundRecord, NewShard, describe_shard, raw_file, scan_records, trailer_at
from mome_store.store.shard import Shard, ShardRow
from mome_store.store.zarr_metadata import ArrayName, StoreLayout, shard_path


@dataclass(frozen=True)
class BadRow:
    """A place where something was, or a whole record that can't be used. offset: where it starts in the file."""

    row: int
    offset: int
    trailer: Trailer | None
    problem: str


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuilt catalogue names.

    shards: files that stay as they are. new_shards: to be written, since their index is damaged. unused: the numbers of
    shards that hold nothing that is named. bad: rows that are not named. newest, highest_group, highest_expert: of the
    commits and ids in all whole records.
    """

    shards: tuple[ShardRow, ...]
    new_shards: tuple[NewShard, ...]
    unused: tuple[int, ...]
    experts: tuple[ExpertRun, ...]
    groups: tuple[int, ...]
    bad: tuple[BadRow, ...]
    newest: int
    highest_group: int
    highest_expert: int

    def group_runs(self, mode: int, activation: int) -> list[GroupRun]:
        return _joined([GroupRun(group, 1, mode, activation, 0) for group in self.groups])


@dataclass(frozen=True)
class _Scan:
    """What is in one file of experts. row: None where its index is damaged; its rows then lie as they were found."""

    number: int
    row: ShardRow | None
    records: Mapping[int, FoundRecord]  # by slot
    damaged: Mapping[int, int]  # slot -> offset of what is no whole record


def shard_numbers_on_disk(directory: Path, array: ArrayName) -> list[int]:
    """The numbers of the shard files that exist, ascending."""
    folder = directory / array / "c"
    names = os.listdir(folder) if folder.is_dir() else []
    numbers = (int(name) for name in names if name.isascii() and name.isdecimal() and str(int(name)) == name)
    return sorted(number for number in numbers if shard_path(directory, array, number).exists())


def rebuild(directory: Path, layout: StoreLayout, rows_ever: int | None) -> Rebuilt:
    """Reads every record. rows_ever: how many rows `experts/zarr.json` describes, or None where it can't be read."""
    size = layout.rows_per_shard
    scans = [_scan(directory, layout, number) for number in shard_numbers_on_disk(directory, "experts")]
    whole = {scan.number * size + slot: record for scan in scans for slot, record in scan.records.items()}
    damaged = {scan.number * size + slot: offset for scan in scans for slot, offset in scan.damaged.items()}
    bad = [BadRow(row, offset, None, "no whole record") for row, offset in damaged.items()]

    rows_of: dict[int, list[int]] = {}
    for row, record in sorted(whole.items()):
        rows_of.setdefault(record.trailer.expert_id, []).append(row)
    groups: dict[int, list[int]] = {}
    for expert_id, rows in rows_of.items():
        if len({whole[row].trailer for row in rows}) > 1:
            problem = f"several different records say that they are expert {expert_id}"
            bad += [BadRow(row, whole[row].offset, whole[row].trailer, problem) for row in rows]
        else:  # copies that a compaction was about to drop: the last one is the newest
            groups.setdefault(whole[rows[-1]].trailer.group_id, []).append(rows[-1])

    edges = _Edges(size, whole, {scan.number: scan for scan in scans}, rows_ever)
    kept: list[tuple[int, list[int]]] = []
    for group_id, rows in groups.items():
        rows.sort()
        doubt = _problem(rows, whole, edges)
        if doubt is None:
            kept.append((group_id, rows))
        else:
            bad += [BadRow(row, whole[row].offset, whole[row].trailer, doubt) for row in rows]
    kept.sort(key=lambda group: group[1])
    used = {row // size for _, rows in kept for row in rows}
    return Rebuilt(
        shards=tuple(scan.row for scan in scans if scan.row is not None and scan.number in used),
        new_shards=tuple(_new_shard(scan, kept, size) for scan in scans if scan.row is None and scan.number in used),
        unused=tuple(scan.number for scan in scans if scan.number not in used),
        experts=tuple(
            _joined([ExpertRun(rows[0], whole[rows[0]].trailer.expert_id, group, 1, len(rows)) for group, rows in kept])
        ),
        groups=tuple(sorted(group for group, _ in kept)),
        bad=tuple(sorted(bad, key=lambda found: found.row)),
        newest=max((record.trailer.commit for record in whole.values()), default=0),
        highest_group=max((record.trailer.group_id for record in whole.values()), default=0),
        highest_expert=max(rows_of, default=0),
    )


def _scan(directory: Path, layout: StoreLayout, number: int) -> _Scan:
    schema, path = layout.schema, shard_path(directory, "experts", number)
    row = describe_shard(directory, layout, "experts", number)
    records: dict[int, FoundRecord] = {}
    damaged: dict[int, int] = {}
    with raw_file(path) as file:
        if file is not None and row is None:
            found = scan_records(file, schema)
            records = {record.offset // schema.record_bytes: record for record in found}
        elif file is not None and row is not None:
            with closing(Shard(directory, layout, row)) as shard:
                offsets = shard.offsets().tolist()
            for slot, offset in enumerate(offsets):
                trailer = trailer_at(file, schema, offset) if offset >= 0 else None
                if trailer is not None:
                    records[slot] = FoundRecord(offset, trailer)
                elif offset >= 0:
                    damaged[slot] = offset
    return _Scan(number, row, records, damaged)


def _problem(rows: list[int], whole: Mapping[int, FoundRecord], edges: _Edges) -> str | None:
    """Why a group with whole records in these rows, ascending, can't come back, or None."""
    ids = [whole[row].trailer.expert_id for row in rows]
    if any(b - a != 1 for a, b in (*pairwise(rows), *pairwise(ids))):
        return "an expert of its group is lost"
    if not (edges.begins(rows[0]) and edges.ends(rows[-1])):
        return "it can't be told whether its group had more experts: what lay beside it is damaged or gone"
    return None


class _Edges:
    """Where groups certainly begin and end."""

    def __init__(
        self, size: int, whole: Mapping[int, FoundRecord], scans: Mapping[int, _Scan], rows_ever: int | None
    ) -> None:
        self._size = size
        self._whole = whole
        self._scans = scans
        self._rows_ever = rows_ever
        self._groups = {record.trailer.expert_id: record.trailer.group_id for record in whole.values()}

    def begins(self, row: int) -> bool:
        """Whether the expert in `row` is certainly the first of its group."""
        trailer = self._whole[row].trailer
        if trailer.expert_id == 1 or self._known(trailer.expert_id - 1, trailer) or self._is_other(row - 1, trailer):
            return True
        before = self._scans.get(row // self._size - 1)
        return row == 0 or (row % self._size == 0 and before is not None and self._stops_early(before))

    def ends(self, row: int) -> bool:
        """Whether it is certainly the last."""
        trailer = self._whole[row].trailer
        if self._known(trailer.expert_id + 1, trailer) or self._is_other(row + 1, trailer):
            return True
        scan = self._scans[row // self._size]
        last = scan.row is not None and row % self._size == max([*scan.records, *scan.damaged])
        beyond = self._rows_ever is not None and row + 1 >= self._rows_ever
        return (last and self._stops_early(scan)) or (beyond and row % self._size == self._size - 1)

    def _known(self, expert_id: int, trailer: Trailer) -> bool:
        """Whether another group's whole record has that id."""
        return self._groups.get(expert_id, trailer.group_id) != trailer.group_id

    def _is_other(self, row: int, trailer: Trailer) -> bool:
        return row in self._whole and self._whole[row].trailer.group_id != trailer.group_id

    def _stops_early(self, scan: _Scan) -> bool:
        """Whether the shard has room left: no group goes on in the next one."""
        return scan.row is not None and max([*scan.records, *scan.damaged], default=-1) < self._size - 1


def _new_shard(scan: _Scan, kept: list[tuple[int, list[int]]], size: int) -> NewShard:
    slots = {row % size for _, rows in kept for row in rows if row // size == scan.number}
    return NewShard("experts", scan.number, {slot: scan.records[slot].offset for slot in sorted(slots)})


def _joined(runs: list[Run]) -> list[Run]:
    """The runs, of which those that go on as the one before are made one."""
    result: list[Run] = []
    for run in runs:
        whole = joined(result[-1], run) if result else None
        if whole is None:
            result.append(run)
        else:
            result[-1] = whole
    return result
