"""Makes a damaged store whole again, as far as its bytes allow; says what was lost, and never guesses.

* The catalogue is confirmed by its digest: groups that lost an expert are retired in one commit, shards that can't be
  opened are written anew from the records that are whole, and the `zarr.json` files are derived from the catalogue.
* SQLite finds its file damaged, yet the digest confirms all that is live: the catalogue is copied to a new file first.
* Nothing confirms the catalogue: it is made anew from the records (rebuild.py).

What is taken out goes to `damaged/<n>` (aside.py); nothing is deleted. Two changes can't be taken back: SQLite's
commit, or, for a new catalogue, the journal that says that it is complete. Everything before them only adds files that
nobody reads, and everything after them is done again by the next repair if this one is cut short (`_finish`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mome_store.errors import DamagedStoreError, ReadError, SchemaError
from mome_store.store import catalog
from mome_store.store.aside import Aside
from mome_store.store.catalog import ACTIVATIONS, CATALOG_NAME, MODES, CatalogState, CommitRow
from mome_store.store.catalog_writer import CatalogWriter, write_catalog
from mome_store.store.creation import is_unfinished
from mome_store.store.files import FileOperations, replace_file, temporary_path, writing
from mome_store.store.lock import WriterLock
from mome_store.store.new_catalogue import copying, now, rebuilding
from mome_store.store.rebuild import shard_numbers_on_disk
from mome_store.store.repair_plan import Edit, Loss, Plan, Written
from mome_store.store.salvage import new_shard_path, raw_file, write_new_shard
from mome_store.store.survey import survey
from mome_store.store.surviving import bad_metadata, check_identity, confirmed_state, rows_needed, surviving_layout
from mome_store.store.verify import OnProgress
from mome_store.store.zarr_metadata import (
    ARRAYS,
    ZARR_JSON,
    ArrayName,
    array_metadata,
    group_metadata,
    read_attributes,
    shard_path,
)

REPAIRED = CATALOG_NAME + ".repaired"  # a new catalogue, complete, before it takes the old one's place
_SUFFIXES = ("", "-wal", "-shm", "-journal")


@dataclass(frozen=True)
class RepairReport:
    """What a repair did, or what it would do.

    commit: the newest one of the store as it is now. recovered_experts, recovered_groups: how many it holds, all whole.
    lost: what could not be brought back as it was. set_aside: what lies in `damaged`, paths within the store.
    rewritten: files that were made anew. without_keys: groups that nothing finds until they have new keys.
    maybe_removed: groups of a catalogue that was made anew: any of them may have been removed before.
    """

    commit: int | None
    recovered_experts: int
    recovered_groups: int
    lost: tuple[Loss, ...]
    set_aside: tuple[str, ...]
    rewritten: tuple[str, ...]
    without_keys: tuple[int, ...]
    maybe_removed: tuple[int, ...]

    def after(self, earlier: RepairReport) -> RepairReport:
        """This report of a second step, with what the first one had to tell."""
        return replace(
            self,
            lost=earlier.lost + self.lost,
            set_aside=earlier.set_aside + self.set_aside,
            rewritten=earlier.rewritten + self.rewritten,
            without_keys=tuple(sorted({*earlier.without_keys, *self.without_keys})),
            maybe_removed=tuple(sorted({*earlier.maybe_removed, *self.maybe_removed})),
        )


def repair(
    path: Path | str,
    *,
    mode: str | None = None,
    activation: str | None = None,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
    files: FileOperations | None = None,
) -> RepairReport:
    """Repairs the store at `path`; one that is not damaged stays as it is, byte for byte.

    mode, activation: of all groups, as `Transaction.add_group` takes them. Only a store whose catalogue must be made
    anew from its records needs them, since nothing else tells them.
    dry_run: only says what would be done. files: the file operations; tests put a faulty one here.
    Raises StoreNotFoundError, FormatVersionError, StoreLockedError while a writer is at work, WriteError, and
    DamagedStoreError where too little is left to go on.
    """
    directory = Path(path)
    _check_is_store(directory)
    wanted = _wanted(mode, activation)
    work = _Repair(directory, wanted, on_progress, files or FileOperations())
    if dry_run:
        return work.preview()
    lock = WriterLock(directory)
    try:
        return work.run()
    finally:
        lock.release()


class _Repair:
    def __init__(
        self,
        directory: Path,
        wanted: tuple[int, int] | None,
        on_progress: OnProgress | None,
        files: FileOperations,
    ) -> None:
        """wanted: codes of the mode and activation that new groups get."""
        self._directory = directory
        self._wanted = wanted
        self._on_progress = on_progress
        self._files = files

    def preview(self) -> RepairReport:
        aside = Aside(self._directory, self._files)
        if aside.journal is not None and self._was_decided(aside.journal):
            return _report_in(aside.journal)
        state, problems = self._confirmed()
        if state is None:
            return self._report(rebuilding(self._directory, self._wanted), aside, None)
        report = self._report(self._survey(state), aside, state.commit.id)
        return report.after(self._report(copying(self._directory, state), aside, None)) if problems else report

    def run(self) -> RepairReport:
        earlier = self._go_on()
        state, problems = self._confirmed()
        if state is None or problems:
            done = self._carry_out(
                rebuilding(self._directory, self._wanted) if state is None else copying(self._directory, state), state
            )
            earlier = done if earlier is None else done.after(earlier)
            state, problems = confirmed_state(self._directory)
            if state is None or problems:
                raise DamagedStoreError(CATALOG_NAME, None, None, f"the new catalogue is damaged too: {problems}")
        plan = self._survey(state)
        if plan.is_needed():
            done = self._carry_out(plan, state)
        else:
            done = self._report(plan, Aside(self._directory, self._files), state.commit.id)
        return done if earlier is None else done.after(earlier)

    def _confirmed(self) -> tuple[CatalogState | None, list[str]]:
        state, problems = confirmed_state(self._directory)
        if state is not None:
            check_identity(self._directory, state)
        return state, problems

    def _survey(self, state: CatalogState) -> Plan:
        plan = survey(self._directory, state, self._on_progress)
        plan.rewritten += bad_metadata(self._directory, state.layout, rows_needed(state))
        return plan

    def _file(self, array: ArrayName, number: int) -> str:
        return str(shard_path(self._directory, array, number).relative_to(self._directory))

    def _carry_out(self, plan: Plan, state: CatalogState | None) -> RepairReport:
        aside = Aside(self._directory, self._files)
        layout = state.layout if state is not None else surviving_layout(self._directory)[0]
        for name, (file, offset) in plan.copies.items():
            with raw_file(self._directory / file) as source:
                content = None if source is None else source.read(offset, layout.schema.record_bytes)
            if content is not None:  # else there is nothing that could be kept
                aside.put(name, content)
        for name, content in plan.texts.items():
            aside.put(name, content)
        rows = [write_new_shard(self._files, self._directory, layout, new) for new in plan.new_shards]
        written = {(row.array, row.number): row for row in rows}
        commit: CommitRow | None = None
        if plan.new_catalogue is not None:
            commit = self._write_catalogue(*plan.new_catalogue, written)
        elif plan.edit is not None and state is not None:
            commit = replace(state.commit, id=state.commit.id + 1, time_us=now())
        report = self._report(plan, aside, commit.id if commit else state.commit.id if state else None)
        journal = {
            "report": asdict(report),
            "commit": None if commit is None else [commit.id, commit.time_us],
            "new_catalogue": plan.new_catalogue is not None,
            "before": None if state is None else [state.commit.id, state.digest],
            "new_shards": [[new.array, new.number] for new in plan.new_shards],
            "unused": plan.unused,
            "rewritten": plan.rewritten,
        }
        aside.write_journal(journal)
        if commit is not None and plan.edit is not None:
            with closing(CatalogWriter(self._directory)) as writer:
                changes = writer.begin()
                try:
                    plan.edit(changes, written)
                    writer.commit(changes, commit)
                except BaseException:
                    writer.rollback()
                    raise
        self._finish(aside, journal)
        return report

    def _write_catalogue(self, commit: CommitRow, fill: Edit, written: Written) -> CommitRow:
        path = temporary_path(self._directory / REPAIRED)
        write_catalog(path, commit, lambda changes: fill(changes, written))
        with writing(path):
            self._files.rename(path, self._directory / REPAIRED)
            self._files.fsync_directory(self._directory)
        return commit

    def _go_on(self) -> RepairReport | None:
        """Finishes a repair that was cut short and gives its report; None: there is none, or it must start anew."""
        aside = Aside(self._directory, self._files)
        if aside.journal is None or not self._was_decided(aside.journal):
            self._remove_leftovers()
            aside.forget_journal()
            return None
        self._finish(aside, aside.journal)
        return _report_in(aside.journal)

    def _was_decided(self, journal: Mapping[str, Any]) -> bool:
        """Whether the change that can't be taken back has been made."""
        if journal["commit"] is None:
            return True
        if (self._directory / CATALOG_NAME).exists():
            with suppress(DamagedStoreError, ReadError):
                if catalog.has_commit(self._directory, *journal["commit"]):
                    return True
            state = confirmed_state(self._directory)[0]
            before = None if state is None else [state.commit.id, state.digest]
            if before != journal["before"]:  # somebody went on with the store, or put another catalogue there
                return False
        return bool(journal["new_catalogue"] and (self._directory / REPAIRED).exists())

    def _finish(self, aside: Aside, journal: Mapping[str, Any]) -> None:
        """What comes after the decision. Every step may have been done before."""
        if journal["new_catalogue"] and (self._directory / REPAIRED).exists():
            for suffix in _SUFFIXES:  # the file first: without it nobody takes what is left for a store
                aside.take(CATALOG_NAME + suffix)
            with writing(self._directory / CATALOG_NAME):
                self._files.rename(self._directory / REPAIRED, self._directory / CATALOG_NAME)
                self._files.fsync_directory(self._directory)
        for array, number in journal["new_shards"]:
            new, old = new_shard_path(self._directory, array, number), shard_path(self._directory, array, number)
            if new.exists():
                aside.take(self._file(array, number))
                with writing(old):
                    self._files.rename(new, old)
                    self._files.fsync_directory(old.parent)
        for file in journal["unused"]:
            aside.take(file)
            with writing(self._directory / file):
                self._files.remove_directory((self._directory / file).parent)
        state = confirmed_state(self._directory)[0]
        if state is not None:  # else the store has been damaged since, and is examined anew
            for file in bad_metadata(self._directory, state.layout, rows_needed(state)):
                if file in journal["rewritten"]:
                    self._rewrite_metadata(aside, state, file)
        aside.finish()

    def _rewrite_metadata(self, aside: Aside, state: CatalogState, file: str) -> None:
        path = self._directory / file
        with writing(path.parent):
            self._files.make_directory(path.parent)
        aside.take(file)
        if file == ZARR_JSON:
            content = group_metadata(state.layout)
        else:
            array = next(array for array in ARRAYS if file.startswith(array))
            content = array_metadata(state.layout, array, rows_needed(state)[array])
        replace_file(self._files, path, content)

    def _remove_leftovers(self) -> None:
        """What a repair that must start anew had written, and nobody names."""
        with writing(self._directory):
            new = self._directory / REPAIRED
            for path in (new, *(temporary_path(new).with_name(temporary_path(new).name + s) for s in _SUFFIXES)):
                self._files.unlink(path)
            for array in ARRAYS:
                for number in shard_numbers_on_disk(self._directory, array):
                    self._files.unlink(new_shard_path(self._directory, array, number))

    def _report(self, plan: Plan, aside: Aside, commit: int | None) -> RepairReport:
        moved = [self._file(new.array, new.number) for new in plan.new_shards] + plan.unused
        if plan.new_catalogue is not None:
            moved += [CATALOG_NAME + suffix for suffix in _SUFFIXES]
        moved = [file for file in (*moved, *plan.rewritten) if (self._directory / file).exists()]
        return RepairReport(
            commit=commit,
            recovered_experts=plan.experts,
            recovered_groups=plan.groups,
            lost=tuple(plan.lost),
            set_aside=tuple(aside.name(name) for name in (*plan.copies, *plan.texts, *moved)),
            rewritten=(
                *([CATALOG_NAME] if plan.new_catalogue is not None else []),
                *(self._file(new.array, new.number) for new in plan.new_shards),
                *plan.rewritten,
            ),
            without_keys=tuple(plan.without_keys),
            maybe_removed=tuple(plan.maybe_removed),
        )


def _report_in(journal: Mapping[str, Any]) -> RepairReport:
    report = journal["report"]
    lists = {name: tuple(value) for name, value in report.items() if isinstance(value, list)}
    return RepairReport(**report | lists | {"lost": tuple(Loss(**loss) for loss in report["lost"])})


def _check_is_store(directory: Path) -> None:
    named = any((directory / name).exists() for name in (CATALOG_NAME, REPAIRED))
    if directory.is_dir() and (
        (named and not is_unfinished(directory)) or any(shard_numbers_on_disk(directory, array) for array in ARRAYS)
    ):
        return
    read_attributes(directory)  # says what is there instead


def _wanted(mode: str | None, activation: str | None) -> tuple[int, int] | None:
    """The codes of both."""
    if mode is None and activation is None:
        return None
    if mode not in MODES or activation not in ACTIVATIONS:
        raise SchemaError(
            f"mode and activation go together, one of {', '.join(MODES)} and one of {', '.join(ACTIVATIONS)}; "
            f"found {mode!r} and {activation!r}"
        )
    return MODES.index(mode), ACTIVATIONS.index(activation)
