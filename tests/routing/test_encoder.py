"""The default sentence encoder: unit vectors that depend on the text alone, and a warning where a text is cut."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from mome_store.errors import SchemaError
from mome_store.routing import SentenceEncoder
from mome_store.routing.encoder import DEFAULT_ENCODER, _batches, _resolve


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder()


def test_vectors_have_unit_length_and_like_texts_are_near(encoder: SentenceEncoder) -> None:
    texts = ["What is the capital of France?", "Which city is France's capital?", "How do I boil an egg?"]
    vectors = encoder.encode(texts)
    assert vectors.shape == (3, encoder.dim) == (3, 384) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors[0] @ vectors[1] > 0.8 > 0.3 > vectors[0] @ vectors[2]


def test_a_text_has_the_same_vector_in_any_batch(encoder: SentenceEncoder) -> None:
    texts = ["short", "a little longer than that", "🙂 Zürich 東京", "", "word " * 100]
    together = encoder.encode(texts)
    for text, vector in zip(texts, together, strict=True):
        assert np.allclose(encoder.encode([text])[0], vector, atol=1e-6)
    assert encoder.encode([]).shape == (0, 384)


def test_a_text_that_is_too_long_is_cut_with_a_warning_and_others_without(encoder: SentenceEncoder) -> None:
    with pytest.warns(UserWarning, match="cuts a wording of 402"):
        long = encoder.encode(["x " * 400, "short"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.allclose(encoder.encode(["x " * 254, "short"]), long, atol=1e-6)  # 256 with [CLS] and [SEP]


def test_the_identity_is_that_of_the_files_wherever_they_lie(encoder: SentenceEncoder, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(_resolve(None)[1], copy)
    other = SentenceEncoder(copy)
    assert encoder.identity["name"] == DEFAULT_ENCODER and other.identity["name"] == str(copy)
    assert json.loads(json.dumps(encoder.identity)) == encoder.identity
    assert {**other.identity, "name": None} == {**encoder.identity, "name": None}
    encoder.encode(["use does not change it"])
    assert SentenceEncoder(DEFAULT_ENCODER).identity == encoder.identity

    settings = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(settings | {"do_lower_case": False}))
    assert SentenceEncoder(copy).identity["fingerprint"] != encoder.identity["fingerprint"]


def test_pooling_that_is_not_implemented_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(_resolve(None)[1], copy)
    (copy / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(SchemaError, match="max_tokens"):
        SentenceEncoder(copy)


def test_a_word_is_the_rarer_the_later_the_vocabulary_has_it(encoder: SentenceEncoder) -> None:
    rarity = [encoder.rarity(word) for word in ("the", "number", "elevation", "kowalska")]
    assert rarity[0] > 0 and rarity == sorted(set(rarity)) and rarity[-1] == 1


def test_a_missing_or_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="no such folder"):
        SentenceEncoder(tmp_path / "nothing")
    with pytest.raises(SchemaError, match="can't be loaded"):
        SentenceEncoder(tmp_path)


def test_batches_hold_every_text_once_and_stay_within_the_budget() -> None:
    lengths = sorted(np.random.default_rng(1).integers(1, 256, 500).tolist())
    batches = _batches(range(500), lengths)
    assert [i for batch in batches for i in batch] == list(range(500))
    assert all(len(batch) * lengths[batch[-1]] <= 4096 for batch in batches)
