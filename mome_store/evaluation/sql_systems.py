"""The systems that are put to text to SQL: without training, and trained for equally long with equally many parameters.

Every system gets the same questions and says one reply to each, greedily. Only `SchemaContext` and
`FewShotSchema` read the schema; only the few-shot systems read stored questions. The trained ones see a question alone.
"""

from __future__ import annotations

import itertools
import shutil
import time
from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import faiss
import torch

from mome_store.errors import SchemaError
from mome_store.evaluation.nearest_groups import NearestGroups
from mome_store.evaluation.supervised import rows_of, train_until
from mome_store.evaluation.systems.base import Workbench, replies
from mome_store.evaluation.systems.lora import attach_lora, detach_lora, parameters_of, rank_of_size
from mome_store.modeling import MemoryModel
from mome_store.routing import Route
from mome_store.store import ExpertSchema, ExpertStore
from mome_store.tuning import MemoryTuner, PoolSettings, default_schema
from mome_store.tuning.base_pass import check_cut
from mome_store.tuning.pool import Pool
from mome_store.tuning.pool_training import PoolTraining
from mome_store.tuning.tuner import tokenized
from mome_store.tuning.upper_layers import UpperLayers

if TYPE_CHECKING:
    from mome_store.tuning import Fact

Progress = Callable[[str, int, int], None]
_NUMBERS = itertools.count()
_OWNED_CHUNK = 16
_NEVER = 1 - 1e-9
"""A bar of probability that no training on distinct questions reaches: the time decides."""


def busy_seconds() -> float:
    """The processor time of this process over its threads: what a budget is counted in.

    On a machine with nothing else to do these are seconds. On a shared one, others make no system's training shorter.
    """
    return time.process_time() / torch.get_num_threads()


@dataclass(frozen=True)
class SqlSettings:
    """What can be set about text to SQL; all of it is printed with the results.

    train, test: questions. seconds: of training for each trained system, what it prepares included, by `busy_seconds`.
    tokens: of a reply.
    shots: training questions in the prompt of a few-shot system.
    first_layer: share of the layers below the first one that experts act on. target_modules, rank: of the experts.
    experts, top_k, temperature, activation: of the pool.
    learning_rate, lora_learning_rate: of Adam, for the pool and for the LoRA: the best tried (docs/generation.md).
    batch: the questions in a step, for both.
    nearest: groups that owned mode applies together, with softmax weights at `nearest_temperature`.
    """

    train: int = 500
    test: int = 100
    seconds: float = 240.0
    tokens: int = 160
    shots: int = 5
    first_layer: float = 1 / 3
    target_modules: tuple[str, ...] = ("mlp.down_proj",)
    rank: int = 8
    experts: int = 16
    top_k: int = 16
    temperature: float = 1.0
    activation: str = "answer"
    learning_rate: float = 1e-2
    lora_learning_rate: float = 3e-3
    batch: int = 8
    nearest: int = 4
    nearest_temperature: float = 0.05

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int | float) and value < 0:
                raise SchemaError(f"{name} can't be negative, found {value}")
        if not self.train or not self.test or not self.seconds or not self.batch:
            raise SchemaError("train, test, seconds and batch must be above 0")


@dataclass(frozen=True)
class SqlBench:
    """What all systems of one run share. schema_text: the database's CREATE statements and some rows."""

    bench: Workbench
    settings: SqlSettings
    schema_text: str

    @property
    def expert_schema(self) -> ExpertSchema:
        model = self.bench.model
        layers = model.config.num_hidden_layers
        return ExpertSchema.for_model(
            model,
            target_modules=list(self.settings.target_modules),
            layers=range(round(self.settings.first_layer * layers), layers),
            rank=self.settings.rank,
            dtype="bfloat16",
        )

    @property
    def pool_parameters(self) -> int:
        """What all trained systems have, as near as their form allows."""
        return self.settings.experts * parameters_of(self.expert_schema)


