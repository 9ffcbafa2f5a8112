"""The protocol that every system goes through: one seed, one system, all metrics.

1. Insert the facts in batches. After the first tenth ask about it; after each batch look which routes were stolen.
2. Settle (joint training happens here). Ask: trained and held-out wordings, twins, the right and a wrong fact given,
   questions that no fact answers, the first tenth again, plain text, the time that a query takes. What was routed is
   the gate's risk-coverage curve as well (risk.py).
3. Update a twentieth of the facts and ask for old and new answers.
4. Forget another twentieth and compare what is said with the base model.

Everything is greedy and runs free to the end token. An answer is right when it is the stored string and nothing else.
No question is asked twice while a system is as it was: the reply would be the same.
"""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence

from mome_store.evaluation.intervals import Share
from mome_store.evaluation.people import PersonFact, Question, Strangers
from mome_store.evaluation.plain_text import paragraphs
from mome_store.evaluation.questions import Asked, choose_questions
from mome_store.evaluation.relations import STYLES
from mome_store.evaluation.remembered_readings import remembering
from mome_store.evaluation.results import Failure, Metric, SystemResult
from mome_store.evaluation.risk import Decision, RiskCurve
from mome_store.evaluation.systems import MAIN, Reply, System, Use, Workbench
from mome_store.evaluation.systems.base import text_loss
from mome_store.evaluation.systems.frozen import FrozenBase

Progress = Callable[[str, int, int], None]


class Base:
    """What the base model alone says, scores and takes, asked while no system changes it; kept for all systems."""

    def __init__(self, bench: Workbench, tokens: int) -> None:
        self._system = FrozenBase(bench, 0)
        self._bench = bench
        self._tokens = tokens
        self._said: dict[str, str] = {}
        self._together: dict[tuple[int, tuple[str, ...]], list[str]] = {}
        self._loss: float | None = None

    def ask(self, questions: Sequence[str], on_progress: Callable[[int, int], None]) -> None:
        """Finds out what the base model says to those of `questions` that it was not asked before."""
        new = sorted({question for question in questions if question not in self._said}, key=len)
        for start in range(0, len(new), 64):
            on_progress(start, len(new))
            part = new[start : start + 64]
            said = self._system.answer(part, self._tokens)
            self._said |= {question: reply.text for question, reply in zip(part, said, strict=True)}

    def said(self, question: str) -> str:
        """The reply to a question that `ask` was given."""
        return self._said[question]

    def together(self, questions: Sequence[str], tokens: int) -> list[str]:
        """The replies to just these questions in one call, in the batches of any system's answer.

        Padding changes rounding, and a reply that goes on and on may turn at a near tie: where replies are compared
        word for word, they must have been computed alike. The first call must find the base model untouched.
        """
        key = (tokens, tuple(questions))
        if key not in self._together:
            self._together[key] = [reply.text for reply in self._system.answer(questions, tokens)]
        return self._together[key]

    @property
    def loss(self) -> float:
        """Of plain text, nats per token. First asked for while the base model is untouched."""
        if self._loss is None:
            self._loss = text_loss(self._bench, paragraphs())
        return self._loss

    def milliseconds(self, questions: Sequence[str], tokens: int) -> float:
        """Median time of one query."""
        return _milliseconds(self._system, questions, tokens)


def longest_answer(bench: Workbench, data: Strangers) -> int:
    """Tokens of the longest answer, the end token included."""
    return max(len(bench.prompts.answer(fact.answer)) for fact in (*data.facts, *data.updated))


