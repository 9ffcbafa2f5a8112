"""PoolTuner: facts into a pool of experts that all of them share, in one commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from mome_store.errors import FactError, SchemaError
from mome_store.store import Memory, Snapshot, pool_memories
from mome_store.store.record import Weights
from mome_store.tuning.base_pass import check_cut
from mome_store.tuning.constants import Wordings
from mome_store.tuning.facts import Fact
from mome_store.tuning.pool import Pool
from mome_store.tuning.pool_settings import PoolSettings
from mome_store.tuning.pool_training import PoolTraining
from mome_store.tuning.report import FailedFact, TuningProgress, TuningReport
from mome_store.tuning.training_batch import Verdict
from mome_store.tuning.tuner import folder_bytes, memory_of, tokenized, writable
from mome_store.tuning.upper_layers import UpperLayers, check_trained_on

if TYPE_CHECKING:
    from mome_store.modeling import MemoryModel


class PoolTuner:
    """Trains facts into the pool that the store of a MemoryModel is, or is made with the first facts.

    The base model's weights are never changed. A store open for reading is opened for writing as MemoryTuner does.
    """

    def __init__(self, memory: MemoryModel, settings: PoolSettings | None = None) -> None:
        self._memory = memory
        self._settings = settings or PoolSettings()

    def memorize(
        self, facts: Sequence[Fact], on_progress: Callable[[TuningProgress], None] | None = None
    ) -> TuningReport:
        """Trains the pool's experts on these facts and, jointly, on those that it holds already.

        The bar is that of MemoryTuner: the rounded records, applied by the serving kernel with the weights of the
        frozen selection, make the model say the answer to the end token in every training wording. The experts are
        committed once, at the end, with the facts that reached the bar; the others are in `TuningReport.failed`. Where
        a fact that the pool held would be lost, nothing is committed and all are failed. `steps_per_fact` counts
        epochs: each gives every wording one step.

        Raises FactError and DeviceError as MemoryTuner does; SchemaError for a store in mode "owned", and for settings
        that are fixed when a pool is made and differ from the pool's.
        """
        begin = time.monotonic()
        memory = self._memory
        check_trained_on(memory.model)
        with writable(memory) as store:
            bytes_before = folder_bytes(store.path)
            with store.snapshot() as snapshot:
                plan = _Plan.of(facts, snapshot)
                wordings = [tokenized(memory, fact) for fact in plan.joint]
                pool = Pool.stored(snapshot, self._settings)
            outcome = _Outcome((), (), {}, 0)
            if plan.new:
                if pool is None:
                    pool = Pool.made(memory.router.encoder, plan.joint, self._settings)
                outcome = self._train(pool, plan, wordings, on_progress)
                if outcome.memories:
                    outcome = replace(outcome, group_ids=pool.commit(store, outcome.experts, outcome.memories))
                    memory.refresh()
            grown = folder_bytes(store.path) - bytes_before
        seconds = time.monotonic() - begin
        trained = len(plan.new) - len(outcome.failed)
        return TuningReport(
            facts=len(facts),
            memorized=len(facts) - len(outcome.failed),
            resumed=len(facts) - len(plan.new),
            failed=outcome.failed,
            group_ids=outcome.group_ids,
            seconds=seconds,
            seconds_per_fact=seconds / len(plan.new) if plan.new else 0.0,
            bytes_per_fact=grown / trained if trained else 0.0,
            steps_per_fact=float(outcome.epochs),
        )

    def _train(
        self,
        pool: Pool,
        plan: _Plan,
        wordings: Sequence[Wordings],
        on_progress: Callable[[TuningProgress], None] | None,
    ) -> _Outcome:
        memory, settings = self._memory, self._settings
        upper = UpperLayers(memory.model, memory.store.schema, memory.attachment)
        check_cut(upper)
        selected = pool.select(memory.router.encoder, wordings)
        training = PoolTraining(upper, selected, len(pool.keys), pool.activation, settings, pool.experts)
        owner = np.array(selected.fact_of)

        def tell(training: PoolTraining) -> None:
            unfinished = set(owner[~training.at_bar.numpy()].tolist())
            learning = sum(place in unfinished for place in plan.new)
            if on_progress is not None:
                on_progress(TuningProgress(len(plan.facts) - learning, 0, len(plan.facts), learning, 0))

        found = training.run(tell)
        by_fact: list[list[Verdict]] = [[] for _ in plan.joint]
        for place, verdict in zip(selected.fact_of, found, strict=True):
            by_fact[place].append(verdict)
        outcome = plan.outcome(by_fact, training)
        if on_progress is not None:
            failed = len(outcome.failed)
            on_progress(TuningProgress(len(plan.facts) - failed, failed, len(plan.facts), 0, 0))
        return outcome


@dataclass(frozen=True, eq=False)
class _Plan:
    """facts: as asked for. joint: all facts to be trained, those that the pool holds first, with their new wordings.

    held: what the pool holds. new: places in `joint` of facts that are new or have new wordings.
    """

    facts: Sequence[Fact]
    joint: list[Fact]
    held: tuple[Memory, ...]
    new: list[int]

    @classmethod
    def of(cls, facts: Sequence[Fact], snapshot: Snapshot) -> _Plan:
        if "owned" in snapshot.modes:
            raise SchemaError(
                f"{snapshot.path}: its facts have experts of their own (mode 'owned'); a pool needs a new store"
            )
        held = pool_memories(snapshot)
        joint = [Fact(m.question, m.answer, m.paraphrases, id=m.id) for m in held]
        place_of = {wording: place for place, fact in enumerate(joint) for wording in fact.wordings}
        new: list[int] = []
        for fact in facts:
            if fact.answer is None:
                raise FactError(fact.line, f"there is no answer to memorise for {fact.question!r} (answer: null)")
            for wording in fact.wordings:
                known = None if wording not in place_of else joint[place_of[wording]]
                if known is not None and known.answer != fact.answer:
                    raise FactError(
                        fact.line, f"the pool answers {wording!r} with {known.answer!r}, not {fact.answer!r}"
                    )
            place = place_of.get(fact.question)
            fresh = tuple(wording for wording in fact.paraphrases if wording not in place_of)
            if place is None:
                place = len(joint)
                joint.append(replace(fact, paraphrases=fresh))
            elif fresh:
                joint[place] = replace(joint[place], paraphrases=joint[place].paraphrases + fresh, line=fact.line)
            else:
                continue
            place_of |= dict.fromkeys((fact.question, *fresh), place)
            if place not in new:
                new.append(place)
        return cls(facts, joint, held, new)

    def outcome(self, found: Sequence[Sequence[Verdict]], training: PoolTraining) -> _Outcome:
        """What there is to commit, and what failed."""
        memories: list[Memory] = []
        failed: list[FailedFact] = []
        lost: list[str] = []
        for place, (fact, verdicts) in enumerate(zip(self.joint, found, strict=True)):
            before = self.held[place] if place < len(self.held) else None
            worst = max(float(verdict.losses.max()) for verdict in verdicts)
            if all(verdict.passed for verdict in verdicts):
                nll = float(torch.cat([verdict.losses for verdict in verdicts]).mean())
                memories.append(memory_of(fact, nll) if place in self.new or before is None else before)
                continue
            if before is not None:
                if not all(verdict.passed for verdict in verdicts[: len(before.wordings)]):
                    lost.append(before.question)
                memories.append(before)
            if place in self.new:
                failed.append(
                    FailedFact(
                        fact,
                        f"not memorised in {training.epochs} epochs: the least likely token of the answer has "
                        f"probability {np.exp(-worst):.3f}",
                    )
                )
        if lost:
            reason = (
                f"nothing was committed: {len(lost)} facts of the pool would have been lost, {lost[0]!r} among them"
            )
            return _Outcome(tuple(FailedFact(self.joint[place], reason) for place in self.new), (), {}, training.epochs)
        if len(failed) == len(self.new):
            return _Outcome(tuple(failed), (), {}, training.epochs)
        return _Outcome(tuple(failed), tuple(memories), training.stacked(), training.epochs)


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What training led to. memories: that the pool is to hold; none: there is nothing to commit.

    experts: module -> (A [M, r, d_in], B [M, d_out, r]).
    """

    failed: tuple[FailedFact, ...]
    memories: tuple[Memory, ...]
    experts: Weights
    epochs: int
    group_ids: tuple[int, ...] = ()
