"""Facts into a shared pool: what is reported is generated exactly, and no later call loses it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from mome_store import ExpertStore, FactError, MemoryModel, MemoryTuner, SchemaError
from mome_store.routing import Route
from mome_store.store import Memory, pool_memories, verify
from mome_store.tuning import Fact, PoolSettings, PoolTuner, TuningProgress
from mome_store.tuning.pool import Pool
from mome_store.tuning.pool_training import PoolTraining
from mome_store.tuning.tuner import tokenized
from mome_store.tuning.upper_layers import UpperLayers
from tests.tiny_models import HashEncoder, make_model, make_tokenizer
from tests.tuning.test_tuner import make_facts, texts

Make = Callable[..., MemoryModel]
SETTINGS = PoolSettings(experts=8, top_k=4, learning_rate=2e-2, max_epochs=300)


def test_what_is_reported_as_memorised_is_generated_exactly(architecture: str, make_memory: Make) -> None:
    memory = make_memory(architecture, layers=range(1, 4), dtype="bfloat16")
    facts = make_facts(6)
    report = PoolTuner(memory, SETTINGS).memorize(facts)
    assert (report.facts, report.memorized, report.failed, len(report.group_ids)) == (6, 6, (), 8)
    assert memory.snapshot.modes == {"pool"}
    for place in (0, 1):
        assert texts(memory, facts, place) == [fact.answer for fact in facts]
    held = pool_memories(memory.snapshot)
    assert [(m.question, m.answer, m.paraphrases) for m in held] == [
        (f.question, f.answer, f.paraphrases) for f in facts
    ]
    assert all(m.nll is not None and 0 <= m.nll < 0.01 for m in held)
    assert verify(memory.store.path, deep=True).ok


def test_every_query_gets_top_k_weighted_experts_and_no_gate(make_memory: Make) -> None:
    memory = make_memory("llama")
    PoolTuner(memory, SETTINGS).memorize(make_facts(4))
    route = memory.router.route(["What is the code of bolo?", "Anything else?"])
    assert route.opened.all() and [len(ids) for ids in route.expert_ids] == [4, 4]
    for ids, weights, scores in zip(route.expert_ids, route.weights, route.scores, strict=True):
        assert set(ids.tolist()) <= set(memory.snapshot.expert_ids.tolist()) and len(set(ids.tolist())) == 4
        assert weights.sum() == pytest.approx(1) and (np.diff(weights) <= 0).all() and -1 <= scores <= 1.0001


def test_a_small_cache_gives_the_same_answers(make_memory: Make) -> None:
    memory = make_memory("llama")
    facts = make_facts(4)
    PoolTuner(memory, SETTINGS).memorize(facts)
    room = 3 * memory.store.schema.record_bytes  # fewer than top_k: in waves
    with MemoryModel(make_model("llama"), make_tokenizer(), memory.store, cache=room, encoder=HashEncoder()) as small:
        assert texts(small, facts) == [fact.answer for fact in facts]


def test_an_expert_may_act_on_all_tokens(make_memory: Make) -> None:
    memory = make_memory("llama")
    facts = make_facts(4)
    report = PoolTuner(memory, PoolSettings(experts=8, top_k=4, learning_rate=1e-2, activation="all")).memorize(facts)
    assert report.failed == ()
    assert memory.snapshot.group(report.group_ids[0]).activation == "all"
    for place in (0, 1):
        assert texts(memory, facts, place) == [fact.answer for fact in facts]


def test_later_facts_are_trained_together_with_those_before(make_memory: Make) -> None:
    memory = make_memory("llama")
    facts = make_facts(8)
    first = PoolTuner(memory, SETTINGS).memorize(facts[:5])
    keys = memory.snapshot.keys()[0]
    extended = Fact(facts[0].question, facts[0].answer, ("And the code, if I may ask?",))
    progress: list[TuningProgress] = []
    report = PoolTuner(memory).memorize([extended, *facts[3:]], on_progress=progress.append)
    assert (report.facts, report.memorized, report.resumed, report.failed) == (6, 6, 2, ())
    assert progress[-1].done == progress[-1].total == 6
    assert not set(report.group_ids) & set(first.group_ids) and len(memory.snapshot.group_ids) == 8
    np.testing.assert_array_equal(memory.snapshot.keys()[0], keys)
    assert texts(memory, facts) == [fact.answer for fact in facts]
    assert memory.generate(["And the code, if I may ask?"])[0].text == facts[0].answer
    again = PoolTuner(memory).memorize(facts)
    assert (again.memorized, again.resumed, again.group_ids) == (8, 8, ())


def test_what_can_not_be_memorised_is_failed_and_not_held(make_memory: Make) -> None:
    memory = make_memory("llama", rank=1, layers=range(3, 4))
    facts = make_facts(8)
    report = PoolTuner(memory, PoolSettings(experts=1, learning_rate=1e-2, max_epochs=3)).memorize(facts)
    assert report.memorized == 0 and [failed.fact for failed in report.failed] == facts
    assert "3 epochs" in report.failed[0].reason
    assert len(memory.snapshot.group_ids) == 0 and pool_memories(memory.snapshot) == ()


def test_training_ends_with_the_epoch_in_which_its_time_is_over(make_memory: Make) -> None:
    memory = make_memory("llama")
    facts, encoder = make_facts(4), memory.router.encoder
    pool = Pool.made(encoder, facts, SETTINGS)
    selected = pool.select(encoder, [tokenized(memory, fact) for fact in facts])
    upper = UpperLayers(memory.model, memory.store.schema, memory.attachment)
    for seconds, epochs in ((2.5, 3), (-1.0, 1)):
        training = PoolTraining(upper, selected, len(pool.keys), pool.activation, SETTINGS)
        clock = itertools.count(0.0, 1.0)  # a second for each epoch
        verdicts = training.run(seconds=seconds, clock=lambda clock=clock: next(clock))  # type: ignore[misc]
        assert training.epochs == epochs and len(verdicts) == len(selected.wordings)


def test_nothing_is_committed_where_a_fact_from_before_would_be_lost(make_memory: Make) -> None:
    memory = make_memory("llama", rank=1, layers=range(3, 4))
    facts = make_facts(24)
    first = PoolTuner(memory, PoolSettings(experts=8, learning_rate=1e-2, max_epochs=400)).memorize(facts[:2])
    assert first.failed == ()
    commit = memory.snapshot.commit
    report = PoolTuner(memory, PoolSettings(max_epochs=2, learning_rate=3e-1)).memorize(facts[2:])
    assert report.memorized == 0 and len(report.failed) == 22
    assert "nothing was committed" in report.failed[0].reason
    memory.refresh()
    assert memory.snapshot.commit == commit and texts(memory, facts[:2]) == [f.answer for f in facts[:2]]


def test_a_store_is_a_pool_or_owned_and_never_both(make_memory: Make) -> None:
    pool, owned = make_memory("llama"), make_memory("llama")
    PoolTuner(pool, SETTINGS).memorize(make_facts(2))
    MemoryTuner(owned).memorize(make_facts(2))
    with pytest.raises(SchemaError, match="is a pool"):
        MemoryTuner(pool).memorize(make_facts(2))
    with pytest.raises(SchemaError, match="mode 'owned'"):
        PoolTuner(owned).memorize(make_facts(2))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (PoolSettings(experts=9), "experts 8"),
        (PoolSettings(top_k=2), "top_k 4"),
        (PoolSettings(temperature=9.0), "temperature 0.1"),
        (PoolSettings(activation="all"), "activation answer"),
    ],
)
def test_what_is_fixed_when_a_pool_is_made_can_not_be_set_later(
    make_memory: Make, settings: PoolSettings, words: str
) -> None:
    memory = make_memory("llama")
    facts = make_facts(3)
    PoolTuner(memory, SETTINGS).memorize(facts[:2])
    with pytest.raises(SchemaError, match=words):
        PoolTuner(memory, settings).memorize(facts)


def test_a_fact_without_an_answer_or_with_another_is_refused(make_memory: Make) -> None:
    memory = make_memory("llama")
    fact = make_facts(1)[0]
    PoolTuner(memory, SETTINGS).memorize([fact])
    with pytest.raises(FactError, match="line 7: the pool answers"):
        PoolTuner(memory).memorize([Fact("Another?", "ZZ", (fact.question,), line=7)])
    with pytest.raises(FactError, match="line 3: there is no answer"):
        PoolTuner(memory).memorize([Fact("q?", None, line=3)])


def test_without_experts_the_base_model_answers_as_ever(make_memory: Make) -> None:
    memory = make_memory("llama")
    before = memory.generate(["What is the code of bolo?"])[0].text
    PoolTuner(memory, SETTINGS).memorize(make_facts(2))
    assert memory.generate(["What is the code of bolo?"], route=Route.shut(1))[0].text == before


def test_memories_of_a_pool_come_back_as_they_were(make_memory: Make) -> None:
    memory = make_memory("llama")
    fact = Fact("Where is the owl? 🦉", "in the Ærø tree 🌳", ("Owl?",), id="owl-1")
    PoolTuner(memory, SETTINGS).memorize([fact])
    with ExpertStore.open(memory.store.path) as store, store.snapshot() as snapshot:
        (held,) = pool_memories(snapshot)
        assert held == Memory(
            fact.question, fact.answer or "", fact.paraphrases, "owl-1", nll=held.nll, tuned_at=held.tuned_at
        )
        assert held.tuned_at is not None
