"""MemoryTuner: facts in, committed groups out."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mome_store.base_model import BaseModelSource, fingerprint, load_base_model, resolve_base_model
from mome_store.errors import FactError, SchemaError
from mome_store.routing.thieves import find_thieves
from mome_store.store import ExpertStore, Memory
from mome_store.store.zarr_metadata import INDEX_FOLDER
from mome_store.tuning.base_pass import check_cut, fact_constants, prefix_constants
from mome_store.tuning.constants import Wordings, common_prefix
from mome_store.tuning.facts import Fact
from mome_store.tuning.report import FailedFact, TuningProgress, TuningReport
from mome_store.tuning.settings import TuningSettings, default_schema
from mome_store.tuning.training_batch import Trainee, TrainingBatch, Verdict
from mome_store.tuning.upper_layers import UpperLayers, check_trained_on

if TYPE_CHECKING:
    from mome_store.modeling import MemoryModel
    from mome_store.routing import QueryEncoder

_PASS_TOKENS = 1024
"""Tokens in one pass of the base model: enough for fast matrix products, few enough to leave memory."""
_REFILL_FACTS = 8
"""Places are refilled when so many are free, since a pass with few tokens is slow."""


def create_store(
    path: str | Path, base: str | Path | BaseModelSource | None = None, encoder: QueryEncoder | None = None
) -> None:
    """Makes an empty store for a base model and an encoder (None: the defaults) with the default shape of expert.

    Raises StoreExistsError, BaseModelMismatchError (no such model) and SchemaError.
    """
    from mome_store.routing import KeyEncoder

    source = base if isinstance(base, BaseModelSource) else resolve_base_model(base)
    encoder = KeyEncoder() if encoder is None else encoder
    model, _ = load_base_model(source)
    identity = {"name": source.name, "fingerprint": fingerprint(model)}
    schema = default_schema(model)
    ExpertStore.create(path, schema, encoder.dim, base_model=identity, encoder=encoder.identity).close()


class MemoryTuner:
    """Trains facts into the store of a MemoryModel.

    The base model's weights are never changed. When the memory's store is open for reading only, the tuner opens it
    for writing while `memorize` runs (StoreLockedError where another writer has it).
    """

    def __init__(self, memory: MemoryModel, settings: TuningSettings | None = None) -> None:
        self._memory = memory
        self._settings = settings or TuningSettings()

    def memorize(
        self,
        facts: Sequence[Fact],
        on_progress: Callable[[TuningProgress], None] | None = None,
        *,
        update: bool = False,
    ) -> TuningReport:
        """Trains the facts that the store does not hold yet, and commits them as they are finished.

        A fact is finished when the rounded record makes the model say the answer, to the end token, in every training
        wording (`TuningSettings.stop_probability`). One that the store holds with the same answer and all its wordings
        counts as memorised; with new wordings it is trained anew and its group replaced. When the call is cut short,
        what was committed stays, and the next call goes on from there.

        At the end the new facts and their nearest old neighbours are routed. A new fact that would be answered by
        another group, or that answers a wording of another one, is taken back and reported as failed; where it
        replaced an older answer, that is gone.

        update: a fact whose question the store answers otherwise takes the place of that group. The old group's bytes
        stay in the shards until compaction.

        Raises FactError, before anything is trained, for a fact that can't be: no answer, an answer that the store has
        otherwise (unless `update`, and it is that fact's own), one that does not fit into the model's context or is not
        text that the tokenizer gives back. Raises DeviceError when the memory is not on the cpu.
        """
        begin = time.monotonic()
        memory, settings = self._memory, self._settings
        check_trained_on(memory.model)
        with writable(memory) as store:
            queue, resumed = self._plan(facts, store, update)
            bytes_before = folder_bytes(store.path)
            replaces = {task.wordings: task.replaces for task in queue if task.replaces is not None}
            run = _Run(memory, settings, store, replaces, len(facts), resumed, on_progress)
            try:
                run.train([task.wordings for task in queue])
            finally:
                if run.group_ids:
                    memory.refresh()
            run.take_back_thieves()
            grown = folder_bytes(store.path) - bytes_before
        seconds = time.monotonic() - begin
        trained = len(run.group_ids)
        return TuningReport(
            facts=len(facts),
            memorized=resumed + trained,
            resumed=resumed,
            failed=tuple(run.failed),
            group_ids=tuple(run.group_ids),
            seconds=seconds,
            seconds_per_fact=seconds / len(queue) if queue else 0.0,
            bytes_per_fact=grown / trained if trained else 0.0,
            steps_per_fact=run.steps / trained if trained else 0.0,
        )

    def _plan(self, facts: Sequence[Fact], store: ExpertStore, update: bool) -> tuple[list[_Task], int]:
        """What there is to train, and how many of the facts the store holds already."""
        with store.snapshot() as snapshot:
            if "pool" in snapshot.modes:
                raise SchemaError(
                    f"{store.path} is a pool, whose facts share their experts; memorize with PoolTuner (--mode pool)"
                )
            held = {wording: (group, m) for group, m in snapshot.memories() for wording in m.wordings}
        tasks: list[_Task] = []
        resumed = 0
        for fact in facts:
            if fact.answer is None:
                raise FactError(fact.line, f"there is no answer to memorise for {fact.question!r} (answer: null)")
            replaces, own = held.get(fact.question, (None, None))
            for wording in fact.wordings:
                group, known = held.get(wording, (None, None))
                if known is not None and known.answer != fact.answer and not (update and group == replaces):
                    raise FactError(
                        fact.line,
                        f"the store answers {wording!r} with {known.answer!r} (group {group}), not {fact.answer!r}; "
                        "update that fact, or forget its group first",
                    )
            held_whole = all(held.get(w, (None,))[0] == replaces for w in fact.wordings)
            if own is not None and own.answer == fact.answer and held_whole:
                resumed += 1
                continue
            tasks.append(_Task(fact, tokenized(self._memory, fact), replaces))
        return tasks, resumed


def tokenized(memory: MemoryModel, fact: Fact) -> Wordings:
    """The fact's prompts and answer as token ids. Raises FactError for one that can't be trained."""
    prompts = memory.prompts
    assert fact.answer is not None
    try:
        answer = prompts.answer(fact.answer)
    except SchemaError as error:
        raise FactError(fact.line, str(error)) from error
    ids = tuple(tuple(prompts.prompt(wording)) for wording in fact.wordings)
    longest = max(map(len, ids))
    # Training masks attention as a whole, so a prompt and answer must also fit into a layer's sliding window.
    limits = (prompts.context, getattr(memory.model.config, "sliding_window", None))
    for limit in limits:
        if limit is not None and longest + len(answer) > limit:
            raise FactError(
                fact.line,
                f"the longest prompt has {longest} tokens and the answer {len(answer)}, the model's context is {limit}",
            )
    return Wordings(fact, ids, tuple(answer))


@dataclass(frozen=True)
class _Task:
    """A fact to be trained, and the group that it takes the place of."""

    fact: Fact
    wordings: Wordings
    replaces: int | None


class _Run:
    """One call of `memorize`: the loop from the queue through the batch to commits."""

    def __init__(
        self,
        memory: MemoryModel,
        settings: TuningSettings,
        store: ExpertStore,
        replaces: Mapping[Wordings, int],
        total: int,
        resumed: int,
        on_progress: Callable[[TuningProgress], None] | None,
    ) -> None:
        self._replaces = replaces
        self._memory = memory
        self._settings = settings
        self._store = store
        self._total = total
        self._resumed = resumed
        self._on_progress = on_progress
        self._commits = 0
        self._finished: list[tuple[Trainee, Verdict]] = []
        self._fact_of: dict[int, Fact] = {}
        self.group_ids: list[int] = []
        self.failed: list[FailedFact] = []
        self.steps = 0

    def train(self, facts: Sequence[Wordings]) -> None:
        self._tell(0)
        if not facts:
            return
        upper = UpperLayers(self._memory.model, self._store.schema, self._memory.attachment)
        check_cut(upper)
        prefix = prefix_constants(upper, common_prefix([p for fact in facts for p in fact.prompts]))
        # Answers and prompts of like length side by side waste no padding.
        queue = deque(sorted(facts, key=lambda fact: (len(fact.answer), max(map(len, fact.prompts)))))
        batch = TrainingBatch(upper, prefix, self._settings)
        while queue or len(batch):
            for chosen in self._next_facts(queue, batch):
                batch.add(fact_constants(upper, chosen, prefix, self._settings.competitors, self._directions))
            self._step(batch)
            if len(self._finished) >= self._settings.commit_facts:
                self._commit()
            self._tell(len(batch))
        if self._finished:
            self._commit()
            self._tell(0)

    @property
    def _directions(self) -> int:
        return self._settings.max_experts * self._store.schema.rank

    def _next_facts(self, queue: deque[Wordings], batch: TrainingBatch) -> Iterator[list[Wordings]]:
        """The facts that take up free places, in parts of one pass each; none until there are enough for a pass."""
        settings = self._settings
        free = settings.batch_facts - len(batch)
        if len(batch) and free < min(_REFILL_FACTS, settings.batch_facts, len(queue)):
            return
        room = settings.batch_tokens - batch.positions
        chosen: list[Wordings] = []
        while queue and len(chosen) < free and (queue[0].positions <= room or not (chosen or len(batch))):
            room -= queue[0].positions
            chosen.append(queue.popleft())
        yield from passes(chosen)

    def _step(self, batch: TrainingBatch) -> None:
        """A step of the batch, and what follows: facts finished, given one more expert, or given up."""
        settings = self._settings
        seem_finished = batch.step()
        verdicts = batch.check([copy for _, copy in seem_finished]) if seem_finished else []
        leaving: set[Trainee] = set()
        failed: list[tuple[Trainee, Verdict]] = []
        for (trainee, copy), verdict in zip(seem_finished, verdicts, strict=True):
            if verdict.passed:
                self._finished.append((copy, verdict))
                self.steps += trainee.total_steps
                leaving.add(trainee)
            else:
                failed.append((trainee, verdict))
        stuck = [t for t in batch.trainees if t not in leaving and t.steps >= settings.max_steps]
        if not (leaving or failed or stuck):
            return
        batch.unstack()
        for trainee, verdict in failed:
            trainee.learn_from(verdict)
        for trainee in stuck:
            if trainee.experts < settings.max_experts:
                trainee.add_expert(self._store.schema.rank)
            else:
                leaving.add(trainee)
                self.failed.append(_failure(trainee))
        batch.trainees = [t for t in batch.trainees if t not in leaving]

    def _commit(self) -> None:
        """Writes the finished facts in one transaction."""
        rank = self._store.schema.rank
        facts = [copy.constants.wordings.fact for copy, _ in self._finished]
        keys = self._memory.router.keys([wording for fact in facts for wording in fact.wordings])
        group_ids = []
        row = 0
        with self._store.transaction() as txn:
            for fact, (copy, verdict) in zip(facts, self._finished, strict=True):
                own = keys[row : row + len(fact.wordings)]
                row += len(fact.wordings)
                replaced = self._replaces.get(copy.constants.wordings)
                add = txn.add_group if replaced is None else partial(txn.replace_group, replaced)
                group_ids.append(add(experts=copy.weights(rank), keys=own, memory=memory_of(fact, verdict.nll)))
        self.group_ids += group_ids
        self._fact_of.update(zip(group_ids, facts, strict=True))
        self._commits += 1
        self._finished.clear()

    def take_back_thieves(self) -> None:
        """Removes the new groups whose wordings go elsewhere, and those that a neighbour's wording goes to."""
        thieves = find_thieves(self._memory.router, self._memory.snapshot, self.group_ids)
        if not thieves:
            return
        with self._store.transaction() as txn:
            for group in thieves:
                txn.remove_group(group)
        self.group_ids = [group for group in self.group_ids if group not in thieves]
        self.failed += [FailedFact(self._fact_of[group], reason) for group, reason in thieves.items()]
        self._memory.refresh()

    def _tell(self, in_training: int) -> None:
        if self._on_progress is not None:
            done = self._resumed + len(self.group_ids) + len(self._finished)
            self._on_progress(TuningProgress(done, len(self.failed), self._total, in_training, self._commits))


def passes(facts: Sequence[Wordings]) -> Iterator[list[Wordings]]:
    """`facts`, sorted by length, in parts of about `_PASS_TOKENS`, padding counted."""
    part: list[Wordings] = []
    rows = 0
    for fact in facts:
        longest = max(map(len, fact.prompts)) + len(fact.answer)
        if part and (rows + len(fact.prompts)) * longest > _PASS_TOKENS:
            yield part
            part, rows = [], 0
        part.append(fact)
        rows += len(fact.prompts)
    if part:
        yield part


def _failure(trainee: Trainee) -> FailedFact:
    return FailedFact(
        trainee.constants.wordings.fact,
        f"not memorised in {trainee.total_steps} steps with {trainee.experts} experts: "
        f"the least likely token of the answer has probability {math.exp(-trainee.worst_loss):.3f}",
    )


def memory_of(fact: Fact, nll: float) -> Memory:
    assert fact.answer is not None
    return Memory(
        question=fact.question,
        answer=fact.answer,
        paraphrases=fact.paraphrases,
        id=fact.id,
        nll=nll,
        tuned_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


@contextmanager
def writable(memory: MemoryModel) -> Iterator[ExpertStore]:
    """The memory's store, open for writing."""
    if memory.store.mode == "r+":
        yield memory.store
    else:
        with ExpertStore.open(memory.store.path, mode="r+") as store:
            yield store


def folder_bytes(path: Path) -> int:
    """Bytes of a store's files, without those of the router's index cache."""
    files = (file for file in path.rglob("*") if file.is_file() and file.relative_to(path).parts[0] != INDEX_FOLDER)
    return sum(file.stat().st_size for file in files)
