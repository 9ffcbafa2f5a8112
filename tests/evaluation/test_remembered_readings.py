"""An encoder that remembers: the routes are the same, and within the block each text is read once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from mome_store.evaluation import RememberingEncoder
from mome_store.evaluation import remembered_readings as module
from mome_store.evaluation.key_store import KeyStore
from mome_store.evaluation.remembered_readings import remembering
from mome_store.routing import HiddenStateEncoder, KeyEncoder
from mome_store.routing.gate import FEATURES, Background, Gate
from mome_store.routing.projection import Projection
from mome_store.routing.trained import TrainedRouter
from mome_store.tuning import Fact
from tests.tiny_models import HashEncoder, make_model, make_tokenizer

WIDTH = 16
TEXTS = ["Who is Ada?", "When was Ada born?", "Where is the key?"]


class CountingStates(HiddenStateEncoder):
    """Hidden states of a tiny model, and how often each text was asked for."""

    def __init__(self) -> None:
        super().__init__(make_model("llama"), make_tokenizer(), "tiny", 2)
        self.read: list[str] = []

    def encode_tokens(self, texts: Sequence[str]):  # type: ignore[no-untyped-def]
        self.read += texts
        return super().encode_tokens(texts)


@pytest.fixture
def states() -> CountingStates:
    return CountingStates()


def router_for(states: HiddenStateEncoder) -> TrainedRouter:
    """A router with random weights: its gate's decisions mean nothing, but depend on all that it reads."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    random = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    features = len(FEATURES)
    gate = Gate(
        mean=np.zeros(features, np.float32),
        scale=np.ones(features, np.float32),
        hidden_weight=random(4, features),
        hidden_bias=random(4),
        output_weight=random(4),
        output_bias=0.0,
        negatives={"stranger": np.sort(rng.uniform(0, 1, 200)).astype(np.float32)},
    )
    words = random(3, WIDTH)
    background = Background(["key", "born", "where"], words / np.linalg.norm(words, axis=1, keepdims=True))
    projection = Projection(states.dim, WIDTH).eval()
    return TrainedRouter(states.identity["fingerprint"], projection, background, gate, {})


def test_within_the_block_each_text_is_read_once_and_outside_every_time(states: CountingStates) -> None:
    encoder = RememberingEncoder(states, router_for(states))
    with remembering(encoder):
        encoder.read([*TEXTS, TEXTS[0]])
        first = len(states.read)
        encoder.read(TEXTS[::-1])
        assert len(states.read) == first and states.read.count(TEXTS[0]) == 1
    encoder.read(TEXTS[:1])
    encoder.read(TEXTS[:1])
    assert states.read.count(TEXTS[0]) == 3, "what is timed is computed"
    with remembering(encoder):
        encoder.read(TEXTS)
    assert states.read.count(TEXTS[0]) == 3, "a later block remembers what an earlier one read"


def test_what_is_remembered_is_in_the_order_that_was_asked_for(states: CountingStates) -> None:
    encoder, plain = (kind(states, router_for(states)) for kind in (RememberingEncoder, KeyEncoder))
    with remembering(encoder):
        encoder.read(TEXTS)
        found = encoder.read([TEXTS[2], TEXTS[0], TEXTS[2]])
    for reading, text in zip(found, (TEXTS[2], TEXTS[0], TEXTS[2]), strict=True):
        (expected,) = plain.read([text])
        assert np.allclose(reading.blocks, expected.blocks, atol=1e-5)
        assert reading.words.keys() == expected.words.keys() and reading.rarity == expected.rarity


def test_routes_are_those_of_an_encoder_that_does_not_remember(states: CountingStates, tmp_path: Path) -> None:
    encoder = RememberingEncoder(states, router_for(states))
    with KeyStore(tmp_path / "keys", encoder) as store:
        store.insert([Fact(TEXTS[0], "1"), Fact(TEXTS[1], "2")])
        alone = store.route(TEXTS)
        with remembering(encoder):
            routes = [store.route(TEXTS) for _ in range(2)]
        for route in routes:
            assert route.group_ids == alone.group_ids and np.allclose(route.scores, alone.scores, atol=1e-5)


def test_no_more_is_kept_than_there_is_room_for(states: CountingStates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 2)
    encoder = RememberingEncoder(states, router_for(states))
    with remembering(encoder):
        for text in TEXTS:
            assert len(encoder.read([text])) == 1
        encoder.read(TEXTS)
    assert len(encoder._known) <= len(TEXTS)


def test_an_encoder_that_can_not_remember_is_taken_as_it_is() -> None:
    with remembering(HashEncoder()):
        pass
