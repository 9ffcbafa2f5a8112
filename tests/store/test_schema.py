"""A schema: its layout in bytes, what it refuses, and how it is taken from a model."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mome_store.errors import SchemaError
from mome_store.store import ExpertSchema

WIDTHS = st.integers(1, 40).map(lambda n: 8 * n)
SCHEMAS = st.builds(
    ExpertSchema,
    modules=st.dictionaries(st.text(min_size=1, max_size=12), st.tuples(WIDTHS, WIDTHS), min_size=1, max_size=5),
    rank=st.integers(1, 9),
    dtype=st.sampled_from(["bfloat16", "float16", "float32"]),
    alpha=st.one_of(st.none(), st.floats(0.1, 100)),
)


def test_a_layout_worked_out_by_hand() -> None:
    schema = ExpertSchema({"a": (1536, 576), "b": (24, 8)}, rank=4, dtype="bfloat16", alpha=2)
    a, b = schema.sections["a"], schema.sections["b"]
    assert (a.a_offset, a.b_offset) == (0, 4 * 1536 * 2)  # 12288 is a multiple of 256
    assert (b.a_offset, b.b_offset) == (16896, 17152)  # 12288 + 4608 = 16896; 16896 + 192 = 17088, up to 17152
    assert schema.payload_bytes == 17152 + 4 * 8 * 2
    assert schema.record_bytes == 20480
    assert schema.alpha == 2.0 and ExpertSchema({"a": (8, 8)}, rank=3).alpha == 3.0


@given(SCHEMAS)
def test_sections_are_aligned_and_disjoint_and_leave_room_for_the_trailer(schema: ExpertSchema) -> None:
    size = schema.numpy_dtype.itemsize * schema.rank
    end = 0
    for name, (d_in, d_out) in schema.modules.items():
        section = schema.sections[name]
        for offset, width in ((section.a_offset, d_in), (section.b_offset, d_out)):
            assert offset % 256 == 0 and end <= offset < end + 256
            end = offset + size * width
    assert schema.payload_bytes == end
    assert schema.record_bytes % 4096 == 0 and end + 64 <= schema.record_bytes < end + 64 + 64 + 4096


@given(SCHEMAS)
def test_json_and_pickle_keep_everything_and_the_order_of_modules(schema: ExpertSchema) -> None:
    for copy in (ExpertSchema.from_json(schema.to_json()), pickle.loads(pickle.dumps(schema))):
        assert copy == schema and copy.crc == schema.crc and list(copy.modules) == list(schema.modules)


def test_the_crc_depends_on_every_setting_and_on_the_order() -> None:
    settings: dict[str, Any] = {"modules": {"a": (8, 8), "b": (8, 8)}, "rank": 2, "dtype": "float16", "alpha": 2.0}
    others = [
        {"modules": {"b": (8, 8), "a": (8, 8)}},
        {"modules": {"a": (8, 8), "b": (8, 16)}},
        {"rank": 3},
        {"dtype": "bfloat16"},
        {"alpha": 2.5},
    ]
    assert len({ExpertSchema(**{**settings, **other}).crc for other in [{}, *others]}) == len(others) + 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modules": {}}, "at least one module"),
        ({"modules": {"": (8, 8)}}, "non-empty"),
        ({"modules": {"a": (8,)}}, "expected .d_in, d_out."),
        ({"modules": {"a": (12, 8)}}, "multiples of 8"),
        ({"modules": {"a": (8, 0)}}, "multiples of 8"),
        ({"modules": {"a": (8.0, 8)}}, "integer"),
        ({"rank": 0}, "at least 1"),
        ({"rank": True}, "integer"),
        ({"dtype": "int8"}, "bfloat16"),
        ({"alpha": 0}, "positive"),
        ({"alpha": float("inf")}, "positive"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        ExpertSchema(**{"modules": {"a": (8, 8)}, "rank": 2, **change})


@pytest.mark.parametrize("value", [{}, {"modules": 3}, {"modules": [["a", 8]], "rank": 1, "dtype": "float16"}, []])
def test_json_that_is_no_schema_is_refused(value: Any) -> None:
    with pytest.raises(SchemaError):
        ExpertSchema.from_json(value)


class FakeModel:
    """Lists its modules as torch does: depth first."""

    def __init__(self, modules: dict[str, Any]) -> None:
        self._modules = modules

    def named_modules(self) -> Any:
        return iter([("", self), *self._modules.items()])


def test_for_model_takes_the_layers_asked_in_the_models_order_and_reads_linear_and_conv1d() -> None:
    linear = SimpleNamespace(in_features=16, out_features=8)
    conv1d = SimpleNamespace(nx=8, nf=24)
    modules: dict[str, Any] = {}
    for layer in (1, 2, 10):
        modules |= {f"h.{layer}.mlp.5.up": linear, f"h.{layer}.mlp.down": conv1d, f"h.{layer}.not_mlp.down": conv1d}
    schema = ExpertSchema.for_model(
        FakeModel(modules), ["mlp.down", "up"], layers=range(2, 11), rank=2, dtype="float32"
    )
    assert list(schema.modules.items()) == [
        ("h.2.mlp.5.up", (16, 8)),
        ("h.2.mlp.down", (8, 24)),
        ("h.10.mlp.5.up", (16, 8)),
        ("h.10.mlp.down", (8, 24)),
    ]
    assert (schema.rank, schema.dtype, schema.alpha) == (2, "float32", 2.0)
    assert len(ExpertSchema.for_model(FakeModel(modules), "up").modules) == 3


def test_for_model_names_what_it_does_not_find_or_can_not_adapt() -> None:
    model = FakeModel({"h.0.down": SimpleNamespace(in_features=8, out_features=8), "h.0.norm": SimpleNamespace()})
    with pytest.raises(SchemaError, match=r"no module named up"):
        ExpertSchema.for_model(model, ["down", "up"])
    with pytest.raises(SchemaError, match=r"no module named down"):
        ExpertSchema.for_model(model, ["down"], layers=[1])
    with pytest.raises(SchemaError, match=r"h\.0\.norm .* no linear layer"):
        ExpertSchema.for_model(model, ["norm"])
