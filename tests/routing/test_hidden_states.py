"""The base model's hidden states as an encoder: those of the layers asked for, of this model, and known again."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mome_store import ExpertSchema, ExpertStore, Memory, MemoryModel, Router, SchemaError
from mome_store.modeling import fingerprint
from mome_store.routing import HiddenStateEncoder, KeyEncoder
from mome_store.routing.curriculum.wordings import load_relations
from mome_store.routing.encoder import _resolve
from mome_store.routing.training import RouterSettings, train_router
from tests.tiny_models import ARCHITECTURES, LAYERS, make_model, make_tokenizer, target_of

TEXTS = ["short", "a little longer than that", "🙂 Zürich 東京", "", "word " * 40]


@cache
def word_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with whole words; the space before a word is part of its token, and of its span."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    questions = sorted(question for relation in load_relations() for question in relation.questions)
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(questions, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def word_model(seed: int = 0) -> PreTrainedModel:
    model = make_model("llama", seed)
    model.resize_token_embeddings(len(word_tokenizer()))
    return model


def encoder(layer: int | None = 2, seed: int = 0) -> HiddenStateEncoder:
    return HiddenStateEncoder(word_model(seed), word_tokenizer(), "tiny", layer)


def layers_of(model: PreTrainedModel) -> torch.nn.ModuleList:
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    word_model().save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("layer", [1, 3, LAYERS])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_vector_is_the_mean_of_what_the_first_layers_alone_would_give(architecture: str, layer: int) -> None:
    model, tokenizer = make_model(architecture), make_tokenizer()
    shorter = copy.deepcopy(model)
    del layers_of(shorter)[layer:]
    found = HiddenStateEncoder(model, tokenizer, "tiny", layer).encode(["Who is it?"])
    with torch.inference_mode():
        states = shorter.get_decoder()(**tokenizer(["Who is it?"], return_tensors="pt")).last_hidden_state
    expected = torch.nn.functional.normalize(states.mean(1), dim=-1).numpy()
    assert np.allclose(found, expected, atol=1e-6)
    assert len(layers_of(model)) == LAYERS, "the model in hand stays whole"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_text_has_the_same_vector_in_any_batch_and_an_empty_one_has_one_too(architecture: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.padding_side = "left"
    states = HiddenStateEncoder(make_model(architecture), tokenizer, "tiny", 2)
    together = states.encode(TEXTS)
    assert together.shape == (len(TEXTS), 64) and np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    for text, vector in zip(TEXTS, together, strict=True):
        assert np.allclose(states.encode([text])[0], vector, atol=1e-5)
    assert states.encode([]).shape == (0, 64)


def test_a_text_longer_than_the_context_is_cut_with_a_warning() -> None:
    states = HiddenStateEncoder(make_model("llama"), make_tokenizer(), "tiny", 2)
    with pytest.warns(UserWarning, match="reads 256 tokens and cuts a wording of 300"):
        assert np.allclose(states.encode(["x" * 300]), states.encode(["x" * 256]), atol=1e-6)


def test_a_tokenizer_in_hand_is_left_as_it_was_and_its_use_does_not_change_the_identity() -> None:
    model, tokenizer = make_model("llama"), make_tokenizer()
    before = HiddenStateEncoder(model, tokenizer, "tiny", 2)
    assert json.loads(json.dumps(before.identity)) == before.identity
    backend = tokenizer.backend_tokenizer.to_str()
    before.encode(TEXTS)
    assert tokenizer.backend_tokenizer.to_str() == backend
    tokenizer(["a", "bc"], padding=True, truncation=True, max_length=1)
    assert HiddenStateEncoder(model, tokenizer, "tiny", 2).identity == before.identity


def test_another_layer_weight_or_tokenizer_is_another_encoder() -> None:
    model = make_model("llama")
    found = [HiddenStateEncoder(model, make_tokenizer(), "tiny", layer) for layer in (2, 3)]
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1  # the whole model counts: a store knows it by one fingerprint
    found.append(HiddenStateEncoder(model, make_tokenizer(), "tiny", 2))
    other = make_tokenizer()
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    found.append(HiddenStateEncoder(model, other, "tiny", 2))
    assert len({each.identity["fingerprint"] for each in found}) == 4


def test_a_token_stands_on_its_word_without_the_space_before_it() -> None:
    text = " What is  the name of Zoë?\n"
    [states] = encoder().encode_tokens([text])
    pieces = [text[start:end] for start, end in states.spans]
    assert states.states.shape == (len(pieces), 64)
    assert {"What", "is", "the", "name", "of"} <= set(pieces)
    assert all(piece == piece.strip() for piece in pieces)
    assert np.allclose(
        torch.nn.functional.normalize(states.states.mean(0), dim=0).numpy(), encoder().encode([text])[0], atol=1e-6
    )


def test_an_empty_text_has_a_token_that_stands_for_nothing() -> None:
    [states] = encoder().encode_tokens([""])
    assert states.spans.tolist() == [[0, 0]] and torch.isfinite(states.states).all()


def test_the_vocabulary_is_of_whole_words_each_once_in_the_order_of_their_ids() -> None:
    words = encoder().vocabulary(1000, 0)
    ids = word_tokenizer().get_vocab()
    assert {"what", "name", "which"} & set(words) and len(words) == len(set(words))
    assert all(word.isalpha() and word.islower() and len(word) >= 4 for word in words)
    places = [min(ids.get("Ġ" + form, len(ids)) for form in (word, word.title(), word.upper())) for word in words]
    assert places == sorted(places) and places[-1] < len(ids), "each is one token behind a space"
    assert encoder().vocabulary(3, 0) == words[:3]
    assert encoder().vocabulary(1000, places[5] + 1) == words[6:]


def test_a_word_is_the_rarer_the_later_the_vocabulary_has_it() -> None:
    words = encoder().vocabulary(1000, 0)
    rarity = [encoder().rarity(word) for word in (*words, "no such word")]
    assert rarity[0] > 0 and rarity == sorted(rarity) and rarity[-2] < rarity[-1] == 1


def test_a_tokenizer_without_whole_words_has_no_vocabulary() -> None:
    with pytest.raises(SchemaError, match="whole words"):
        HiddenStateEncoder(make_model("llama"), make_tokenizer(), "tiny", 2).vocabulary(10, 0)


def test_a_tokenizer_that_can_not_pad_is_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer().backend_tokenizer)
    with pytest.raises(SchemaError, match="neither a padding nor an end token"):
        HiddenStateEncoder(make_model("llama"), tokenizer, "tiny", 2)


@pytest.mark.parametrize("layer", [0, -1, LAYERS + 1])
def test_a_layer_that_the_model_does_not_have_is_refused(layer: int) -> None:
    with pytest.raises(SchemaError, match=f"layers 1 to {LAYERS}, found layer {layer}"):
        encoder(layer)


def test_what_is_no_causal_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="causal language model"):
        HiddenStateEncoder.from_pretrained(_resolve(None)[1])  # a sentence encoder's folder
    with pytest.raises(SchemaError, match="causal language model"):
        HiddenStateEncoder.from_pretrained(tmp_path)
    with pytest.raises(SchemaError, match="no such folder"):
        HiddenStateEncoder.from_pretrained(tmp_path / "nothing")


def make_store(path: Path, keys: HiddenStateEncoder | KeyEncoder, adapted: int = LAYERS - 1) -> None:
    """A store of one fact beside the tiny model, whose experts change layer `adapted` (from 0 on)."""
    model = word_model()
    schema = ExpertSchema.for_model(model, target_modules=[target_of("llama")], layers=[adapted], rank=1)
    base = {"name": "tiny", "fingerprint": fingerprint(model)}
    expert = {name: (np.zeros((1, d_in)), np.zeros((d_out, 1))) for name, (d_in, d_out) in schema.modules.items()}
    with (
        ExpertStore.create(path, schema, keys.dim, base_model=base, encoder=keys.identity) as store,
        store.transaction() as transaction,
    ):
        transaction.add_group([expert], keys=keys.encode(["Who is it?"]), memory=Memory("Who is it?", "Ada"))


def test_a_store_knows_its_encoder_again_by_name_layer_and_fingerprint(folder: Path, tmp_path: Path) -> None:
    make_store(tmp_path / "s", HiddenStateEncoder.from_pretrained(folder, 3))
    with ExpertStore.open(tmp_path / "s") as store, store.snapshot() as snapshot:
        router = Router.open(snapshot)
        assert isinstance(router.encoder, HiddenStateEncoder) and router.encoder.layer == 3
        [found] = router.score(["Who is it?"])
        assert found[0].score == pytest.approx(1, abs=1e-5)
        with pytest.raises(SchemaError, match="another one"):
            Router.open(snapshot, encoder=HiddenStateEncoder.from_pretrained(folder, 2))
        word_model(seed=1).save_pretrained(folder.parent / "other")
        word_tokenizer().save_pretrained(folder.parent / "other")
        with pytest.raises(SchemaError, match="another one"):
            Router.open(snapshot, encoder=HiddenStateEncoder.from_pretrained(folder.parent / "other", 3))


@pytest.mark.parametrize(
    ("layer", "adapted", "shared"), [(1, 1, True), (3, 3, True), (2, 1, False), (LAYERS, 3, False)]
)
def test_a_memory_model_shares_its_layers_with_the_encoder_where_experts_do_not_change_them(
    folder: Path, tmp_path: Path, layer: int, adapted: int, shared: bool
) -> None:
    alone = HiddenStateEncoder.from_pretrained(folder, layer)
    make_store(tmp_path / "s", alone, adapted)
    with MemoryModel(word_model(), word_tokenizer(), tmp_path / "s") as memory:
        states = memory.router.encoder
        assert isinstance(states, HiddenStateEncoder) and states.identity == alone.identity
        assert (states.layers[0] is layers_of(memory.model)[0]) == shared
        assert np.array_equal(states.encode(["Who is it?"]), alone.encode(["Who is it?"]))
        assert memory.generate(["Who is it?"], max_new_tokens=2)[0].memory is not None


def test_a_router_trains_over_hidden_states_and_a_store_finds_both_again(folder: Path, tmp_path: Path) -> None:
    states = HiddenStateEncoder.from_pretrained(folder, 2)
    settings = RouterSettings(
        entities=60,
        words_asked=40,
        tagger_steps=4,
        steps=4,
        lessons=6,
        lesson_entities=9,
        background=30,
        gate_steps=20,
        calibration=0.5,
    )
    router = train_router(states, replace(settings, vocabulary_start=0))
    router.save(tmp_path / "router")
    keys = KeyEncoder(states, tmp_path / "router")
    make_store(tmp_path / "s", keys)
    with ExpertStore.open(tmp_path / "s") as store, store.snapshot() as snapshot:
        found = Router.open(snapshot).encoder
        assert isinstance(found, KeyEncoder) and found.identity == keys.identity
        assert np.array_equal(found.encode(["Who is it?"]), keys.encode(["Who is it?"]))
    with MemoryModel(word_model(), word_tokenizer(), tmp_path / "s") as memory:
        shared = memory.router.encoder
        assert isinstance(shared, KeyEncoder) and isinstance(shared.sentences, HiddenStateEncoder)
        assert shared.sentences.layers[0] is layers_of(memory.model)[0]
    with pytest.raises(SchemaError, match="another encoder"):
        KeyEncoder(HiddenStateEncoder.from_pretrained(folder, 3), tmp_path / "router")
