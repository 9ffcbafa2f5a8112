"""A wrapped model is the base model where no expert acts, and base plus Σ w·B·A from the last prompt token on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mome_store import (
    BaseModelMismatchError,
    CapacityError,
    ClosedError,
    ExpertCache,
    ExpertStore,
    Memory,
    MemoryModel,
    SchemaError,
)
from mome_store.modeling import fingerprint
from mome_store.modeling.active_experts import split_in_waves
from mome_store.modeling.memory_linear import MemoryLinear
from mome_store.routing import Part, Route
from tests.devices import DEVICES
from tests.tiny_models import HashEncoder, make_model, make_tokenizer

Make = Callable[..., MemoryModel]
QUESTIONS = [
    "What is the code of Ada?",
    "And Bo?",
    "Where does the river that Cy crosses begin, and where does it end?",
]


def add_random_group(
    memory: MemoryModel, seed: int, question: str = "q", activation: str = "answer", experts: int = 1
) -> int:
    """A group of random experts, large enough to change what the model says; the memory answers from it at once."""
    random = np.random.default_rng(seed)
    schema = memory.store.schema
    weights = [
        {
            name: (random.normal(0, 1, (schema.rank, d_in)), random.normal(0, 1, (d_out, schema.rank)))
            for name, (d_in, d_out) in schema.modules.items()
        }
        for _ in range(experts)
    ]
    with memory.store.transaction() as txn:
        keys = HashEncoder().encode([question])
        group = txn.add_group(experts=weights, keys=keys, memory=Memory(question, "a"), activation=activation)
    memory.refresh()
    return group


def route_to(memory: MemoryModel, *groups: int | None) -> Route:
    """Each sequence to one group, or to none."""
    ids = tuple(np.empty(0, np.int64) if g is None else memory.snapshot.group(g).expert_ids for g in groups)
    return Route(
        ids,
        tuple(np.ones(len(each), np.float32) for each in ids),
        tuple(() if g is None else (g,) for g in groups),
        np.ones(len(groups), np.float32),
        np.array([g is not None for g in groups]),
    )


def reference_logits(memory: MemoryModel, group: int, ids: list[int], first: int) -> torch.Tensor:
    """The logits [T, V] when forward hooks add alpha/r * B A x at positions >= first of each adapted layer."""
    schema = memory.store.schema
    experts = [memory.snapshot.read_expert(i) for i in memory.snapshot.group(group).expert_ids]

    def hook(name: str) -> Callable[..., torch.Tensor]:
        def add(_: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            delta = torch.zeros_like(output)
            for expert in experts:
                a, b = (torch.tensor(np.asarray(w, np.float32), device=output.device) for w in expert[name])
                delta += schema.alpha / a.shape[0] * inputs[0] @ a.T @ b.T
            delta[:, :first] = 0
            return output + delta

        return add

    layers = {name: memory.model.get_submodule(name) for name in schema.modules}
    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            return memory.model(input_ids=torch.tensor([ids], device=memory.model.device)).logits[0]
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("device", DEVICES)
def test_logits_without_a_route_are_those_of_the_unwrapped_model_bit_for_bit(
    architecture: str, make_memory: Make, device: str
) -> None:
    memory = make_memory(architecture, device=device)
    add_random_group(memory, 1)
    ids = torch.randint(0, 256, (3, 17), generator=torch.Generator().manual_seed(3)).to(device)
    expected = make_model(architecture).to(device)(input_ids=ids).logits
    assert torch.equal(memory.model(input_ids=ids).logits, expected)
    with memory.attached(Route.shut(3), prompt_tokens=17):
        assert torch.equal(memory.model(input_ids=ids).logits, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_a_sequence_without_experts_is_untouched_beside_one_with(
    architecture: str, make_memory: Make, device: str
) -> None:
    memory = make_memory(architecture, device=device)
    group = add_random_group(memory, 1)
    ids = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(3)).to(device)
    with torch.no_grad():
        expected = make_model(architecture).to(device)(input_ids=ids).logits
    with memory.attached(route_to(memory, None, group), prompt_tokens=6), torch.no_grad():
        logits = memory.model(input_ids=ids).logits
    assert torch.equal(logits[0], expected[0])
    assert torch.equal(logits[1, :5], expected[1, :5])
    assert not torch.allclose(logits[1, 5:], expected[1, 5:], atol=1e-2)


@pytest.mark.parametrize(("activation", "first"), [("answer", 5), ("all", 0)])
@pytest.mark.parametrize("device", DEVICES)
def test_logits_are_base_plus_the_delta_from_where_the_group_acts(
    architecture: str, make_memory: Make, activation: str, first: int, device: str
) -> None:
    memory = make_memory(architecture, device=device)
    group = add_random_group(memory, 2, activation=activation, experts=2)
    ids = torch.randint(0, 256, (10,), generator=torch.Generator().manual_seed(5)).tolist()
    with memory.attached(route_to(memory, group), prompt_tokens=6), torch.no_grad():
        found = memory.model(input_ids=torch.tensor([ids], device=device)).logits[0]
    torch.testing.assert_close(found, reference_logits(memory, group, ids, first), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_steps_with_a_cache_see_the_same_experts_as_one_pass(make_memory: Make, device: str) -> None:
    memory = make_memory("llama", device=device)
    group = add_random_group(memory, 2)
    ids = torch.randint(0, 256, (1, 12), generator=torch.Generator().manual_seed(5)).to(device)
    with memory.attached(route_to(memory, group), prompt_tokens=8), torch.no_grad():
        whole = memory.model(input_ids=ids).logits
        first = memory.model(input_ids=ids[:, :5], use_cache=True)
        second = memory.model(input_ids=ids[:, 5:11], past_key_values=first.past_key_values, use_cache=True)
        third = memory.model(input_ids=ids[:, 11:], past_key_values=second.past_key_values, use_cache=True)
    pieces = torch.cat([first.logits, second.logits, third.logits], 1)
    torch.testing.assert_close(pieces, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_of_prompts_of_different_lengths_answers_as_each_alone(
    architecture: str, make_memory: Make, device: str
) -> None:
    memory = make_memory(architecture, device=device)
    groups = [add_random_group(memory, 1), None, add_random_group(memory, 2)]
    together = memory.generate(QUESTIONS, max_new_tokens=8, route=route_to(memory, *groups))
    alone = [
        memory.generate([question], max_new_tokens=8, route=route_to(memory, group))[0]
        for question, group in zip(QUESTIONS, groups, strict=True)
    ]
    base = memory.generate(QUESTIONS, max_new_tokens=8, route=Route.shut(3))
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    if architecture != "gemma2":  # its norms after each block leave a random model's next token to the embedding
        assert {together[0].text, together[2].text} != {base[0].text, base[2].text}
    assert together[1].text == base[1].text


@pytest.mark.gpu
def test_answers_on_a_gpu_are_those_on_the_cpu(architecture: str, make_memory: Make) -> None:
    """Of the same experts and questions; with the gate shut, those of the base model."""
    said = []
    for device in ("cpu", "cuda"):
        memory = make_memory(architecture, device=device)
        groups = [add_random_group(memory, 1), None, add_random_group(memory, 2, activation="all", experts=2)]
        answers = memory.generate(QUESTIONS, max_new_tokens=8, route=route_to(memory, *groups))
        base = memory.generate(QUESTIONS, max_new_tokens=8, route=Route.shut(3))
        said.append([answer.text for answer in [*answers, *base]])
    assert said[0] == said[1]


@pytest.mark.parametrize("device", DEVICES)
def test_the_router_decides_and_an_answer_tells_its_memory(make_memory: Make, device: str) -> None:
    memory = make_memory("llama", device=device)
    add_random_group(memory, 1, question=QUESTIONS[0])
    known, unknown = memory.generate([QUESTIONS[0], "zebra xylophone"], max_new_tokens=4)
    assert known.memory is not None and known.memory.question == QUESTIONS[0]
    assert known.route.opened.tolist() == [True]
    assert unknown.memory is None and unknown.route.opened.tolist() == [False]


@pytest.mark.parametrize("device", DEVICES)
def test_a_question_for_several_facts_is_answered_as_its_stored_questions_alone(make_memory: Make, device: str) -> None:
    memory = make_memory("llama", device=device)
    groups = [add_random_group(memory, seed, question=question, experts=2) for seed, question in enumerate(QUESTIONS)]
    parts = (Part("code of ada", groups[0], 0.9), Part("and of Dee?", None, 0.1), Part("and of bo", groups[1], 0.8))
    several, one = route_to(memory, groups[0]), route_to(memory, groups[2])
    both = replace(Route.of_all([several, one]), group_ids=((groups[0], groups[1]), (groups[2],)), parts=(parts, ()))
    found, single = memory.generate(["ada, dee and bo?", QUESTIONS[2]], max_new_tokens=6, route=both, batch_size=2)
    alone = [
        memory.generate([question], max_new_tokens=6, route=route_to(memory, group))[0].text
        for question, group in zip(QUESTIONS, groups, strict=True)
    ]
    assert alone[0] != alone[1]
    assert [part.text for part in found.parts] == [alone[0], None, alone[1]]
    assert [part.group_id for part in found.parts] == [groups[0], None, groups[1]]
    assert found.text == "\n".join(part.line for part in found.parts)
    assert (single.text, single.parts) == (alone[2], ())


@pytest.mark.parametrize("device", DEVICES)
def test_refresh_brings_what_another_handle_committed(make_memory: Make, device: str) -> None:
    memory = make_memory("llama", device=device)
    assert memory.generate([QUESTIONS[0]], max_new_tokens=2)[0].memory is None
    add_random_group(memory, 1, question=QUESTIONS[0])
    assert memory.generate([QUESTIONS[0]], max_new_tokens=2)[0].memory is not None


def test_another_base_model_is_refused(tmp_path: Path, make_memory: Make) -> None:
    schema = make_memory("llama").store.schema
    identity = {"name": "tiny", "fingerprint": fingerprint(make_model("llama", seed=0))}
    with ExpertStore.create(tmp_path / "s", schema, key_dim=64, base_model=identity) as store:
        with MemoryModel(make_model("llama", seed=0), make_tokenizer(), store, encoder=HashEncoder()):
            pass
        with pytest.raises(BaseModelMismatchError, match="fingerprint"):
            MemoryModel(make_model("llama", seed=1), make_tokenizer(), store, encoder=HashEncoder())


def test_a_model_without_the_adapted_layers_is_refused_untouched(make_memory: Make) -> None:
    store = make_memory("llama").store
    model = make_model("gpt2")
    with pytest.raises(BaseModelMismatchError, match="no such linear layer"):
        MemoryModel(model, make_tokenizer(), store, encoder=HashEncoder())
    assert not any(isinstance(module, MemoryLinear) for module in model.modules())


def test_closing_leaves_the_model_as_it_was_found(make_memory: Make) -> None:
    memory = make_memory("llama")
    model = memory.model
    memory.close()
    memory.close()
    assert not any(isinstance(module, MemoryLinear) for module in model.modules())
    assert not model._forward_pre_hooks
    with pytest.raises(ClosedError):
        memory.generate(["x"])


def test_wrong_calls_get_typed_errors(make_memory: Make) -> None:
    memory = make_memory("llama")
    group = add_random_group(memory, 1)
    with pytest.raises(SchemaError, match="list"):
        memory.generate("one string")  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match="context"):
        memory.generate(["x" * 300])
    with pytest.raises(SchemaError, match="2 sequences"):
        memory.generate(["x"], route=Route.shut(2))
    with memory.attached(route_to(memory, group), prompt_tokens=2), pytest.raises(SchemaError, match="1 sequences"):
        memory.model(input_ids=torch.zeros(2, 4, dtype=torch.long))
    assert memory.generate([]) == []


def cached(memory: MemoryModel, slots: int, **settings: Any) -> MemoryModel:
    """The same model over the same store, with a cache of so many slots."""
    return MemoryModel(
        make_model("llama"),
        make_tokenizer(),
        memory.store,
        device=str(memory.model.device),
        cache=slots * memory.store.schema.record_bytes,
        encoder=HashEncoder(),
        **settings,
    )


@pytest.mark.parametrize("device", DEVICES)
def test_without_waves_a_route_beyond_the_cache_is_refused_and_nothing_leaks(make_memory: Make, device: str) -> None:
    memory = make_memory("llama", device=device)
    group = add_random_group(memory, 1, experts=3)
    with cached(memory, 2, waves=False) as small:
        with pytest.raises(CapacityError) as caught:
            small.generate(["x"], route=route_to(memory, group))
        assert (caught.value.needed, caught.value.slots) == (3, 2)
        while small.cache.stats()["queue_depth"]:  # what was prefetched before is still on its way
            pass
        assert small.cache.stats()["slots_held"] == small.cache.stats()["leases_live"] == 0


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("delays", [None, (3, 2000)])
@pytest.mark.parametrize("device", DEVICES)
def test_logits_and_answers_do_not_depend_on_the_cache(
    make_memory: Make, slots: int, delays: tuple[int, int] | None, device: str
) -> None:
    """Bit for bit those with everything resident, whatever the capacity, with reads that come late and out of order."""
    memory = make_memory("llama", device=device)
    groups = [
        add_random_group(memory, 1, experts=4),
        add_random_group(memory, 2, activation="all"),
        add_random_group(memory, 3, experts=2),
    ]
    ids, mask = memory.pad([[5, 6, 7, 8], [9, 10], [11, 12, 13]])
    route = route_to(memory, *groups)
    with memory.attached(route, prompt_tokens=4), torch.no_grad():
        expected = memory.model(input_ids=ids, attention_mask=mask).logits
    questions = [*QUESTIONS, "And Dee?", "Who?"]
    routes = route_to(memory, *groups, groups[0], None)
    answers = [answer.text for answer in memory.generate(questions, 8, route=routes, batch_size=2)]
    with cached(memory, slots) as small:
        if delays is not None:
            small.cache.close()
            capacity = slots * memory.store.schema.record_bytes
            small.cache = ExpertCache(small.snapshot, device=device, capacity=capacity, _delays=delays)
        with small.attached(route, prompt_tokens=4), torch.no_grad():
            assert torch.equal(small.model(input_ids=ids, attention_mask=mask).logits, expected)
        assert [a.text for a in small.generate(questions, 8, route=routes, batch_size=2)] == answers
        stats = small.cache.stats()
        assert stats["slots_held"] == stats["leases_live"] == 0
        assert stats["evictions"] > 0 or slots == 64


def test_waves_take_up_the_entries_of_a_route_in_order() -> None:
    route = Route(
        (np.array([4, 4, 5]), np.array([], np.int64), np.array([5, 6, 7, 4])),
        (np.arange(3, dtype=np.float32), np.empty(0, np.float32), np.arange(3, 7, dtype=np.float32)),
        ((1,), (), (2,)),
        np.ones(3, np.float32),
        np.array([True, False, True]),
    )
    waves = split_in_waves(route, 2)
    assert [[ids.tolist() for ids in wave.expert_ids] for wave in waves] == [
        [[4, 4, 5], [], [5]],
        [[], [], [6, 7]],
        [[], [], [4]],
    ]
    assert np.concatenate([w for wave in waves for w in wave.weights]).tolist() == list(range(7))
