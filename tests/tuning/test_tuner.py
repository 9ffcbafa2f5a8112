"""Facts in, groups out that make a tiny model say the answers: exactly, resumably, and never a failure hidden."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from mome_store import DeviceError, ExpertStore, FactError, MemoryModel, MemoryTuner, StoreLockedError
from mome_store.tuning import Fact, PoolTuner, TuningProgress, TuningSettings
from tests.tiny_models import HashEncoder, make_model, make_tokenizer

Make = Callable[..., MemoryModel]


def make_facts(n: int, seed: int = 0, length: int = 4) -> list[Fact]:
    draw = random.Random(seed)
    names = draw.sample([f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in ("lo", "mi", "nu", "ra", "st")], n)
    return [
        Fact(
            question=f"What is the code of {name}?",
            answer="".join(draw.choices("ABCDEFGHKLMN", k=length)),
            paraphrases=(f"{name}: code?",),
        )
        for name in names
    ]


def texts(memory: MemoryModel, facts: Sequence[Fact], place: int = 0) -> list[str]:
    return [answer.text for answer in memory.generate([f.wordings[place] for f in facts], max_new_tokens=30)]


def experts_by_question(memory: MemoryModel) -> dict[str, list[dict[str, tuple[Any, Any]]]]:
    snapshot = memory.snapshot
    return {
        stored.question: [snapshot.read_expert(i) for i in snapshot.group(group).expert_ids]
        for group, stored in snapshot.memories()
    }


def test_what_is_reported_as_memorised_is_generated_exactly(architecture: str, make_memory: Make) -> None:
    memory = make_memory(architecture, layers=range(1, 4), dtype="bfloat16")
    facts = make_facts(6)
    report = MemoryTuner(memory, TuningSettings(max_steps=150)).memorize(facts)
    assert (report.facts, report.memorized, report.failed) == (6, 6, ())
    assert len(report.group_ids) == 6 and report.bytes_per_fact > memory.store.schema.record_bytes
    expected = [fact.answer for fact in facts]
    assert texts(memory, facts) == expected
    assert texts(memory, facts, place=1) == expected


@pytest.mark.parametrize("tuner", [MemoryTuner, PoolTuner])
def test_a_memory_on_a_device_is_not_trained_in_and_says_so_before_anything(
    make_memory: Make, tuner: type[MemoryTuner | PoolTuner]
) -> None:
    memory = make_memory("llama")
    memory.model.to("meta")  # stands for any device that is not the cpu
    with pytest.raises(DeviceError, match="meta: experts are trained on the cpu") as raised:
        tuner(memory).memorize(make_facts(1))
    assert raised.value.device == "meta"
    with memory.store.snapshot() as snapshot:
        assert snapshot.commit == memory.snapshot.commit


def test_the_memory_is_stored_with_its_fact(make_memory: Make) -> None:
    memory = make_memory("llama")
    fact = Fact("Where is the owl? 🦉", "in the Ærø tree 🌳", ("Owl?",), id="owl-1")
    report = MemoryTuner(memory).memorize([fact])
    stored = memory.snapshot.group(report.group_ids[0]).memory
    assert stored is not None and stored.tuned_at is not None and stored.nll is not None
    assert (stored.question, stored.answer, stored.paraphrases, stored.id) == (
        fact.question,
        fact.answer,
        fact.paraphrases,
        "owl-1",
    )
    assert 0 <= stored.nll < 0.01
    assert texts(memory, [fact]) == [fact.answer]


def test_training_in_a_batch_equals_training_alone(make_memory: Make) -> None:
    facts = make_facts(5)
    together, alone = make_memory("llama"), make_memory("llama")
    MemoryTuner(together).memorize(facts)
    for fact in facts:
        MemoryTuner(alone).memorize([fact])
    found, expected = experts_by_question(together), experts_by_question(alone)
    for question, experts in expected.items():
        for one, other in zip(experts, found[question], strict=True):
            for name, (a, b) in one.items():
                np.testing.assert_allclose(other[name][0], a, atol=2e-3)
                np.testing.assert_allclose(other[name][1], b, atol=2e-3)


def test_the_places_of_finished_facts_are_refilled(make_memory: Make) -> None:
    memory = make_memory("llama")

    settings = TuningSettings(batch_facts=3, commit_facts=4)
    progress: list[TuningProgress] = []
    report = MemoryTuner(memory, settings).memorize(make_facts(10), on_progress=progress.append)
    in_training = [p.in_training for p in progress]
    assert report.memorized == 10
    assert max(in_training) == 3
    assert progress[-1] == TuningProgress(done=10, failed=0, total=10, in_training=0, commits=progress[-1].commits)
    assert progress[-1].commits >= 3
    assert memory.snapshot.commit >= 3


def test_answers_of_different_lengths_train_side_by_side(make_memory: Make) -> None:
    memory = make_memory("llama")
    facts = [
        Fact("What is the code of bo?", "A"),
        Fact("Tell me about the code of lo, please.", "BCDEFGHIJKLMNOPQ", ("lo?", "lo, what about its code?")),
    ]
    report = MemoryTuner(memory, TuningSettings(max_steps=200)).memorize(facts)
    assert report.memorized == 2
    assert [a.text for a in memory.generate([f.question for f in facts], max_new_tokens=30)] == [
        f.answer for f in facts
    ]


def test_a_fact_that_does_not_converge_gets_more_experts(make_memory: Make) -> None:
    memory = make_memory("llama", rank=1, layers=range(3, 4))
    fact = make_facts(1, length=24)[0]
    report = MemoryTuner(memory, TuningSettings(max_steps=80, max_experts=6)).memorize([fact])
    assert report.memorized == 1, report.failed
    assert len(memory.snapshot.group(report.group_ids[0]).expert_ids) > 1
    assert memory.generate([fact.question], max_new_tokens=40)[0].text == fact.answer


def test_a_fact_that_can_not_be_memorised_is_returned_and_not_stored(make_memory: Make) -> None:
    memory = make_memory("llama", rank=1, layers=range(3, 4))
    hard, easy = make_facts(1, length=40)[0], make_facts(3, seed=1, length=1)
    settings = TuningSettings(max_steps=12, max_experts=1, learning_rate=3e-2)
    report = MemoryTuner(memory, settings).memorize([hard, *easy])
    assert hard in [failed.fact for failed in report.failed]
    assert "12 steps with 1 experts" in next(f.reason for f in report.failed if f.fact == hard)
    assert report.memorized + len(report.failed) == 4
    assert hard.question not in {stored.question for _, stored in memory.snapshot.memories()}


def test_a_second_run_goes_on_where_the_first_was_cut_short(make_memory: Make) -> None:
    memory = make_memory("llama")
    facts = make_facts(8)

    def interrupt(progress: TuningProgress) -> None:
        if progress.commits == 1:
            raise KeyboardInterrupt

    settings = TuningSettings(batch_facts=3, commit_facts=2)
    with pytest.raises(KeyboardInterrupt):
        MemoryTuner(memory, settings).memorize(facts, on_progress=interrupt)
    kept = len(memory.snapshot.group_ids)
    assert 2 <= kept < 8
    before = {i: memory.snapshot.read_record(i) for i in memory.snapshot.expert_ids.tolist()}
    report = MemoryTuner(memory, settings).memorize(facts)
    assert (report.memorized, report.resumed, len(report.group_ids)) == (8, kept, 8 - kept)
    assert before == {i: memory.snapshot.read_record(i) for i in before}
    assert texts(memory, facts) == [fact.answer for fact in facts]
    again = MemoryTuner(memory, settings).memorize(facts)
    assert (again.memorized, again.resumed, again.seconds_per_fact) == (8, 8, 0.0)


def test_new_wordings_of_a_fact_replace_its_group(make_memory: Make) -> None:
    memory = make_memory("llama")
    fact = make_facts(1)[0]
    old = MemoryTuner(memory).memorize([fact]).group_ids
    more = Fact(fact.question, fact.answer, (*fact.paraphrases, "And the code, if I may ask?"))
    new = MemoryTuner(memory).memorize([more]).group_ids
    assert memory.snapshot.group_ids.tolist() == list(new) != list(old)
    assert texts(memory, [more], place=2) == [fact.answer]


def test_the_base_model_is_never_changed(make_memory: Make) -> None:
    memory = make_memory("llama")
    before = {name: p.clone() for name, p in make_model("llama").named_parameters()}
    MemoryTuner(memory).memorize(make_facts(3))
    model = memory.model
    memory.close()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_memory_over_a_store_open_for_reading_can_be_tuned(make_memory: Make) -> None:
    made = make_memory("llama")
    path = made.store.path
    with MemoryModel(make_model("llama"), make_tokenizer(), path, encoder=HashEncoder()) as memory:
        with pytest.raises(StoreLockedError):
            MemoryTuner(memory).memorize(make_facts(1))
        made.close()
        made.store.close()
        assert MemoryTuner(memory).memorize(make_facts(1)).memorized == 1
        assert texts(memory, make_facts(1)) == [make_facts(1)[0].answer]
    with ExpertStore.open(path) as store, store.snapshot() as snapshot:
        assert len(snapshot.group_ids) == 1


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        (Fact("q?", None, line=3), "line 3: there is no answer"),
        (Fact("q?", "x" * 300, line=4), "line 4: the longest prompt .* context"),
        (Fact("q?" * 200, "x", line=5), "line 5: the longest prompt .* context"),
        (Fact("q?", "a</s>b", line=6), "line 6: .* turns the answer"),
    ],
)
def test_a_fact_that_can_not_be_trained_is_refused_before_any_is(make_memory: Make, fact: Fact, words: str) -> None:
    memory = make_memory("llama")
    with pytest.raises(FactError, match=words):
        MemoryTuner(memory).memorize([*make_facts(1), fact])
    assert memory.store.snapshot().commit == memory.snapshot.commit


def test_another_answer_to_a_question_that_the_store_knows_is_refused(make_memory: Make) -> None:
    memory = make_memory("llama")
    fact = make_facts(1)[0]
    MemoryTuner(memory).memorize([fact])
    with pytest.raises(FactError, match="forget its group first"):
        MemoryTuner(memory).memorize([Fact("Another?", "ZZ", (fact.question,), line=7)])
