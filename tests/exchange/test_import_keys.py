"""An imported group is found by its question, as a memorised fact is, and gets in no other fact's way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mome_store import AdapterError, ExpertStore, FactError, Memory, Router
from mome_store.exchange import export_group, import_group
from tests.exchange.conftest import NewStore, SaveAdapter
from tests.exchange.test_peft_adapter import edit_weights
from tests.tiny_models import HashEncoder

QUESTION, OTHER = "What is the code of the owl?", "The owl has which code?"


@pytest.fixture
def store(new_store: NewStore) -> Any:
    with new_store(encoder=HashEncoder.identity, base_model={"name": "tiny", "fingerprint": "f00"}) as opened:
        yield opened


@pytest.fixture
def adapter(save_adapter: SaveAdapter) -> Path:
    return save_adapter()


def routed(store: ExpertStore, question: str) -> tuple[int, ...]:
    with store.snapshot() as snapshot:
        return Router.open(snapshot, encoder=HashEncoder()).route([question]).group_ids[0]


def test_its_question_and_other_wordings_lead_to_it(store: ExpertStore, adapter: Path) -> None:
    imported = import_group(store, adapter, [f" {QUESTION} ", OTHER, QUESTION], "ABC", encoder=HashEncoder())
    assert imported.question == QUESTION
    with store.snapshot() as snapshot:
        memory = snapshot.group(imported.group_id).memory
        keys, groups = snapshot.keys()
    assert memory == Memory(QUESTION, "ABC", (OTHER,), status="imported")
    np.testing.assert_array_equal(keys, HashEncoder().encode([QUESTION, OTHER]))
    assert groups.tolist() == [imported.group_id] * 2
    for wording in (QUESTION, OTHER):
        assert routed(store, wording) == (imported.group_id,)


def test_without_a_question_no_question_leads_to_it(store: ExpertStore, adapter: Path) -> None:
    imported = import_group(store, adapter)
    assert imported.question is None
    assert routed(store, QUESTION) == ()
    found = import_group(store, adapter, [QUESTION], encoder=HashEncoder())
    assert routed(store, QUESTION) == (found.group_id,)


def test_an_exported_memory_comes_along(store: ExpertStore, adapter: Path, tmp_path: Path) -> None:
    memory = Memory(QUESTION, "Ærø 🌳", (OTHER,), id="owl", nll=0.25, tuned_at="2025-01-01T00:00:00+00:00")
    first = import_group(store, adapter).group_id
    with store.snapshot() as snapshot, store.transaction() as txn:
        expert = snapshot.read_expert(int(snapshot.group(first).expert_ids[0]))
        group = txn.add_group([expert], HashEncoder().encode(memory.wordings), memory)
    with store.snapshot() as snapshot:
        export_group(snapshot, group, tmp_path / "out")
    with store.transaction() as txn:
        txn.remove_group(group)
    back = import_group(store, tmp_path / "out", encoder=HashEncoder())
    with store.snapshot() as snapshot:
        found = snapshot.group(back.group_id)
    assert found.memory == memory and found.activation == "answer"
    assert routed(store, OTHER) == (back.group_id,)
    forced = import_group(store, tmp_path / "out", encoder=HashEncoder(), any_base=True)
    with store.snapshot() as snapshot:
        assert snapshot.group(forced.group_id).memory == Memory(
            QUESTION, "Ærø 🌳", (OTHER,), id="owl", status="imported"
        )


@pytest.mark.parametrize(("held", "answer"), [("ABC", "DEF"), ("ABC", None), (None, None)])
def test_a_question_that_the_store_answers_otherwise_is_refused(
    store: ExpertStore, adapter: Path, held: str | None, answer: str | None
) -> None:
    """Two answers that nobody knows are not the same answer."""
    import_group(store, adapter, [QUESTION], held, encoder=HashEncoder())
    with pytest.raises(FactError, match=rf"answers .* with '{held or ''}' \(group 1\); forget"):
        import_group(store, adapter, [OTHER, QUESTION], answer, encoder=HashEncoder())
    with store.snapshot() as snapshot:
        assert snapshot.group_ids.tolist() == [1] and snapshot.commit == 1


@pytest.mark.parametrize(("held", "answer"), [("ABC", "DEF"), ("", None)], ids=["other answers", "no answers"])
def test_a_group_that_would_take_another_facts_question_is_taken_back(
    store: ExpertStore, adapter: Path, held: str, answer: str | None
) -> None:
    """The old group is found by a key that is not of its own wording."""
    with store.transaction() as txn:
        expert = {name: (np.ones((1, i)), np.ones((o, 1))) for name, (i, o) in store.schema.modules.items()}
        key = HashEncoder().encode(["Something else."])
        old = txn.add_group([expert], key, Memory(QUESTION, held))
    with pytest.raises(FactError, match=f"taken back: it would answer .*question of group {old}"):
        import_group(store, adapter, [QUESTION + "?"], answer, encoder=HashEncoder())
    with store.snapshot() as snapshot:
        assert snapshot.group_ids.tolist() == [old]
    assert routed(store, "Something else.") == (old,)


@pytest.mark.parametrize("wordings", [[""], ["  "], [QUESTION, " "], ["\ud800"]])
def test_a_question_that_is_none_is_refused(store: ExpertStore, adapter: Path, wordings: list[str]) -> None:
    with pytest.raises(FactError):
        import_group(store, adapter, wordings, "ABC", encoder=HashEncoder())
    with pytest.raises(FactError, match="needs the question"):
        import_group(store, adapter, (), "ABC")


@pytest.mark.parametrize("notes", ["{", "[]", '{"memory": {"question": 3}}', '{"memory": []}'])
def test_notes_that_no_store_wrote_are_refused(store: ExpertStore, adapter: Path, notes: str) -> None:
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt", "mome": notes})
    with pytest.raises(AdapterError):
        import_group(store, adapter)
    edit_weights(lambda tensors: None)(adapter)  # without notes it is an adapter like any other
    import_group(store, adapter)
