"""Any sequence of transactions leaves exactly what a dictionary would hold, also in the snapshots taken on the way."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mome_store.store import ExpertStore, Memory, Snapshot, statistics, verify

TEXT = st.text(max_size=12)
MEMORIES = st.one_of(
    st.none(),
    st.builds(
        Memory,
        question=TEXT,
        answer=TEXT,
        paraphrases=st.lists(TEXT, max_size=3).map(tuple),
        id=st.one_of(st.none(), TEXT),
        status=TEXT,
        nll=st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
        tuned_at=st.one_of(st.none(), TEXT),
    ),
)
CHANGES = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 3), st.integers(1, 6), MEMORIES),
    st.tuples(st.just("add_many"), st.integers(1, 9), st.integers(1, 3)),
    st.tuples(st.just("remove"), st.integers(0, 99)),
    st.tuples(st.just("replace"), st.integers(0, 99)),
)
TRANSACTIONS = st.lists(
    st.tuples(st.lists(CHANGES, max_size=6), st.sampled_from(["commit", "commit", "commit", "fail", "reopen"])),
    max_size=6,
)


def apply(oracle: Any, txn: Any, changes: list[tuple[Any, ...]]) -> None:
    for kind, *arguments in changes:
        live = sorted(oracle.groups)
        if kind in ("add", "add_many"):
            getattr(oracle, kind)(txn, *arguments)
        elif live:
            group_id = live[arguments[0] % len(live)]
            getattr(oracle, kind)(txn, group_id)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TRANSACTIONS)
def test_a_store_is_a_dictionary_with_snapshots(
    tmp_path: Path, oracle_of: Callable[..., Any], transactions: list[Any]
) -> None:
    oracle = oracle_of()
    with tempfile.TemporaryDirectory(dir=tmp_path) as directory:
        path = Path(directory) / "s"
        store = oracle.create(path)
        taken: list[tuple[Snapshot, Any]] = []
        for changes, end in transactions:
            held = dict(oracle.groups)
            try:
                with store.transaction() as txn:
                    apply(oracle, txn, changes)
                    if end == "fail":
                        raise RuntimeError
            except RuntimeError:
                oracle.groups = held
            if end == "reopen":
                store.close()
                store = ExpertStore.open(path, "r+")
            frozen = copy.copy(oracle)
            frozen.groups = dict(oracle.groups)
            taken.append((store.snapshot(), frozen))
        store.close()
        for snapshot, frozen in taken:
            with snapshot:
                frozen.check(snapshot)
        report = verify(path, deep=True)
        assert report.ok, report.damage
        assert statistics(path).groups == len(oracle.groups)
