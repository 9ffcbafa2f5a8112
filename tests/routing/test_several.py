"""Questions for several facts: when parts are taken in place of the whole, and a store that is asked so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from mome_store import ExpertSchema, ExpertStore, Memory, Router
from mome_store.routing import KeyEncoder, Route
from mome_store.routing.apart import Clause, Compound, Joint, Split
from mome_store.routing.gate import FALSE_FIRE, Gate
from mome_store.routing.several import Decision, Judge, bar_of, unsettled

SHUT = Decision(9, 0.1, False)
JOINT = Joint("ada", "bo")


def found(group: int, score: float = 0.9) -> Decision:
    return Decision(group, score, True)


def judged(
    whole: Decision,
    *parts: Sequence[Decision],
    certain: bool = False,
    text: str = "What is it?",
    bar: float = 0.5,
    own_joint: int | None = None,
    listed: bool = True,
    half_named: Sequence[str] = (),
) -> list[tuple[str, int | None]]:
    """Of a question of one clause: the parts as (wording, group). parts: the decisions on the wordings of each, which
    are called "1a", "1b", "2a" and so on. own_joint: the group in whose wordings the joint stands. half_named: the
    wordings without the whole name of what they find.
    """
    named = [[f"{place}{letter}" for letter in "abcd"[: len(each)]] for place, each in enumerate(parts, 1)]
    decisions = {
        name: own for names, each in zip(named, parts, strict=True) for name, own in zip(names, each, strict=True)
    }
    clause = Clause(text, (Split(tuple(map(tuple, named)), (JOINT,), certain, listed),))
    judge = Judge(
        decisions | {text: whole},
        lambda tries: bar,
        lambda joint, group: group == own_joint,
        lambda text, group: text not in half_named,
    )
    compound = unsettled(Compound((clause,), ()), whole, judge.stands_in)
    return [(part.text, part.group_id) for part in judge.parts(compound, whole)] if compound else []


@pytest.mark.parametrize("whole", [SHUT, found(1), found(2)])
def test_two_parts_with_two_facts_are_taken(whole: Decision) -> None:
    assert judged(whole, [found(1)], [found(2)]) == [("1a", 1), ("2a", 2)]


@pytest.mark.parametrize("parts", [([found(1)], [found(2)]), ([found(1)], [SHUT]), ([SHUT], [SHUT])])
def test_what_the_whole_has_found_is_never_given_up(parts: Sequence[Sequence[Decision]]) -> None:
    assert judged(found(3), *parts, certain=True) == []


def test_one_part_is_taken_where_the_words_say_that_several_are_asked_for_and_the_other_is_unknown() -> None:
    for whole in (SHUT, found(1)):
        assert judged(whole, [found(1)], [SHUT], certain=True) == [("1a", 1), ("2a", None)]


def test_one_part_is_taken_where_the_whole_found_nothing_and_begins_as_a_question() -> None:
    assert judged(SHUT, [SHUT], [found(2)]) == [("1a", None), ("2a", 2)]
    assert judged(found(2), [SHUT], [found(2)]) == []
    assert judged(SHUT, [SHUT], [found(2)], text="He and she have it") == []


def test_parts_between_commas_alone_need_two_facts() -> None:
    assert judged(SHUT, [SHUT], [found(2)], listed=False) == []
    assert judged(SHUT, [found(1)], [found(2)], listed=False) == [("1a", 1), ("2a", 2)]


@pytest.mark.parametrize("certain", [True, False])
def test_half_a_name_finds_no_fact_alone(certain: bool) -> None:
    assert judged(SHUT, [found(1)], [SHUT], certain=certain, half_named=["1a"]) == []
    assert judged(SHUT, [found(1)], [found(2)], certain=certain, half_named=["1a"]) == [("1a", 1), ("2a", 2)]


def test_parts_that_all_find_nothing_are_not_taken() -> None:
    assert judged(SHUT, [SHUT], [SHUT], certain=True) == []


def test_a_joint_of_the_winners_own_wording_is_left() -> None:
    assert judged(found(1), [found(1)], [found(2)], certain=True, own_joint=1) == []
    assert judged(found(1), [found(1)], [found(2)], certain=True, own_joint=2) != []


def test_the_likeliest_wording_of_a_part_counts() -> None:
    parts = [[found(1, 0.6), SHUT, found(3, 0.8)], [SHUT, found(2, 0.7)]]
    assert judged(SHUT, *parts) == [("1c", 3), ("2b", 2)]


def test_a_wording_below_the_bar_of_its_tries_is_unknown() -> None:
    assert judged(SHUT, [found(1, 0.9)], [found(2, 0.6)], certain=True, bar=0.7) == [("1a", 1), ("2a", None)]


def test_two_parts_of_one_fact_take_another_or_are_one() -> None:
    assert judged(SHUT, [found(1, 0.9)], [found(1, 0.8), found(2, 0.7)]) == [("1a", 1), ("2b", 2)]
    assert judged(SHUT, [found(1, 0.8)], [found(1, 0.9)], certain=True) == [("2a", 1)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_split_that_finds_most_is_taken(order: tuple[int, int]) -> None:
    splits = (
        Split((("1",), ("2 and 3",)), (JOINT,), certain=True, listed=True),
        Split((("1",), ("2",), ("3",)), (JOINT, JOINT), certain=True, listed=True),
    )
    decisions = {"What?": SHUT, "1": found(1), "2 and 3": found(2), "2": found(2), "3": found(3)}
    judge = Judge(decisions, lambda tries: 0.5, lambda joint, group: False, lambda text, group: True)
    parts = judge.parts(Compound((Clause("What?", tuple(splits[i] for i in order)),), ()), SHUT)
    assert [part.group_id for part in parts] == [1, 2, 3]


def clauses(
    *decisions: Decision, texts: Sequence[str] = ("What is A?", "What is B?"), whole: Decision = SHUT
) -> list[int | None]:
    """The groups of the parts of a text of whole questions."""
    decided = dict(zip(texts, decisions, strict=True))
    judge = Judge(decided, lambda tries: 0.5, lambda joint, group: group == 7, lambda text, group: False)
    compound = unsettled(Compound(tuple(Clause(text, ()) for text in texts), (JOINT,)), whole, judge.stands_in)
    return [part.group_id for part in judge.parts(compound, whole)] if compound else []


def test_whole_questions_are_each_answered_or_unknown() -> None:
    assert clauses(found(1), found(2)) == [1, 2]
    assert clauses(found(1), SHUT) == [1, None]
    assert clauses(found(1), SHUT, whole=found(1)) == [1, None]
    assert clauses(SHUT, SHUT) == []


def test_two_whole_questions_with_two_facts_are_taken_whatever_they_look_like_together() -> None:
    assert clauses(found(1), found(2), whole=found(3)) == [1, 2]
    assert clauses(found(1), SHUT, whole=found(3)) == []


def test_clauses_without_a_question_need_facts_to_be_several() -> None:
    texts = ("ada phone", "bo phone")
    assert clauses(found(1), found(2), texts=texts) == [1, 2]
    assert clauses(found(1), SHUT, texts=texts) == []


def test_a_stored_question_of_two_clauses_is_one() -> None:
    assert clauses(found(1), found(2), whole=found(7)) == []


@pytest.mark.parametrize("scores", [(0.8, 0.9), (0.9, 0.8)])
def test_the_same_question_twice_is_answered_once_as_the_likelier(scores: tuple[float, float]) -> None:
    texts = ("What is A?", "What is A's?")
    decisions = {text: found(1, score) for text, score in zip(texts, scores, strict=True)}
    judge = Judge(decisions, lambda tries: 0.5, lambda joint, group: False, lambda text, group: True)
    [part] = judge.parts(Compound(tuple(Clause(text, ()) for text in texts), (JOINT,)), SHUT)
    assert (part.group_id, part.score) == (1, 0.9)


def test_more_wordings_need_a_higher_score_up_to_what_the_calibration_knows() -> None:
    flat = np.zeros((1, 1), np.float32)
    negatives = {kind: np.linspace(0, 0.9, 2000, dtype=np.float32) for kind in FALSE_FIRE}
    gate = Gate(flat[0], flat[0] + 1, flat, flat[0], flat[0], 0.0, negatives)
    bars = [bar_of(gate, None, tries) for tries in (1, 2, 4, 1000)]
    assert bars[0] == gate.threshold() and bars == sorted(bars)
    assert bars[-1] == pytest.approx(0.9)
    assert bar_of(gate, 0.2, 2) == pytest.approx(gate.threshold(0.1))


FACTS = {
    "What is the phone number of Ada Brandt?": "How do I reach Ada Brandt by phone?",
    "What is the phone number of Bo Chen?": "How do I reach Bo Chen by phone?",
    "What is the locker code of Ada Brandt?": "How does one open Ada Brandt's locker?",
    "When and where was Cleo Dorn born?": "At what place and on what day was Cleo Dorn born?",
    "Who supplies part 06-183-42?": "From whom do we get part 06-183-42?",
    "Who supplies part 06-183-43?": "From whom do we get part 06-183-43?",
    "What is the phone number of Baker and Sons?": "How do I reach Baker and Sons by phone?",
}
QUESTIONS = list(FACTS)


@pytest.fixture(scope="module")
def encoder() -> KeyEncoder:
    return KeyEncoder()


@pytest.fixture(scope="module")
def store(encoder: KeyEncoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExpertStore]:
    path: Path = tmp_path_factory.mktemp("several") / "store"
    schema = ExpertSchema({"layer": (8, 8)}, rank=1)
    with ExpertStore.create(path, schema, encoder.dim, encoder=encoder.identity) as store:
        with store.transaction() as transaction:
            for question, paraphrase in FACTS.items():
                transaction.add_group(
                    [{"layer": (np.zeros((1, 8)), np.zeros((8, 1)))}] * 2,
                    keys=encoder.encode([question, paraphrase]),
                    memory=Memory(question, "x", (paraphrase,)),
                )
        yield store


@pytest.fixture(scope="module")
def routers(store: ExpertStore, encoder: KeyEncoder) -> Iterator[tuple[Router, Router]]:
    """One that looks for several facts, and one that does not."""
    with store.snapshot() as snapshot:
        yield Router.open(snapshot, encoder=encoder), Router.open(snapshot, encoder=encoder, several=False)


def facts_of(route: Route) -> list[list[str]]:
    """Group i + 1 is the i-th fact's."""
    return [[QUESTIONS[group - 1] for group in groups] for groups in route.group_ids]


