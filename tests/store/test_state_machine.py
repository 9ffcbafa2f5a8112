"""Whatever a writer and its readers do, in any order, a store is what a dictionary would be, and so is every snapshot.

Each state is also read by other Zarr implementations: what they find in a live row is the record that we find.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from mome_store.store import ExpertStore, Memory, Snapshot, verify
from tests.store.conftest import Oracle, memory_directory
from tests.store.test_interop import READERS

READER_NAMES = sorted(READERS)


def killed_in_a_child(path: Path, work: Callable[[ExpertStore], None]) -> None:
    """A writer in a process of its own does `work` and is killed before it can close anything."""
    child = os.fork()
    if child == 0:
        try:
            work(ExpertStore.open(path, "r+"))
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


class StoreMachine(RuleBasedStateMachine):
    """The oracle is the dictionary. `seen`: open snapshots, each with what was in the store when it was taken."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = memory_directory()
        self.path = self.directory.__enter__() / "s"
        self.oracle = Oracle()
        self.store = self.oracle.create(self.path)
        self.seen: list[tuple[ExpertStore, Snapshot, dict[int, Any]]] = []

    def teardown(self) -> None:
        for reader, snapshot, held in self.seen:
            Oracle(groups=held).check(snapshot)
            snapshot.close()
            reader.close()
        self.store.close()
        assert verify(self.path, deep=True).ok
        self.directory.__exit__(None, None, None)

    def a_group(self, choice: int) -> int:
        live = sorted(self.oracle.groups)
        return live[choice % len(live)]

    @rule(experts=st.integers(1, 3), keys=st.integers(1, 5), text=st.one_of(st.none(), st.text(max_size=8)))
    def append(self, experts: int, keys: int, text: str | None) -> None:
        with self.store.transaction() as txn:
            self.oracle.add(txn, experts, keys, None if text is None else Memory(text, "a"))

    @rule(count=st.integers(1, 9))
    def append_many(self, count: int) -> None:
        with self.store.transaction() as txn:
            self.oracle.add_many(txn, count, keys=2)

    @precondition(lambda self: self.oracle.groups)
    @rule(choice=st.integers(0, 99))
    def replace(self, choice: int) -> None:
        with self.store.transaction() as txn:
            self.oracle.replace(txn, self.a_group(choice), experts=2)

    @precondition(lambda self: self.oracle.groups)
    @rule(choice=st.integers(0, 99))
    def remove(self, choice: int) -> None:
        with self.store.transaction() as txn:
            self.oracle.remove(txn, self.a_group(choice))

    @rule()
    def fail(self) -> None:
        held = dict(self.oracle.groups)
        with pytest.raises(RuntimeError), self.store.transaction() as txn:
            self.oracle.add(txn)
            raise RuntimeError
        self.oracle.groups = held

    @rule(used=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=4), max_size=6))
    def compact(self, used: list[list[int]]) -> None:
        self.store.compact(_Usage(used) if used else None)

    @rule()
    def collect_garbage(self) -> None:
        self.store.collect_garbage()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = ExpertStore.open(self.path, "r+")

    @rule(acknowledged=st.booleans(), compacts=st.booleans())
    def kill(self, acknowledged: bool, compacts: bool) -> None:
        """Another writer is killed, in the middle of a transaction or after it."""
        self.store.close()
        group = self.oracle.group()
        next_group = 1 + max([0, *self.oracle.groups, *(i for _, _, held in self.seen for i in held)])

        def work(store: ExpertStore) -> None:
            with store.transaction() as txn:
                txn.add_group(*group)
                if not acknowledged:
                    os.kill(os.getpid(), signal.SIGKILL)
            if compacts:
                store.compact()

        killed_in_a_child(self.path, work)
        self.store = ExpertStore.open(self.path, "r+")
        if acknowledged:
            with self.store.snapshot() as snapshot:
                added = int(snapshot.group_ids[-1])
            assert added >= next_group
            self.oracle.groups[added] = group

    @rule()
    def take_a_snapshot(self) -> None:
        reader = ExpertStore.open(self.path)
        self.seen.append((reader, reader.snapshot(), dict(self.oracle.groups)))

    @precondition(lambda self: self.seen)
    @rule(choice=st.integers(0, 99), how=st.sampled_from(["check", "refresh", "close"]))
    def use_a_snapshot(self, choice: int, how: str) -> None:
        at = choice % len(self.seen)
        reader, snapshot, held = self.seen[at]
        Oracle(groups=held).check(snapshot)
        if how == "refresh":
            snapshot.refresh()
            self.oracle.check(snapshot)
            self.seen[at] = reader, snapshot, dict(self.oracle.groups)
        elif how == "close":
            snapshot.close()
            reader.close()
            del self.seen[at]

    @rule(name=st.sampled_from(READER_NAMES))
    def read_as_zarr(self, name: str) -> None:
        with ExpertStore.open(self.path) as reader, reader.snapshot() as snapshot:
            experts, keys = (READERS[name](self.path / array) for array in ("experts", "keys"))
            for expert_id, row in zip(snapshot.expert_ids.tolist(), snapshot.expert_rows.tolist(), strict=True):
                assert experts[row].tobytes() == snapshot.read_record(expert_id)
            assert keys[snapshot.key_rows].tobytes() == snapshot.keys()[0].tobytes()

    @rule()
    def copy(self) -> None:
        """A copy of a store without a writer is as good as the store."""
        self.store.close()
        with tempfile.TemporaryDirectory(dir=self.path.parent) as folder:
            shutil.copytree(self.path, Path(folder) / "s")
            self.oracle.check_path(Path(folder) / "s")
        self.store = ExpertStore.open(self.path, "r+")

    @invariant()
    def the_newest_commit_is_what_the_dictionary_holds(self) -> None:
        with self.store.snapshot() as snapshot:
            self.oracle.check(snapshot)


class _Usage:
    def __init__(self, used: list[list[int]]) -> None:
        self.ids = np.array([i for use in used for i in use], np.int64)
        self.indptr = np.cumsum([0, *(len(use) for use in used)]).astype(np.int64)


@pytest.mark.parametrize("examples", [12, pytest.param(150, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_store_is_a_dictionary_whatever_happens(examples: int) -> None:
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=examples < 100,
        ),
    )