def run_system(
    kind: type[System], bench: Workbench, data: Strangers, base: Base, on_progress: Progress
) -> SystemResult:
    """All metrics of one system. `data` already has the number of facts that the system is to be given."""
    settings = bench.settings
    generated = settings.questions if kind.name in MAIN else settings.other_questions
    generated = settings.slow_questions if kind.slow else generated
    routed = settings.routed_questions if kind.has_gate and not kind.trained else generated
    asked = choose_questions(data, generated, routed)
    tokens = longest_answer(bench, data) + kind.room
    on_progress("base model", 0, len(asked.deleted))
    base.together([question.text for question in asked.deleted], tokens)
    base_loss = base.loss
    speed_questions = [question.text for question in asked.seen[: settings.speed_questions]]
    base_speed = base.milliseconds(speed_questions, settings.speed_tokens)
    system = kind(bench, len(data.facts))
    try:
        run = _Run(system, bench, data, asked, base, tokens, on_progress)
        run.insert()
        run.ask_about_facts()
        run.ask_what_no_fact_answers()
        on_progress("plain text and time", 0, len(speed_questions))
        run.metrics["perplexity_change"] = math.exp(system.text_loss(paragraphs())) - math.exp(base_loss)
        run.metrics["added_ms_per_query"] = _milliseconds(system, speed_questions, settings.speed_tokens) - base_speed
        notes = system.notes()
        run.update()
        run.forget()
    finally:
        system.close()
    run.count_false_fires()
    return SystemResult(
        kind.name, kind.title, data.seed, len(data.facts), run.metrics, tuple(run.failures), notes, run.curve()
    )