@pytest.mark.parametrize(
    ("text", "facts", "unknown"),
    [
        ("What are the phone numbers of Ada Brandt and Bo Chen?", [0, 1], 0),
        ("What are the phone numbers of Bo Chen and Ada Brandt?", [1, 0], 0),
        ("What is the phone number of Bo Chen? And of Ada Brandt?", [1, 0], 0),
        ("What is Ada Brandt's phone number, and what is her locker code?", [0, 2], 0),
        ("What is the phone number of Bo Chen? Who supplies part 06-183-42?", [1, 4], 0),
        ("Who supplies part 06-183-42 and part 06-183-43?", [4, 5], 0),
        ("What is the phone number of Bo Chen? And what is the phone number of Dan Ek?", [1], 1),
        ("What is the phone number of Dan Ek? What is the phone number of Bo Chen?", [1], 1),
        ("What is the phone number of Dan Ek? What is the phone number of Eva Falk?", [], 0),
        ("What is the phone number of Dan Ek, Bo Chen?", [], 0),
        ("Who supplies part 06-183-43, 06-183-42?", [5, 4], 0),
        ("What are the phone numbers of Bo Chen and Dan Ek?", [1], 1),
        ("What are the phone numbers of Chen Ito and Ada Brandt?", [0], 1),
        ("What are the phone numbers of Ada and Zoe Ek?", [], 0),
        ("What is the phone number of Chen and Ek?", [], 0),
    ],
)
def test_a_question_for_several_facts_gets_just_these_in_order(
    routers: tuple[Router, Router], text: str, facts: list[int], unknown: int
) -> None:
    route = routers[0].route([text])
    assert facts_of(route) == [[QUESTIONS[fact] for fact in facts]]
    assert sum(part.group_id is None for part in route.parts[0]) == unknown
    assert len(route.expert_ids[0]) == len(route.weights[0]) == 2 * len(facts)
    assert route.opened.tolist() == [bool(facts)]
    if facts:
        assert route.scores[0] == pytest.approx(min(part.score for part in route.parts[0] if part.group_id is not None))


