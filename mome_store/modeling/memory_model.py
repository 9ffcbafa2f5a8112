"""MemoryModel: a frozen Hugging Face model that answers from a store, and is the untouched base model elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch

from mome_store.allocator import keep_freed_memory
from mome_store.base_model import fingerprint, load_base_model, resolve_base_model
from mome_store.devices import check_torch_device
from mome_store.errors import BaseModelMismatchError, ClosedError, SchemaError
from mome_store.modeling.active_experts import ActiveExperts, positions_of
from mome_store.modeling.answers import Answer, answer_of, turns_of
from mome_store.modeling.greedy import generate_greedily, pad_left
from mome_store.modeling.memory_linear import adapt, restore
from mome_store.modeling.prompts import Prompts
from mome_store.routing import HiddenStateEncoder, QueryEncoder, Route, Router, faiss_reaches
from mome_store.routing.router import remembered_encoder
from mome_store.runtime import ExpertCache
from mome_store.store import ExpertStore, Snapshot

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class MemoryModel:
    """A causal language model whose linear layers take up the experts that a question is routed to.

    Made by `from_pretrained`, or from a model in hand: the model is changed in place (its adapted layers are wrapped)
    until `close`. Its weights are never written. One batch at a time: calls from several threads wait for each other.
    The process keeps memory that it frees (`mome_store.allocator`).

    Attributes: `model`, `tokenizer`, `prompts`, `store`, `snapshot` (of the commit that is answered from), `router`,
    `cache`, `attachment` (what the adapted layers listen to).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        store: ExpertStore | str | Path,
        device: str = "cpu",
        cache: int | str | None = None,
        encoder: QueryEncoder | None = None,
        waves: bool = True,
        trace: str | Path | None = None,
    ) -> None:
        keep_freed_memory()
        self._owns_store = not isinstance(store, ExpertStore)
        self.store = store if isinstance(store, ExpertStore) else ExpertStore.open(store)
        self._lock = threading.RLock()
        self._closed = False
        self._active: ActiveExperts | None = None
        self._waves = waves
        try:
            check_torch_device(device)
            check_base_model(self.store.base_model, model)
            self.model = model.to(device)  # type: ignore[arg-type]  # a wrapper in transformers hides self
            self.tokenizer = tokenizer
            self.prompts = Prompts(model, tokenizer)
            self.snapshot: Snapshot = self.store.snapshot()
            try:
                self.router = Router.open(
                    self.snapshot,
                    encoder=encoder or self._own_states(device),
                    device=device,
                    index_device=device if faiss_reaches(device) else "cpu",
                )
                self.cache = ExpertCache(self.snapshot, device=device, capacity=cache, trace=trace)
                self.attachment = adapt(self.model, self.store.schema)
            except BaseException:
                self.snapshot.close()
                raise
        except BaseException:
            if self._owns_store:
                self.store.close()
            raise
        self._hook = self.model.register_forward_pre_hook(self._before_forward, with_kwargs=True)

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path | None = None,
        *,
        store: ExpertStore | str | Path,
        device: str = "cpu",
        cache: int | str | None = None,
        encoder: QueryEncoder | None = None,
        waves: bool = True,
        trace: str | Path | None = None,
    ) -> MemoryModel:
        """The base model with the memory of `store` attached.

        base: a folder or hub id of a causal LM; None: the one that the store remembers.
        store: a path, opened for reading, or a store that is open (and stays so).
        device: "cpu", "cuda" or "cuda:1": where the model runs, and with it the experts and the encoder. The keys are
            searched there where FAISS can (faiss-gpu is installed), on the cpu otherwise: the routes are the same.
        cache: bytes of slots for the experts in use, as a number or text such as "512MiB"; None, on the cpu: no slots,
            records are used where they are mapped, and the answers are the same, bit for bit; elsewhere 512 MiB.
        encoder: None: the one that the store remembers.
        waves: apply a route that has more experts than `cache` has room for part after part; False: CapacityError.
        trace: a file that every route which is used is recorded in, for `mome replay`; None: no recording.

        Raises DeviceError when there is no such device; BaseModelMismatchError when the base model can't be found or is
        not the one that the experts were trained beside; SchemaError, DamagedStoreError and the like as the store,
        router and cache do.
        """
        opened = store if isinstance(store, ExpertStore) else ExpertStore.open(store)
        try:
            remembered = (opened.base_model or {}).get("name")
            model, tokenizer = load_base_model(resolve_base_model(base if base is not None else remembered))
            memory = cls(
                model, tokenizer, opened, device=device, cache=cache, encoder=encoder, waves=waves, trace=trace
            )
        except BaseException:
            if opened is not store:
                opened.close()
            raise
        memory._owns_store = opened is not store
        return memory

    @torch.inference_mode()
    def generate(
        self,
        questions: Sequence[str],
        max_new_tokens: int = 128,
        *,
        route: Route | None = None,
        batch_size: int = 16,
        min_new_tokens: int = 0,
    ) -> list[Answer]:
        """Greedy answers, one per question, in order; to a question that needs several facts, all of them (answers.py).

        route: experts to use instead of the router's choice; `Route.shut(n)` asks the base model alone.
        batch_size: how many questions run together. Prompts of like length are put together.
        Raises SchemaError for a prompt that leaves no room in the model's context, CapacityError as the cache does.
        """
        if isinstance(questions, str):
            raise SchemaError("generate takes a list of questions, not one string")
        if not questions:
            return []
        with self._lock:
            self._check_open()
            route = self.router.route(questions) if route is None else route
            if len(route) != len(questions):
                raise SchemaError(f"the route is of {len(route)} sequences, there are {len(questions)} questions")
            turns = turns_of(questions, route, self.snapshot)
            said = self._said(turns.questions, turns.route, max_new_tokens, batch_size, min_new_tokens)
            return [
                answer_of(route.select([i]), [said[turn] for turn in turns.of[i]], self.snapshot)
                for i in range(len(questions))
            ]

    def _said(
        self, questions: Sequence[str], route: Route, max_new_tokens: int, batch_size: int, min_new_tokens: int
    ) -> list[str]:
        """What the model says to each question with the experts of its route."""
        prompts = [self._fitting_prompt(question) for question in questions]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        self.cache.prefetch(route.select(batches[0]))
        said = [""] * len(questions)
        for rows, following in zip(batches, [*batches[1:], []], strict=True):
            with self.attached(route.select(rows), max(len(prompts[i]) for i in rows)):
                self.cache.prefetch(route.select(following))  # while this batch is computed
                texts = generate_greedily(
                    self.model, self.prompts, [prompts[i] for i in rows], max_new_tokens, min_new_tokens
                )
            for row, text in zip(rows, texts, strict=True):
                said[row] = text
        return said

    @contextmanager
    def attached(self, route: Route, prompt_tokens: int) -> Iterator[None]:
        """While the block runs, `self.model(...)` computes with the experts of `route`.

        Row i of the model's input is sequence i of the route, left-padded; prompt_tokens is the width of the padded
        prompts, answer tokens follow. A sequence without experts gets the base model's result, bit for bit.
        """
        with self._lock:
            self._check_open()
            if not any(len(ids) for ids in route.expert_ids):
                yield
                return
            with ActiveExperts(self.snapshot, self.cache, route, prompt_tokens, self._waves) as experts:
                self._active = experts
                try:
                    with self.attachment.use(experts):
                        yield
                finally:
                    self._active = None

    def pad(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """(input_ids, attention_mask), int64 [n, width], of prompts of different lengths, padded on the left."""
        return pad_left(prompts, self.prompts.pad_token, self.model.device)

    def refresh(self) -> None:
        """Answer from the store's newest commit from now on."""
        with self._lock:
            self._check_open()
            snapshot = self.store.snapshot()
            try:
                self.router.refresh(snapshot)
                self.cache.refresh(snapshot)
            except BaseException:
                self.router.refresh(self.snapshot)
                snapshot.close()
                raise
            self.snapshot.close()
            self.snapshot = snapshot

    def close(self) -> None:
        """Gives the store up and leaves the model as it was found. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._hook.remove()
            restore(self.model, self.store.schema.modules)
            self.cache.close()
            self.snapshot.close()
            if self._owns_store:
                self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _own_states(self, device: str) -> QueryEncoder | None:
        """The store's encoder, where that is the hidden states of this very model: it need not be loaded twice.

        None where it is something else, and where experts change the layers that it runs.
        """
        remembered = self.store.encoder or {}
        base = (self.store.base_model or {}).get("fingerprint")
        if "layer" not in remembered or base is None or remembered.get("base_model") != base:
            return None
        states = HiddenStateEncoder(self.model, self.tokenizer, remembered["name"], remembered["layer"])
        adapted = {self.model.get_submodule(name) for name in self.store.schema.modules}
        if adapted & set(states.layers.modules()):
            return None
        return remembered_encoder(remembered, device, states)

    def _fitting_prompt(self, question: str) -> list[int]:
        prompt = self.prompts.prompt(question)
        if self.prompts.context is not None and len(prompt) >= self.prompts.context:
            raise SchemaError(
                f"the question takes {len(prompt)} tokens, the model's context is {self.prompts.context}: "
                f"{question[:60]!r}..."
            )
        return prompt

    def _before_forward(self, _: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self._active is not None:
            self._active.begin_forward(*positions_of(args, kwargs))

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the memory model is closed")


def check_base_model(remembered: Mapping[str, Any] | None, model: PreTrainedModel) -> None:
    """Raises BaseModelMismatchError where `model` is not the one that a store remembers."""
    expected = (remembered or {}).get("fingerprint")
    if expected is None:
        return
    found = fingerprint(model)
    if found != expected:
        raise BaseModelMismatchError(
            f"the store's experts were trained beside {(remembered or {}).get('name')} "
            f"(fingerprint {str(expected)[:12]}), the model given has the fingerprint {found[:12]}"
        )