class _Run:
    """The phases of one system, and what they found."""

    def __init__(
        self,
        system: System,
        bench: Workbench,
        data: Strangers,
        asked: Asked,
        base: Base,
        tokens: int,
        on_progress: Progress,
    ) -> None:
        self._system = system
        self._bench = bench
        self._data = data
        self._asked = asked
        self._base = base
        self._tokens = tokens
        self._on_progress = on_progress
        self._picks = system.has_gate or system.has_routes
        # What was said since the system last changed, by question and id of the fact that was given.
        self._said: dict[tuple[str, str | None], Reply] = {}
        self._unanswerable: dict[str, list[tuple[str, list[str]]]] = {}  # by kind: the text, the stored answers said
        self._decisions: dict[str, list[Decision]] = {}  # by kind of question
        self.metrics: dict[str, Metric] = {"facts": float(len(data.facts))}
        self.failures: list[Failure] = []

    def insert(self) -> None:
        system, data = self._system, self._data
        seconds = 0.0
        inserted: set[str] = set()
        before: Share | None = None
        # A stolen route shows in any wording: those of the routed samples stand for all.
        most = self._bench.settings.watched_questions
        watched = [*self._asked.routed_seen[:most], *self._asked.routed_heldout[:most]] if self._picks else []
        steals = _Steals(self._uses, watched)
        for batch in data.batches():
            self._tell("inserting", len(inserted), len(data.facts))
            begin = time.monotonic()
            self._change(system.insert, batch)
            seconds += time.monotonic() - begin
            inserted |= {fact.id for fact in batch}
            if self._picks:
                steals.look({fact.id for fact in batch})
            if before is None and len(inserted) >= len(data.first_tenth) and not system.joint:
                before = self._exact(self._asked.first, "retention_before")
        self._tell("settling", len(inserted), len(data.facts))
        begin = time.monotonic()
        self._said.clear()
        system.settle()
        seconds += time.monotonic() - begin
        after = self._exact(self._asked.first, "retention_after")
        self.metrics |= {
            "seconds_per_fact": seconds / len(data.facts),
            "bytes_per_fact": system.bytes() / len(data.facts),
            "retention_before": before,
            "retention_after": after,
            "retention_drop": None if before is None else 100 * ((before.value or 0.0) - (after.value or 0.0)),
            "steal_rate": steals.share if self._picks else None,
        }

    def ask_about_facts(self) -> None:
        asked, metrics = self._asked, self.metrics
        for name, questions in (("seen", asked.seen), ("heldout", asked.heldout), ("twins", asked.twins)):
            self._tell(f"asking, {name}", 0, len(questions))
            said = self._ask(questions)
            metrics[f"exact_match_{name}"] = _share(r.text == _right(q) for q, r in zip(questions, said, strict=True))
            metrics[f"contains_{name}"] = _share(holds(r.text, _right(q)) for q, r in zip(questions, said, strict=True))
            self._note_failures(name, questions, said)
            if name == "seen":
                added = [reply.context_tokens for reply in said]
                metrics["context_tokens_per_query"] = statistics.fmean(added)
                metrics["context_tokens_per_fact"] = statistics.fmean(added) / len(self._data.facts)
            if name == "heldout":
                for style in STYLES:
                    metrics[f"exact_match_heldout_{style}"] = _share(
                        r.text == _right(q) for q, r in zip(questions, said, strict=True) if q.style == style
                    )
        for name, questions in (
            ("seen", asked.routed_seen),
            ("heldout", asked.routed_heldout),
            ("twins", asked.routed_twins),
        ):
            self._tell(f"routing, {name}", 0, len(questions))
            metrics[f"right_route_{name}"] = self._right_route(name, questions) if self._picks else None
        metrics |= {"oracle_exact_match": None, "wrong_fact_right_answer": None, "wrong_fact_its_own_answer": None}
        if self._system.has_routes:
            self._tell("asking, facts given", 0, len(asked.heldout))
            oracle = self._ask(asked.heldout, [_fact(question) for question in asked.heldout])
            metrics["oracle_exact_match"] = _share(
                r.text == _right(q) for q, r in zip(asked.heldout, oracle, strict=True)
            )
            wrong = self._ask(asked.seen, asked.others)
            metrics["wrong_fact_right_answer"] = _share(
                r.text == _right(q) for q, r in zip(asked.seen, wrong, strict=True)
            )
            metrics["wrong_fact_its_own_answer"] = _share(
                r.text == other.answer for other, r in zip(asked.others, wrong, strict=True)
            )

    def ask_what_no_fact_answers(self) -> None:
        """A false fire of a gate is that it opens; those of other systems are counted by `count_false_fires`."""
        answers = {fact.answer for fact in self._data.facts}
        for name, texts in self._asked.without_answer.items():
            self._tell(f"asking, {name.replace('_', ' ')}", 0, len(texts))
            if not self._system.has_gate:
                said = self._system.answer(texts, self._tokens)
                self._unanswerable[name] = [
                    (text, held_answers(reply.text, answers, apart_from=(text,)))
                    for text, reply in zip(texts, said, strict=True)
                ]
                continue
            uses = self._uses(texts)
            self.metrics[f"false_fire_{name}"] = _share(use.opened for use in uses)
            self.failures += [
                Failure(f"false_fire_{name}", text, None, None, "gate", use.facts)
                for text, use in zip(texts, uses, strict=True)
                if use.opened
            ]
            if self._system.has_scores:
                self._decisions[name] = [Decision(_score(use), False, use.opened) for use in uses]

    def count_false_fires(self) -> None:
        """After the system is closed: its replies that hold a stored answer, but for what the base model says as well.

        An answer counts as held when it stands in the reply as a word or words of its own, neither in the question nor
        in what the base model says to it (base models, too, say common first names).
        """
        asked = [text for questions in self._unanswerable.values() for text, held in questions if held]
        self._base.ask(asked, lambda done, total: self._tell("base model", done, total))
        for name, questions in self._unanswerable.items():
            self.metrics[f"false_fire_{name}"] = _share(
                any(not holds(self._base.said(text), answer) for answer in held) for text, held in questions
            )

    def curve(self) -> RiskCurve | None:
        """Of a gate with a threshold."""
        return RiskCurve.of(self._decisions) if self._decisions else None

    def update(self) -> None:
        self._tell("updating", 0, len(self._data.updated))
        self._change(self._system.update, self._data.updated)
        new = {fact.id: fact.answer for fact in self._data.updated}
        old = {fact.id: fact.answer for fact in self._data.facts}
        questions = self._asked.updated
        said = self._ask(questions)
        pairs = [(_fact(question).id, reply.text) for question, reply in zip(questions, said, strict=True)]
        self.metrics["update_new_value"] = _share(text == new[fact] for fact, text in pairs)
        self.metrics["update_old_value"] = _share(holds(text, old[fact]) for fact, text in pairs)
        self._note_failures("update", questions, said)

    def forget(self) -> None:
        self._tell("forgetting", 0, len(self._data.deleted))
        self._change(self._system.forget, self._data.deleted)
        questions = [question.text for question in self._asked.deleted]
        alone = self._base.together(questions, self._tokens)
        said = self._system.answer(questions, self._tokens)
        self.metrics["forget_equals_base"] = _share(reply.text == base for base, reply in zip(alone, said, strict=True))
        self.metrics["forget_still_said"] = _share(
            reply.text == _right(question) for question, reply in zip(self._asked.deleted, said, strict=True)
        )
        if self._system.has_gate:
            for text, base, reply, use in zip(questions, alone, said, self._uses(questions), strict=True):
                if reply.text != base:
                    self.failures.append(Failure("forget", text, None, reply.text, "gate", use.facts))

    def _exact(self, questions: Sequence[Question], kind: str) -> Share:
        said = self._ask(questions)
        if kind == "retention_after":
            self._note_failures("retention", questions, said)
        return _share(reply.text == _right(question) for question, reply in zip(questions, said, strict=True))

    def _ask(self, questions: Sequence[Question], given: Sequence[PersonFact] | None = None) -> list[Reply]:
        """Asks what was not asked since the system last changed.

        A fact that is given is often the one that the system picks, and then the reply is known.
        """
        texts = [question.text for question in questions]
        keys: list[tuple[str, str | None]] = [(text, None) for text in texts]
        if given is not None:
            picked = self._uses(texts)
            keys = [
                (text, None if use.opened and use.facts == (fact.id,) else fact.id)
                for text, fact, use in zip(texts, given, picked, strict=True)
            ]
        places = {key: i for i, key in enumerate(keys) if key not in self._said}
        chosen = [i for i in places.values() if keys[i][1] is None]
        if chosen:
            said = self._system.answer([texts[i] for i in chosen], self._tokens)
            self._said |= {keys[i]: reply for i, reply in zip(chosen, said, strict=True)}
        told = [i for i in places.values() if keys[i][1] is not None]
        if told and given is not None:
            said = self._system.answer([texts[i] for i in told], self._tokens, [given[i] for i in told])
            self._said |= {keys[i]: reply for i, reply in zip(told, said, strict=True)}
        return [self._said[key] for key in keys]

    def _change(self, change: Callable[[Sequence[PersonFact]], None], facts: Sequence[PersonFact]) -> None:
        self._said.clear()
        change(facts)

    def _uses(self, texts: Sequence[str]) -> list[Use]:
        with remembering(self._bench.router):
            return self._system.uses(texts)

    def _right_route(self, kind: str, questions: Sequence[Question]) -> Share:
        """A gate opened for the question's own fact and no other; without one: the fact is among those used."""
        uses = self._uses([question.text for question in questions])
        if not self._system.has_gate:
            return _share(_fact(q).id in use.facts for q, use in zip(questions, uses, strict=True))
        labels = [label(question, use) for question, use in zip(questions, uses, strict=True)]
        self.failures += [
            Failure("right_route", question.text, _right(question), None, whose, use.facts)
            for question, use, whose in zip(questions, uses, labels, strict=True)
            if whose != "storage"
        ]
        if self._system.has_scores:
            self._decisions[kind] = self._decided(questions, uses)
        return _share(whose == "storage" for whose in labels)

    def _decided(self, questions: Sequence[Question], uses: Sequence[Use]) -> list[Decision]:
        """What the gate made of questions about stored facts; where it stayed shut, of which fact."""
        shut = [question.text for question, use in zip(questions, uses, strict=True) if not use.opened]
        with remembering(self._bench.router):
            behind = iter(self._system.candidates(shut) if shut else [])
        return [
            Decision(_score(use), (use.facts if use.opened else next(behind)) == (_fact(question).id,), use.opened)
            for question, use in zip(questions, uses, strict=True)
        ]

    def _note_failures(self, kind: str, questions: Sequence[Question], said: Sequence[Reply]) -> None:
        """Labels the wrong answers of systems with a gate."""
        if not self._system.has_gate:
            return
        new = {fact.id: fact.answer for fact in self._data.updated} if kind == "update" else {}
        right = [new.get(_fact(question).id, _right(question)) for question in questions]
        wrong = [i for i, reply in enumerate(said) if reply.text != right[i]]
        uses = self._uses([questions[i].text for i in wrong])
        self.failures += [
            Failure(kind, questions[i].text, right[i], said[i].text, label(questions[i], use), use.facts)
            for i, use in zip(wrong, uses, strict=True)
        ]

    def _tell(self, what: str, done: int, total: int) -> None:
        self._on_progress(what, done, total)


