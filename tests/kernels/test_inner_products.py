"""Inner products and convolutions on one thread: every instruction set against numpy and torch, and arguments that
don't fit.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mome_store import SchemaError, _core

SIZE = st.integers(0, 70)
SOME = st.integers(1, 70)


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


@pytest.mark.parametrize("isa", _core.available_isas())
@settings(max_examples=30, deadline=None)
@given(t=st.integers(0, 9), width=SOME, out=SOME, margin=st.integers(0, 3), gelu=st.booleans())
def test_a_convolution_is_that_of_torch(isa: str, t: int, width: int, out: int, margin: int, gelu: bool) -> None:
    chance = torch.Generator().manual_seed(t)
    layer = torch.nn.Conv1d(width, out, 2 * margin + 1, padding=margin).requires_grad_(False)
    layer.weight.copy_(torch.randn(layer.weight.shape, generator=chance))
    inputs = torch.randn(t, width, generator=chance)
    expected = layer(inputs.T[None])[0].T if t else torch.zeros(0, out)
    weights = np.ascontiguousarray(layer.weight.transpose(1, 2).numpy())
    found = _core.convolution(inputs.numpy(), weights, layer.bias.numpy(), gelu, isa=isa)
    assert found.shape == (t, out)
    assert found == pytest.approx((torch.nn.functional.gelu(expected) if gelu else expected).numpy(), abs=1e-4)


@pytest.mark.parametrize(
    "shapes", [((4, 3), (2, 3, 4), (2,)), ((4, 3), (2, 3, 3), (3,)), ((4, 3), (2, 2, 3), (2,)), ((4,), (2, 3, 3), (2,))]
)
def test_a_convolution_of_arrays_that_do_not_fit_is_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(SchemaError, match="convolution"):
        _core.convolution(*(np.zeros(shape, np.float32) for shape in shapes), False)
