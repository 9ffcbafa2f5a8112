"""Where a pool's experts start: near their own wording where they have one, and never as copies of each other."""

import numpy as np
import pytest
import torch

from mome_store.store import ExpertSchema
from mome_store.tuning.pool_starts import Starts

RANK, WIDTH = 2, 16
SCHEMA = ExpertSchema(modules={"down": (WIDTH, 8)}, rank=RANK, dtype="float32", alpha=RANK)


def directions_of(wordings: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    drawn = torch.randn(wordings, RANK, WIDTH, generator=torch.Generator().manual_seed(seed))
    return [{"down": torch.nn.functional.normalize(each, dim=1)} for each in drawn]


def first_a(
    count: int, experts: list[list[int]], weights: list[list[float]], seen: list[dict[str, torch.Tensor]]
) -> torch.Tensor:
    """Of all experts, [count, RANK, WIDTH], once every wording was offered."""
    starts = Starts(SCHEMA, count, np.array(experts), np.array(weights, np.float32))
    for place, each in enumerate(seen):
        starts.offer([place], [each])
    a, b = starts.made(torch.Generator().manual_seed(1))["down"]
    assert a.shape == (count, RANK, WIDTH)
    assert b.shape == (count, RANK, 8)
    assert not b.any()
    return a


def test_an_expert_with_wordings_of_its_own_starts_at_the_one_it_has_most_of() -> None:
    seen = directions_of(3)
    a = first_a(2, [[0, 1], [0, 1], [1, 0]], [[0.7, 0.3], [0.9, 0.1], [0.8, 0.2]], seen)
    assert torch.equal(a[0], seen[1]["down"])
    assert torch.equal(a[1], seen[2]["down"])


def test_experts_that_act_in_company_only_are_no_copies_of_each_other() -> None:
    seen = directions_of(6)
    even = [[0.25] * 4] * 6
    a = first_a(4, [[0, 1, 2, 3]] * 6, even, seen)
    flat = a.flatten(0, 1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(4 * RANK), atol=1e-5, rtol=0)
    # Together they hear as much of the wordings as any 8 directions can, and the first expert hears the most.
    x = torch.cat([each["down"] for each in seen])
    best = torch.linalg.svdvals(x)[: 4 * RANK].square().sum()
    assert float((x @ flat.T).square().sum()) == pytest.approx(float(best), rel=1e-3)
    heard = (x @ a.transpose(1, 2)).square().sum((1, 2))
    assert heard.tolist() == sorted(heard.tolist(), reverse=True)


def test_experts_of_their_own_and_in_company_stand_side_by_side() -> None:
    seen = directions_of(3)
    a = first_a(3, [[0, 1, 2]] * 3, [[0.8, 0.1, 0.1], [0.4, 0.3, 0.3], [0.4, 0.3, 0.3]], seen)
    assert torch.equal(a[0], seen[0]["down"])
    company = a[1:].flatten(0, 1)
    torch.testing.assert_close(company @ company.T, torch.eye(2 * RANK), atol=1e-5, rtol=0)


def test_what_is_left_when_the_directions_are_used_up_is_random_and_no_copy() -> None:
    [seen] = directions_of(1)
    a = first_a(3, [[0, 1, 2]], [[0.4, 0.3, 0.3]], [seen]).flatten(0, 1)
    assert torch.linalg.matrix_rank(a) == 3 * RANK
    assert torch.linalg.matrix_rank(torch.cat([seen["down"], a[[0, 2]]]), tol=1e-4) == RANK


def test_an_expert_that_no_wording_selects_is_random() -> None:
    seen = directions_of(2)
    a = first_a(3, [[0, 1]] * 2, [[0.5, 0.5]] * 2, seen)
    assert torch.linalg.matrix_rank(a.flatten(0, 1)) == 3 * RANK
    alone = torch.randn(3, RANK, WIDTH, generator=torch.Generator().manual_seed(1)) / WIDTH**0.5
    assert torch.equal(a[2], alone[2])


def test_the_start_is_drawn_from_the_seed_and_leaves_the_global_generator_alone() -> None:
    seen = directions_of(6)
    before = torch.get_rng_state()
    first = first_a(4, [[0, 1, 2, 3]] * 6, [[0.25] * 4] * 6, seen)
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(3)
    assert torch.equal(first_a(4, [[0, 1, 2, 3]] * 6, [[0.25] * 4] * 6, seen), first)
