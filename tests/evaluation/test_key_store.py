"""Facts that are stored by their keys alone are found as a memory finds them, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mome_store.evaluation.key_store import KeyStore, keys_of, ungated
from mome_store.tuning import Fact
from tests.tiny_models import HashEncoder

FACTS = (
    Fact("Which colour has the door of the barn?", "red", ("barn door colour",), id="door"),
    Fact("How tall is the old lighthouse?", "41 m", ("height of the old lighthouse",), id="tower"),
)
NEAR = "How tall, really, is that old lighthouse?"
FAR = "0123456789"


def test_a_stored_wording_finds_the_group_of_its_fact_and_a_removed_fact_is_not_found(tmp_path: Path) -> None:
    with KeyStore(tmp_path / "keys", HashEncoder()) as store:
        door, tower = store.insert(FACTS)
        wordings = [wording for fact in FACTS for wording in fact.wordings]
        assert list(store.route(wordings).group_ids) == [(door,), (door,), (tower,), (tower,)]
        assert not store.route([FAR]).opened.any()
        store.remove([door])
        assert len(store.snapshot.keys()[0]) == 2
        found = store.route(wordings)
        assert found.opened.tolist() == [False, False, True, True]


def test_facts_of_later_commits_are_found_beside_the_earlier_ones(tmp_path: Path) -> None:
    with KeyStore(tmp_path / "keys", HashEncoder()) as store:
        groups = [group for fact in FACTS for group in store.insert([fact])]
        assert [store.route([fact.question]).group_ids[0] for fact in FACTS] == [(group,) for group in groups]


def test_keys_are_those_of_the_wordings_in_order(tmp_path: Path) -> None:
    with KeyStore(tmp_path / "keys", HashEncoder()) as store:
        groups = store.insert(FACTS)
        keys, owners = store.snapshot.keys()
        expected = keys_of(store.router, [wording for fact in FACTS for wording in fact.wordings])
        assert np.array_equal(keys, expected) and owners.tolist() == [groups[0]] * 2 + [groups[1]] * 2


def test_without_the_gate_a_question_goes_to_the_nearest_fact_and_the_gate_stays_as_it_is(tmp_path: Path) -> None:
    with KeyStore(tmp_path / "keys", HashEncoder()) as store:
        assert ungated(store.snapshot, store.router, [NEAR]) == [()], "nothing is stored"
        _, tower = store.insert(FACTS)
        before = store.route([NEAR, FAR])
        first, other = ungated(store.snapshot, store.router, [NEAR, FAR])
        assert first == (tower,) and len(other) == 1
        after = store.route([NEAR, FAR])
        assert before.opened.tolist() == after.opened.tolist() and not after.opened[1]


def test_closing_removes_the_folder(tmp_path: Path) -> None:
    with KeyStore(tmp_path / "keys", HashEncoder()) as store:
        store.insert(FACTS)
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())