class SqlSystem(ABC):
    """One way to answer questions in SQL: made, given the training questions, asked, closed.

    name: what `mome evaluate-sql --systems` calls it. title: in the table. parameters: trained numbers.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    parameters: int = 0

    def __init__(self, sql: SqlBench) -> None:
        self.sql = sql
        self.bench = sql.bench

    def learn(self, train: Sequence[Fact], on_progress: Progress) -> None:  # noqa: B027  # some have nothing to learn
        """The training questions with their SQL, once."""

    def ask(self, questions: Sequence[str], tokens: int) -> list[str]:
        """A reply to each question."""
        prompts = [self.bench.prompts.prompt(self.message(question)) for question in questions]
        return [reply.text for reply in replies(self.bench, prompts, tokens)]

    def message(self, question: str) -> str:
        """What the user says to the model."""
        return question

    def notes(self) -> str:
        """What a reader of the table must know about this row, or nothing."""
        return ""

    def close(self) -> None:  # noqa: B027
        """Leaves the base model as it was found."""


class BaseAlone(SqlSystem):
    name = "base"
    title = "base model"

    def message(self, question: str) -> str:
        return f"Answer with one SQLite query and nothing else.\n\nQuestion: {question}\nSQL:"


class SchemaContext(SqlSystem):
    """The schema and some rows of the database in the prompt."""

    name = "schema"
    title = "base model, schema in the prompt"

    def message(self, question: str) -> str:
        return (
            f"{self.sql.schema_text}\n\nAnswer with one SQLite query on this database and nothing else.\n\n"
            f"Question: {question}\nSQL:"
        )


class FewShot(SqlSystem):
    """The training questions nearest by the encoder, each with its SQL, in the prompt; the nearest one last."""

    name = "fewshot"
    title = "few-shot retrieval"
    with_schema: ClassVar[bool] = False

    def learn(self, train: Sequence[Fact], on_progress: Progress) -> None:
        self._train = train
        self._index = faiss.IndexFlatIP(self.bench.sentences.dim)
        self._index.add(self.bench.sentences.encode([fact.question for fact in train]))

    def message(self, question: str) -> str:
        _, found = self._index.search(
            self.bench.sentences.encode([question]), min(self.sql.settings.shots, len(self._train))
        )
        shots = [self._train[place] for place in reversed(found[0].tolist())]
        told = "\n\n".join(f"Question: {fact.question}\nSQL: {fact.answer}" for fact in shots)
        schema = f"{self.sql.schema_text}\n\n" if self.with_schema else ""
        return f"{schema}Answer with one SQLite query and nothing else.\n\n{told}\n\nQuestion: {question}\nSQL:"


class FewShotSchema(FewShot):
    name = "fewshot-schema"
    title = "few-shot retrieval, schema in the prompt"
    with_schema = True


class OneLora(SqlSystem):
    """One PEFT LoRA on all linear layers, with the parameters of the pool and its batches, at a rate of its own."""

    name = "lora"
    title = "one LoRA of equal size"

    def __init__(self, sql: SqlBench) -> None:
        super().__init__(sql)
        self._rank = rank_of_size(self.bench.model, sql.pool_parameters)
        self._adapted = attach_lora(self.bench.model, self._rank)
        self._epochs = 0

    def learn(self, train: Sequence[Fact], on_progress: Progress) -> None:
        trained = [p for p in self._adapted.parameters() if p.requires_grad]
        self.parameters = sum(p.numel() for p in trained)
        run = train_until(
            self._adapted.train(),
            torch.optim.Adam(trained, lr=self.sql.settings.lora_learning_rate),
            rows_of(self.bench.prompts, train),
            self.bench.prompts.pad_token,
            seconds=self.sql.settings.seconds,
            stop_probability=_NEVER,
            batch_size=self.sql.settings.batch,
            clock=busy_seconds,
            on_step=lambda share: on_progress("training", round(100 * share), 100),
        )
        self._epochs = run.epochs
        self._adapted.eval()

    def notes(self) -> str:
        return f"rank {self._rank}, in its epoch {self._epochs} when the time was over"

    def close(self) -> None:
        detach_lora(self._adapted, self.bench.model)


class _Stored(SqlSystem):
    """What pool and owned mode have in common: a store, and the MemoryModel that answers from it."""

    def __init__(self, sql: SqlBench) -> None:
        super().__init__(sql)
        self._path = self.bench.folder / f"sql-{self.name}-{next(_NUMBERS)}"
        encoder = self.bench.sentences
        self._store = ExpertStore.create(self._path, self._schema(), encoder.dim, encoder=encoder.identity)
        self._memory = MemoryModel(self.bench.model, self.bench.tokenizer, self._store, encoder=encoder)

    def _schema(self) -> ExpertSchema:
        return self.sql.expert_schema

    def ask(self, questions: Sequence[str], tokens: int) -> list[str]:
        return [answer.text for answer in self._memory.generate(questions, tokens, route=self._route(questions))]

    def _route(self, questions: Sequence[str]) -> Route:
        return self._memory.router.route(questions)

    def close(self) -> None:
        self._memory.close()
        self._store.close()
        shutil.rmtree(self._path)


class PoolMode(_Stored):
    """Far fewer experts than questions, trained jointly for a time and stopped there; a question mixes `top_k` of them.

    The facts are not at the bar of memorisation and the store does not claim that it holds them.
    """

    name = "pool"
    title = "pool mode"

    def learn(self, train: Sequence[Fact], on_progress: Progress) -> None:
        begin = busy_seconds()
        settings, memory = self.sql.settings, self._memory
        pool_settings = PoolSettings(
            experts=settings.experts,
            top_k=min(settings.top_k, settings.experts),
            temperature=settings.temperature,
            activation=settings.activation,
            learning_rate=settings.learning_rate,
            batch_wordings=settings.batch,
        )
        pool = Pool.made(self.bench.sentences, train, pool_settings)
        upper = UpperLayers(memory.model, memory.store.schema, memory.attachment)
        check_cut(upper)
        selected = pool.select(self.bench.sentences, [tokenized(memory, fact) for fact in train])
        training = PoolTraining(upper, selected, len(pool.keys), pool.activation, pool_settings)
        left = settings.seconds - (busy_seconds() - begin)
        training.run_for(max(left, 0.01), lambda share: on_progress("training", round(100 * share), 100), busy_seconds)
        pool.commit(self._store, training.stacked(), ())
        memory.refresh()
        self.parameters = len(pool.keys) * parameters_of(self._store.schema)
        self._epochs = training.epochs

    def notes(self) -> str:
        settings = self.sql.settings
        return (
            f"{settings.experts} experts of rank {settings.rank}, {settings.top_k} for a question, in its epoch "
            f"{self._epochs} when the time was over"
        )


class OwnedMode(_Stored):
    """A group for each question, as many as are memorised in the time; a question mixes its nearest ones.

    The gate is left aside: it answers the wordings of stored facts, and a test question is never one.
    """

    name = "owned"
    title = "owned mode, nearest groups mixed"

    def _schema(self) -> ExpertSchema:
        return default_schema(self.bench.model)

    def learn(self, train: Sequence[Fact], on_progress: Progress) -> None:
        begin = busy_seconds()
        tuner = MemoryTuner(self._memory, self.bench.tuning)
        self._memorised = 0
        for start in range(0, len(train), _OWNED_CHUNK):
            on_progress("training", start, len(train))
            spent = busy_seconds() - begin
            # The next chunk is begun only where it will be done in time, going by those before.
            if start and spent * (start + _OWNED_CHUNK) / start > self.sql.settings.seconds:
                break
            self._memorised += tuner.memorize(train[start : start + _OWNED_CHUNK]).memorized
        snapshot = self._memory.snapshot
        self.parameters = len(snapshot.expert_ids) * parameters_of(self._store.schema)
        self._nearest = NearestGroups(self._memory, self.sql.settings.nearest, self.sql.settings.nearest_temperature)

    def notes(self) -> str:
        return f"{self._memorised} questions memorised in the time"

    def _route(self, questions: Sequence[str]) -> Route:
        return self._nearest.route(questions)


SQL_SYSTEMS: dict[str, type[SqlSystem]] = {
    system.name: system for system in (BaseAlone, SchemaContext, FewShot, FewShotSchema, OneLora, PoolMode, OwnedMode)
}