class _Steals:
    """Watches the routes of wordings from one insert to the next.

    A wording is stolen when it was routed right before a batch and is routed to a fact of that batch after it. `share`:
    of the wordings that were ever routed right, those that were ever stolen.
    """

    def __init__(self, uses: Callable[[Sequence[str]], list[Use]], watched: Sequence[Question]) -> None:
        """uses: of the system, as it is at the time."""
        self._uses = uses
        self._watched = watched
        self._inserted: set[str] = set()
        self._right: set[str] = set()  # texts routed right after the last batch
        self._ever_right: set[str] = set()
        self._stolen: set[str] = set()

    def look(self, batch: set[str]) -> None:
        """After the facts of these ids were inserted."""
        self._inserted |= batch
        questions = [question for question in self._watched if _fact(question).id in self._inserted]
        uses = self._uses([question.text for question in questions])
        right: set[str] = set()
        for question, use in zip(questions, uses, strict=True):
            if _fact(question).id in use.facts:
                right.add(question.text)
            elif question.text in self._right and batch & set(use.facts):
                self._stolen.add(question.text)
        self._right = right
        self._ever_right |= right

    @property
    def share(self) -> Share:
        return Share(len(self._stolen), len(self._ever_right))


def label(question: Question, use: Use) -> str:
    """Whose fault a wrong answer to a question about a stored fact is: "gate", "routing" or "storage"."""
    if not use.opened:
        return "gate"
    return "storage" if use.facts == (_fact(question).id,) else "routing"


def holds(text: str, answer: str) -> bool:
    """Whether `answer` stands in `text` as words of its own, whatever the case."""
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) is not None


def held_answers(text: str, answers: set[str], apart_from: Sequence[str]) -> list[str]:
    """Those of `answers` that stand in `text` but in none of the texts `apart_from`."""
    lower = text.lower()
    return [
        answer
        for answer in answers
        if answer.lower() in lower and holds(text, answer) and not any(holds(other, answer) for other in apart_from)
    ]


def _milliseconds(system: System, questions: Sequence[str], tokens: int) -> float:
    """Median time of a query alone that generates exactly `tokens` tokens."""
    system.answer(questions[:1], tokens, least=tokens)  # what is only done once
    times = []
    for question in questions:
        begin = time.perf_counter()
        system.answer([question], tokens, least=tokens)
        times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times)


def _share(outcomes: Iterable[bool]) -> Share:
    return Share.of(list(outcomes))


def _fact(question: Question) -> PersonFact:
    assert question.fact is not None  # a question about a stored fact
    return question.fact


def _score(use: Use) -> float:
    assert use.score is not None  # of a system with scores
    return use.score


def _right(question: Question) -> str:
    return _fact(question).answer
