"""The whole protocol on a tiny model: each system's metrics show what it can do, and each leaves the base as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from mome_store.evaluation import (
    MAIN,
    SYSTEMS,
    Share,
    SystemResult,
    Use,
    Workbench,
    evaluate,
    make_strangers,
    rows_of,
)
from mome_store.evaluation.people import Question
from mome_store.evaluation.protocol import _Steals, held_answers, holds, label
from mome_store.modeling import fingerprint

FACTS = 12
QUIET = lambda what, done, total: None  # noqa: E731


def run(bench: Workbench, name: str, facts: int = FACTS) -> SystemResult:
    (result,) = evaluate(bench, facts, [0], [name], QUIET)
    return result


def value(result: SystemResult, metric: str) -> float:
    found = result.metrics[metric]
    found = found.value if isinstance(found, Share) else found
    assert found is not None
    return found


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_goes_through_all_phases_and_leaves_the_base_model_as_it_was(bench: Workbench, name: str) -> None:
    before = fingerprint(bench.model)
    modules = [type(module) for module in bench.model.modules()]
    result = run(bench, name)
    assert fingerprint(bench.model) == before
    assert [type(module) for module in bench.model.modules()] == modules
    assert not any(parameter.requires_grad for parameter in bench.model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in bench.model.modules())
    assert not list(bench.folder.iterdir())
    kind = SYSTEMS[name]
    assert (result.name, result.title, result.facts, result.seed) == (name, kind.title, FACTS, 0)
    expected = run(bench, "base").metrics.keys()
    assert result.metrics.keys() == expected
    picks = kind.has_gate or kind.has_routes
    for metric in ("steal_rate", "right_route_seen", "right_route_heldout", "right_route_twins"):
        assert (result.metrics[metric] is not None) == picks
    assert (result.metrics["oracle_exact_match"] is not None) == kind.has_routes
    assert (result.metrics["retention_before"] is None) == kind.joint
    assert bool(result.failures) <= kind.has_gate
    assert SystemResult.from_json(result.to_json()) == result


def test_the_base_model_knows_nothing_forgets_all_and_fires_never(bench: Workbench) -> None:
    result = run(bench, "base")
    assert value(result, "exact_match_seen") == value(result, "update_new_value") == 0
    assert value(result, "forget_equals_base") == 1
    assert value(result, "perplexity_change") == 0 == value(result, "bytes_per_fact")
    assert sum(value(result, metric) for metric in result.metrics if metric.startswith("false_fire")) == 0


def test_owned_mode_says_what_it_memorised_and_is_the_base_model_elsewhere(bench: Workbench) -> None:
    result = run(bench, "owned")
    assert value(result, "exact_match_seen") == value(result, "right_route_seen") == 1
    assert value(result, "perplexity_change") == 0
    assert value(result, "bytes_per_fact") > 4096 and value(result, "context_tokens_per_query") == 0
    assert value(result, "wrong_fact_right_answer") == 0
    assert all(failure.label in ("routing", "storage", "gate") for failure in result.failures)
    wrong = [failure for failure in result.failures if failure.kind == "heldout"]
    share = result.metrics["exact_match_heldout"]
    assert isinstance(share, Share) and len(wrong) == share.n - share.hits


def test_the_answer_cache_gives_the_stored_string_and_costs_no_expert(bench: Workbench) -> None:
    result = run(bench, "cache")
    assert value(result, "exact_match_seen") == value(result, "oracle_exact_match") == 1
    assert value(result, "wrong_fact_its_own_answer") == 1 and value(result, "wrong_fact_right_answer") == 0
    assert value(result, "bytes_per_fact") < 4096


def test_retrieval_finds_trained_wordings_and_counts_what_it_puts_into_the_prompt(bench: Workbench) -> None:
    one, three = run(bench, "rag1"), run(bench, "rag3")
    assert value(one, "right_route_seen") == value(three, "right_route_seen") == 1
    assert value(three, "right_route_heldout") >= value(one, "right_route_heldout")
    assert value(three, "context_tokens_per_query") > value(one, "context_tokens_per_query") > 100
    assert value(one, "forget_still_said") == 0 and value(one, "perplexity_change") == 0


def test_a_full_context_says_how_many_facts_fit(bench: Workbench) -> None:
    assert "of 12 facts fit" in run(bench, "context").notes


@pytest.mark.parametrize("name", ("full", "lora"))
def test_training_on_the_whole_model_learns_the_facts_and_changes_plain_text(bench: Workbench, name: str) -> None:
    longer = replace(bench, settings=replace(bench.settings, trained_facts=2, trained_seconds_per_fact=1.0))
    result = run(longer, name)
    assert result.facts == 2
    assert value(result, "contains_seen") >= 0 and value(result, "perplexity_change") != 0
    assert value(result, "seconds_per_fact") <= 1.5


def test_knn_lm_says_trained_wordings_and_forgets_by_removing_entries(bench: Workbench) -> None:
    result = run(bench, "knn")
    assert value(result, "exact_match_seen") == 1
    assert value(result, "forget_still_said") == 0 and value(result, "perplexity_change") != 0


def test_the_grace_like_editor_says_an_edit_and_is_the_base_model_outside_its_balls(bench: Workbench) -> None:
    longer = replace(bench, settings=replace(bench.settings, trained_facts=4, trained_seconds_per_fact=3.0))
    result = run(longer, "grace")
    assert value(result, "right_route_seen") == 1
    assert value(result, "forget_equals_base") == 1 and value(result, "perplexity_change") == 0


def test_a_pool_says_what_it_learnt_and_has_no_gate(bench: Workbench) -> None:
    longer = replace(bench, settings=replace(bench.settings, trained_facts=2, trained_seconds_per_fact=20.0))
    result = run(longer, "pool")
    assert value(result, "exact_match_seen") == 1 and value(result, "perplexity_change") != 0
    assert "32 experts, 32 for a question" in result.notes and "2 of 2 facts at the bar" in result.notes
    assert value(result, "bytes_per_fact") > 16 * 4096, "each fact takes part in all 32 experts, of a page at least"


def test_a_pool_whose_time_is_over_answers_with_what_it_has(bench: Workbench) -> None:
    short = replace(bench, settings=replace(bench.settings, trained_facts=4, trained_seconds_per_fact=1e-3))
    result = run(short, "pool")
    assert " 1 epochs, 0 of 4 facts" in result.notes and value(result, "exact_match_seen") == 0


@pytest.mark.parametrize("name", MAIN)
def test_the_gate_of_the_main_systems_has_a_curve_that_meets_the_metrics(bench: Workbench, name: str) -> None:
    result = run(bench, name)
    assert result.curve is not None
    for kind in ("unknown_person", "unknown_twin", "other_relation", "unrelated"):
        assert result.curve.fired(kind, None) == result.metrics[f"false_fire_{kind}"]
    routed = [result.metrics[f"right_route_{kind}"] for kind in ("seen", "heldout")]
    right = sum(result.curve.kinds[kind].gate_right for kind in ("seen", "heldout"))
    assert right == sum(share.hits for share in routed if isinstance(share, Share))
    opened_wide = result.curve.kinds["seen"].at(0)
    assert opened_wide[1] == opened_wide[0] == result.curve.kinds["seen"].n, "trained wordings are nearest to their own"


def test_no_question_is_answered_twice_while_a_system_is_as_it_was(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = SYSTEMS["rag1"]
    answered: list[tuple[int, str, str | None]] = []
    changes = 0
    real_answer, real_insert = kind.answer, kind.insert

    def insert(self: Any, facts: Any) -> None:
        nonlocal changes
        changes += 1
        real_insert(self, facts)

    def answer(self: Any, questions: Any, tokens: int, given: Any = None, least: int = 0) -> Any:
        told = [None] * len(questions) if given is None else [fact.id for fact in given]
        if not least:  # else only the time counts
            answered.extend((changes, question, fact) for question, fact in zip(questions, told, strict=True))
        return real_answer(self, questions, tokens, given, least)

    monkeypatch.setattr(kind, "insert", insert)
    monkeypatch.setattr(kind, "answer", answer)
    result = run(bench, "rag1")
    until_update = [each for each in answered if each[0] <= changes - 1]
    assert len(until_update) == len(set(until_update)) and value(result, "oracle_exact_match") >= 0


def test_further_seeds_are_for_the_main_systems_alone(bench: Workbench) -> None:
    results = list(evaluate(bench, 2, [4, 5], ["base", "cache"], QUIET))
    assert [(result.name, result.seed) for result in results] == [("base", 4), ("cache", 4), ("cache", 5)]
    assert "cache" in MAIN and "owned" in MAIN
    pooled = rows_of(results)[1]
    one, other = (result.metrics["exact_match_seen"] for result in results[1:])
    assert isinstance(one, Share) and isinstance(other, Share)
    assert pooled.seeds == (4, 5) and pooled.metrics["exact_match_seen"] == one + other
    assert pooled.values()["bytes_per_fact"] == pytest.approx(
        sum(value(result, "bytes_per_fact") for result in results[1:]) / 2
    )


class Scripted:
    """Routes that are told beforehand, look after look."""

    def __init__(self, looks: Sequence[dict[str, str]]) -> None:
        self._looks = iter(looks)

    def uses(self, texts: Sequence[str]) -> list[Use]:
        look = next(self._looks)
        return [Use((look[text],) if text in look else (), text in look) for text in texts]


def test_a_steal_is_a_right_route_lost_to_a_fact_of_the_batch() -> None:
    facts = make_strangers(4, 0).facts
    a, b, c, d = (Question(fact.person + fact.id, "trained", fact.relation, fact) for fact in facts)
    looks = Scripted(
        [
            {a.text: a.fact.id, b.text: a.fact.id},  # type: ignore[union-attr]  # b was wrong from the start
            {a.text: c.fact.id, b.text: c.fact.id, c.text: c.fact.id},  # type: ignore[union-attr]  # a is stolen by c
            {a.text: a.fact.id, c.text: b.fact.id, d.text: d.fact.id},  # type: ignore[union-attr]  # c to an old one
        ]
    )
    steals = _Steals(looks.uses, [a, b, c, d])
    for batch in (facts[:2], facts[2:3], facts[3:]):
        steals.look({fact.id for fact in batch})
    assert steals.share == Share(1, 3)  # of a, c and d, which were right once


def test_failures_are_labelled_by_whose_fault_they_are() -> None:
    fact, other = make_strangers(4, 0).facts[:2]
    question = fact.questions()[0]
    assert label(question, Use((), False)) == "gate"
    assert label(question, Use((other.id,), True)) == "routing"
    assert label(question, Use((fact.id, other.id), True)) == "routing"  # it was asked for one fact
    assert label(question, Use((fact.id,), True)) == "storage"


def test_an_answer_is_held_only_as_words_of_its_own_that_nobody_else_said() -> None:
    assert holds("It is Otter.", "otter") and not holds("Otterton", "Otter") and holds("B-41", "B-41")
    answers = {"Anna", "B-4171", "Rex"}
    assert held_answers("Anna has locker B-4171", answers, ("Where does Anna keep it?",)) == ["B-4171"]
    assert held_answers("Rex", answers, ("Whose dog?", "I think Rex")) == []


def test_equal_parameters_give_the_lora_its_rank(bench: Workbench) -> None:
    from mome_store.evaluation.systems.lora import LoraJoint
    from mome_store.tuning import default_schema

    schema = default_schema(bench.model)
    for facts in (20, 60):
        lora = LoraJoint(bench, facts)
        owned = facts * schema.rank * sum(d_in + d_out for d_in, d_out in schema.modules.values())
        assert lora.bytes() / 2 == pytest.approx(owned, rel=0.2)
        lora.close()
    assert not any(isinstance(module, torch.nn.ModuleDict) for module in bench.model.modules())
