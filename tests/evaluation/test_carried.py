"""Carried facts: what counts as met, that no request is trained on, and that every way of asking runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from mome_store.errors import MomeError
from mome_store.evaluation import EvaluationSettings, Workbench
from mome_store.evaluation.carried import FORMS, WAYS, Request, evaluate_carried, make_requests
from mome_store.fingerprint import fingerprint
from mome_store.modeling import Prompts
from tests.tiny_models import HashEncoder, make_model, make_tokenizer


def request_of(kind: str, expected: str) -> Request:
    fact = make_requests(2, 0)[0][0]
    return Request("?", kind, fact, expected)  # type: ignore[arg-type]


def test_a_sentence_holds_the_value_and_more() -> None:
    pet = request_of("sentence", "Banjo")
    assert pet.met_by("The pet of Ada is called Banjo.")
    assert not pet.met_by("Banjo") and not pet.met_by("Banjo.") and not pet.met_by("The pet is called Banjos, I think.")
    hens = request_of("sentence", "7")
    assert hens.met_by("Ada keeps seven hens.") and hens.met_by("There are 7 hens.") and not hens.met_by("7 hens")


def test_of_a_computation_the_last_number_or_single_letter_counts() -> None:
    hens = request_of("computation", "9")
    assert hens.met_by("9") and hens.met_by("7 + 2 = 9 hens.") and hens.met_by("Seven and two make nine.")
    assert not hens.met_by("7") and not hens.met_by("9 - no, 8") and not hens.met_by("none") and not hens.met_by("19")
    letter = request_of("computation", "B")
    assert letter.met_by("It begins with B.") and letter.met_by("b") and letter.met_by("a 'B'")
    assert not letter.met_by("Banjo") and not letter.met_by("B? No, C.")


def test_the_stored_value_alone_meets_no_request_and_no_request_is_a_wording() -> None:
    facts, requests = make_requests(40, 3)
    assert len({fact.person for fact in facts}) == 40
    assert len(requests) == sum(len(FORMS[fact.relation.name]) for fact in facts)
    trained = {wording for fact in facts for wording in fact.fact.wordings}
    for request in requests:
        assert not request.met_by(request.fact.answer)
        assert request.text not in trained


def test_every_way_of_asking_answers_every_request_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model, tokenizer = make_model("llama"), make_tokenizer()
    model.config.max_position_embeddings = 1024
    before = fingerprint(model)
    bench = Workbench(
        model,
        tokenizer,
        Prompts(model, tokenizer),
        HashEncoder(),
        HashEncoder(),
        tmp_path,
        EvaluationSettings(trained_seconds_per_fact=0.1),
    )
    results = list(evaluate_carried(bench, 2, 0, list(WAYS), lambda *_: None))
    assert [result.name for result in results] == list(WAYS)
    for result in results:
        requests = sum(result.metrics[kind].n for kind in ("sentence", "computation"))  # type: ignore[union-attr]
        assert requests == 6 == result.metrics["bare_value"].n  # type: ignore[union-attr]
    assert fingerprint(model) == before
    with pytest.raises(MomeError, match="there is no system oracle; there are base, rag1"):
        list(evaluate_carried(bench, 2, 0, ["oracle"], lambda *_: None))