@pytest.mark.parametrize("text", [wording for fact in FACTS.items() for wording in fact])
def test_a_stored_wording_is_one_question(routers: tuple[Router, Router], text: str) -> None:
    own, plain = (router.route([text]) for router in routers)
    assert own.parts == ((),) and own.group_ids == plain.group_ids and own.scores[0] == plain.scores[0]


def test_only_a_question_with_a_joint_of_its_own_is_encoded_again(
    routers: tuple[Router, Router], monkeypatch: pytest.MonkeyPatch
) -> None:
    router = routers[0]
    assert isinstance(router.encoder, KeyEncoder)
    read = router.encoder.read
    batches: list[Sequence[str]] = []

    def counted(texts: Sequence[str]) -> object:
        batches.append(texts)
        return read(texts)

    monkeypatch.setattr(router.encoder, "read", counted)
    router.route(["What is the phone number of Ada Brandt?", "What is the capital of France?"])
    assert len(batches) == 1
    router.route(["What are the phone numbers of Ada Brandt and Bo Chen?"])
    assert len(batches) == 3
    router.route(["When and where was Cleo Dorn born?"])  # a joint of the fact that it finds
    assert len(batches) == 4


def test_each_question_of_a_batch_is_taken_apart_for_itself(routers: tuple[Router, Router]) -> None:
    texts = [
        "Who supplies part 06-183-42?",
        "What are the phone numbers of Ada Brandt and Bo Chen?",
        "What time is it?",
    ]
    together = routers[0].route(texts)
    assert [len(parts) for parts in together.parts] == [0, 2, 0]
    for i, text in enumerate(texts):
        alone = routers[0].route([text])
        assert alone.group_ids[0] == together.group_ids[i]
        assert [part.text for part in alone.parts[0]] == [part.text for part in together.parts[i]]
