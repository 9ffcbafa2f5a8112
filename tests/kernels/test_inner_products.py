"""Inner products on one thread: every instruction set against numpy, and arguments that don't fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mome_store import SchemaError, _core

SIZE = st.integers(0, 70)


@pytest.mark.parametrize("isa", _core.available_isas())
@settings(max_examples=40, deadline=None)
@given(n=SIZE, m=SIZE, d=st.integers(1, 300), seed=st.integers(0, 1000))
def test_they_are_those_of_numpy(isa: str, n: int, m: int, d: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    rows, vectors = (chance.standard_normal((count, d), np.float32) for count in (n, m))
    found = _core.inner_products(rows, vectors, isa=isa)
    assert found.shape == (m, n) and found.dtype == np.float32
    assert found == pytest.approx(vectors.astype(np.float64) @ rows.astype(np.float64).T, abs=1e-4)


def test_a_product_is_the_same_in_any_company() -> None:
    chance = np.random.default_rng(0)
    rows, vectors = (chance.standard_normal((count, 128), np.float32) for count in (100, 15))
    together = _core.inner_products(rows, vectors)
    assert together[7, 63] == _core.inner_products(rows[63:64], vectors[7:8])[0, 0]


@pytest.mark.parametrize("shapes", [((4, 3), (2, 5)), ((4,), (2, 4)), ((4, 0), (2, 0))])
def test_arrays_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    rows, vectors = (np.zeros(shape, np.float32) for shape in shapes)
    with pytest.raises(SchemaError, match="inner products"):
        _core.inner_products(rows, vectors)


def test_nothing_is_converted_behind_the_callers_back() -> None:
    whole = np.zeros((4, 8), np.float32)
    for rows in (whole.astype(np.float64), whole[:, ::2]):
        with pytest.raises(TypeError):
            _core.inner_products(rows, rows)


def test_the_error_function_is_that_of_each_element() -> None:
    values = np.array([[0, 0.5], [-1, np.inf]], np.float32)
    assert _core.erf(values) == pytest.approx(np.array([[0, 0.5204999], [-0.8427008, 1]], np.float32), abs=1e-6)
