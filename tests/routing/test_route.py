"""A Route is a batch of sequences: rows can be chosen and put together, with the parts of each."""

from __future__ import annotations

import numpy as np
import pytest

from mome_store.routing import Part, Route

BOTH = (Part("one?", 1, 0.9), Part("two?", 2, 0.8))
ONE = (Part("none?", None, 0.1), Part("three?", 3, 0.7))


def route_of(*groups: tuple[int, ...], parts: tuple[tuple[Part, ...], ...] = ()) -> Route:
    """Group g has the experts 10 g and 10 g + 1."""
    ids = tuple(np.array([10 * g + i for g in each for i in (0, 1)], np.int64) for each in groups)
    return Route(
        ids,
        tuple(np.full(len(each), 0.5, np.float32) for each in ids),
        groups,
        np.array([sum(each) for each in groups], np.float32),
        np.array([bool(each) for each in groups]),
        parts,
    )


def rows_of(route: Route) -> list[tuple[object, ...]]:
    parts = route.parts or ((),) * len(route)
    return [
        (ids.tolist(), weights.tolist(), groups, score, opened, own)
        for ids, weights, groups, score, opened, own in zip(
            route.expert_ids,
            route.weights,
            route.group_ids,
            route.scores.tolist(),
            route.opened.tolist(),
            parts,
            strict=True,
        )
    ]


@pytest.mark.parametrize("order", [[], [0], [2, 0], [1, 1, 2, 0]])
@pytest.mark.parametrize("parts", [(), (BOTH, (), ONE)])
def test_selected_rows_are_those_of_the_route_with_their_parts(
    order: list[int], parts: tuple[tuple[Part, ...], ...]
) -> None:
    route = route_of((1, 2), (), (3,), parts=parts)
    assert rows_of(route.select(order)) == [rows_of(route)[i] for i in order]


def test_routes_put_together_are_their_rows_in_order_also_where_only_one_has_parts() -> None:
    routes = [route_of((4,), ()), route_of((1, 2), (), (3,), parts=(BOTH, (), ONE)), Route.shut(1)]
    together = Route.of_all(routes)
    assert rows_of(together) == [row for route in routes for row in rows_of(route)]
    assert rows_of(together.select([2, 5])) == [rows_of(routes[1])[0], rows_of(routes[2])[0]]
