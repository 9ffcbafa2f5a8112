"""The projector: what the projection computes, text by text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mome_store.routing.projection import Projection
from mome_store.routing.projector import Projector
from mome_store.routing.trained import load_router


def small() -> Projection:
    torch.manual_seed(0)
    return Projection(dim=12, width=10).requires_grad_(False).eval()


@pytest.mark.parametrize("projection", [small(), load_router().projection], ids=["small", "shipped"])
@pytest.mark.parametrize("tokens", [3, 4, 17, 200])
def test_it_is_the_projection(projection: Projection, tokens: int) -> None:
    chance = torch.Generator().manual_seed(tokens)
    states, marks = (torch.randn(1, tokens, dim, generator=chance) for dim in (projection.dim, 3))
    unnamed = torch.randn(1, projection.dim, generator=chance)
    mask = torch.ones(1, tokens, dtype=torch.bool)
    mask[:, [0, -1]] = False  # special tokens
    tags = projection.tagger(states, marks, mask)
    expected = projection(states, mask, tags, unnamed)[0].numpy()

    projector = Projector(projection)
    seen, shown = states[0].numpy(), mask[0].numpy()
    found = projector.tags(seen, marks[0].numpy(), shown)
    assert found == pytest.approx(tags[0].numpy(), abs=2e-5)
    assert projector.blocks(seen, shown, found, unnamed[0].numpy()) == pytest.approx(expected, abs=1e-5)


def test_a_text_without_characters_has_blocks_of_unit_length() -> None:
    projector, nothing = Projector(small()), np.zeros(2, np.bool_)
    states = np.ones((2, 12), np.float32)
    tags = projector.tags(states, np.zeros((2, 3), np.float32), nothing)
    blocks = projector.blocks(states, nothing, tags, states[0])
    assert np.linalg.norm(blocks, axis=1) == pytest.approx(1, abs=1e-6)


def test_later_training_does_not_change_it() -> None:
    projection = small()
    projector, states, shown = Projector(projection), np.ones((3, 12), np.float32), np.ones(3, np.bool_)
    marks = np.zeros((3, 3), np.float32)
    before = projector.tags(states, marks, shown)
    projection.tagger.first.weight.zero_()
    assert np.array_equal(projector.tags(states, marks, shown), before)
