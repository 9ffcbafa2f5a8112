"""What of an adapter is kept bit for bit, and every reason for which one is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mome_store import AdapterError, BaseModelMismatchError, ExpertSchema, ExpertStore, Memory, SchemaError
from mome_store.exchange import export_group, import_group
from mome_store.store import pool_memories, set_pool_memories
from tests.exchange.conftest import NewStore, SaveAdapter, peft

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
A, B = (f"base_model.model.model.layers.2.mlp.down_proj.lora_{half}.weight" for half in "AB")
TORCH = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def exported(store: ExpertStore, group_id: int, path: Path) -> Path:
    with store.snapshot() as snapshot:
        return export_group(snapshot, group_id, path).path


@pytest.mark.parametrize("dtype", TORCH)
def test_an_adapter_goes_in_and_comes_out_bit_for_bit(
    dtype: str, save_adapter: SaveAdapter, new_store: NewStore, tmp_path: Path
) -> None:
    given = save_adapter(dtype=TORCH[dtype], r=3, lora_alpha=2.5)
    with new_store(dtype=dtype, alpha=2.5) as store:
        out = exported(store, import_group(store, given).group_id, tmp_path / "out")
    before, after = load_file(given / WEIGHTS), load_file(out / WEIGHTS)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype == TORCH[dtype] and after[name].shape == tensor.shape
        assert after[name].view(torch.uint8).equal(tensor.view(torch.uint8))
    config = peft.PeftConfig.from_pretrained(out)
    assert (config.r, config.lora_alpha) == (3, 2.5)
    assert sorted(config.target_modules) == ["model.layers.2.mlp.down_proj", "model.layers.3.mlp.down_proj"]


@pytest.mark.parametrize("activation", ["answer", "all"])
@pytest.mark.parametrize("ranks", [(4,), (2,), (4, 4)])
def test_a_group_goes_out_and_comes_back_in_whole(
    ranks: tuple[int, ...], activation: str, new_store: NewStore, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    with new_store(dtype="bfloat16", base_model={"name": "tiny", "fingerprint": "f00"}) as store:
        schema = store.schema
        given = [
            {name: (rng.standard_normal((r, d_in)), rng.standard_normal((d_out, r))) for name, (d_in, d_out) in
             schema.modules.items()}
            for r in ranks
        ]  # fmt: skip
        with store.transaction() as txn:
            first = txn.add_group(given, None, activation=activation)
        out = exported(store, first, tmp_path / "out")
        assert json.loads((out / CONFIG).read_text())["base_model_name_or_path"] == "tiny"
        imported = import_group(store, out)
        assert imported.activation == activation and imported.experts == len(ranks)
        with store.snapshot() as snapshot:
            old, new = snapshot.group(first), snapshot.group(imported.group_id)
            assert (new.mode, new.activation, new.memory) == (old.mode, old.activation, None)
            for one, other in zip(old.expert_ids.tolist(), new.expert_ids.tolist(), strict=True):
                for (a, b), (c, d) in zip(
                    snapshot.read_expert(one).values(), snapshot.read_expert(other).values(), strict=True
                ):
                    assert (a.tobytes(), b.tobytes()) == (c.tobytes(), d.tobytes())


def test_modules_that_the_adapter_leaves_alone_are_zero_and_told(
    save_adapter: SaveAdapter, new_store: NewStore
) -> None:
    with new_store() as store:
        imported = import_group(store, save_adapter(target_modules=["3.mlp.down_proj"]))
        assert imported.filled == ("model.layers.2.mlp.down_proj",)
        with store.snapshot() as snapshot:
            weights = snapshot.read_expert(int(snapshot.group(imported.group_id).expert_ids[0]))
    assert [bool(a.any() and b.any()) for a, b in weights.values()] == [False, True]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"r": 5}, "rank is 5, .* at most 4; --split"),
        ({"lora_alpha": 5}, "scale 1.25 .* can have 1 "),
        ({"use_rslora": True, "r": 2}, "scale 2.828"),
        ({"rank_pattern": {"2.mlp.down_proj": 3}}, "scale 1.33333"),
        ({"target_modules": ["q_proj", "down_proj"]}, "don't adapt .*self_attn.q_proj.* more, as the adapter does"),
        ({"use_dora": True}, "use_dora = True: DoRA"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save = .*lm_head.*whole modules"),
        ({"target_modules": ["down_proj", "embed_tokens"]}, "no LoRA pair of a linear layer: .*embed"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "'pissa', which changes the base model"),
        ({"alora_invocation_tokens": [3]}, "alora_invocation_tokens"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_an_expert_can_not_be_is_refused_with_the_reason(
    save_adapter: SaveAdapter, new_store: NewStore, settings: dict[str, Any], reason: str
) -> None:
    adapter = save_adapter(**settings)
    with new_store() as store:
        with pytest.raises(AdapterError, match=reason) as raised:
            import_group(store, adapter)
        assert raised.value.path == adapter
        with store.snapshot() as snapshot:
            assert snapshot.commit == 0


def test_another_kind_of_adapter_is_refused(save_adapter: SaveAdapter, new_store: NewStore) -> None:
    adapter = save_adapter()
    edit_config(lambda config: config.update(peft_type="IA3"))(adapter)
    with new_store() as store, pytest.raises(AdapterError, match="peft_type 'IA3'"):
        import_group(store, adapter)


def edit_config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(adapter: Path) -> None:
        config = json.loads((adapter / CONFIG).read_text())
        change(config)
        (adapter / CONFIG).write_text(json.dumps(config))

    return edit


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(adapter: Path) -> None:
        tensors = load_file(adapter / WEIGHTS)
        change(tensors)
        save_file(tensors, adapter / WEIGHTS)

    return edit


def cut(name: str, keep: int) -> Callable[[Path], None]:
    return lambda adapter: (adapter / name).write_bytes((adapter / name).read_bytes()[:keep]) and None


def pickled(adapter: Path) -> None:
    (adapter / WEIGHTS).unlink()
    (adapter / "adapter_model.bin").write_bytes(b"")


def conv_weights(tensors: dict[str, torch.Tensor]) -> None:
    tensors[A] = tensors[A][..., None, None].contiguous()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda adapter: (adapter / CONFIG).unlink(), "adapter_config.json is missing"),
        (lambda adapter: (adapter / WEIGHTS).unlink(), "adapter_model.safetensors is missing$"),
        (pickled, "adapter_model.bin is a pickle"),
        (cut(CONFIG, 20), "not JSON"),
        (cut(WEIGHTS, 900), "safetensors is damaged"),
        (cut(WEIGHTS, 5), "safetensors is damaged"),
        (edit_weights(lambda t: t.pop(B)), "has lora_A only"),
        (edit_weights(dict.clear), "holds no weights"),
        (edit_weights(lambda t: t.update({A: t[A][:, :-8].contiguous()})), r"expected lora_A \[r, 96\]"),
        (edit_weights(lambda t: t.update({B: t[B][:, :-1].contiguous()})), "of one rank r"),
        (edit_weights(conv_weights), r"found \[4, 96, 1, 1\]"),
        (edit_weights(lambda t: t[A].fill_(float("nan"))), "lora_A holds values that are not finite"),
        (edit_weights(lambda t: t[B][0].fill_(float("inf"))), "lora_B holds values that are not finite"),
        (edit_weights(lambda t: t.update({A: t[A].to(torch.int8)})), "dtype I8"),
        (edit_weights(lambda t: t.update({A[:-6] + "bias": t[A][0].clone()})), "no LoRA pair"),
        (edit_config(lambda c: c.update(r=3)), "says rank 3, the weights have rank 4"),
        (edit_config(lambda c: c.update(lora_alpha="4")), "lora_alpha must be a positive number"),
        (edit_config(lambda c: c.update(lora_alpha=0)), "lora_alpha must be a positive number"),
        (edit_config(lambda c: c.update(rank_pattern={"(": 4})), "no regular expression"),
        (edit_config(lambda c: c.update(rank_pattern=[4])), "rank_pattern is no JSON object"),
        (edit_config(lambda c: c.update(use_something_new={"n": 3})), "use_something_new = .*not known here"),
    ],
    ids=range(21),
)
def test_a_damaged_folder_is_refused_with_the_reason(
    save_adapter: SaveAdapter, new_store: NewStore, spoil: Callable[[Path], None], reason: str
) -> None:
    adapter = save_adapter()
    spoil(adapter)
    with new_store() as store:
        with pytest.raises(AdapterError, match=reason):
            import_group(store, adapter)
        with store.snapshot() as snapshot:
            assert snapshot.commit == 0


def test_a_folder_that_is_not_there_is_refused(new_store: NewStore, tmp_path: Path) -> None:
    with new_store() as store, pytest.raises(AdapterError, match="no such folder"):
        import_group(store, tmp_path / "nowhere")


def test_values_that_the_store_would_round_are_refused_unless_asked_for(
    save_adapter: SaveAdapter, new_store: NewStore
) -> None:
    adapter = save_adapter()
    with new_store(dtype="bfloat16") as store:
        with pytest.raises(AdapterError, match=r"of its 1280 values can't be stored exactly in bfloat16, .*--round"):
            import_group(store, adapter)
        imported = import_group(store, adapter, nearest=True)
        with store.snapshot() as snapshot:
            stored = snapshot.read_expert(int(snapshot.group(imported.group_id).expert_ids[0]))
    given = load_file(adapter / WEIGHTS)
    changed = 0
    for module, halves in stored.items():
        for half, values in zip("AB", halves, strict=True):
            wanted = given[f"base_model.model.{module}.lora_{half}.weight"]
            nearest = wanted.to(torch.bfloat16)
            assert values.tobytes() == nearest.view(torch.uint8).numpy().tobytes()
            changed += int((nearest.float() != wanted).sum())
    assert imported.rounded == changed > 0


def test_values_beyond_the_dtype_are_refused_even_when_rounding(save_adapter: SaveAdapter, new_store: NewStore) -> None:
    adapter = save_adapter()
    edit_weights(lambda tensors: tensors[A].fill_(1e30))(adapter)
    with new_store(dtype="float16") as store, pytest.raises(AdapterError, match="too large for float16"):
        import_group(store, adapter, nearest=True)


def test_a_power_of_two_that_would_lose_bits_of_b_counts_as_rounding(
    save_adapter: SaveAdapter, new_store: NewStore
) -> None:
    """float16 has its smallest numbers at 2^-24: a quarter of those is zero."""
    adapter = save_adapter(dtype=torch.float16, lora_alpha=1)
    edit_weights(lambda tensors: tensors[B].fill_(2.0**-24))(adapter)
    with new_store(dtype="float16") as store, pytest.raises(AdapterError, match="can't be stored exactly in float16"):
        import_group(store, adapter)


@pytest.mark.parametrize(
    ("base", "named", "fits"),
    [
        ({"name": "tiny"}, "tiny", True),
        ({"name": "tiny"}, "other", False),
        ({"name": "tiny"}, None, True),
        (None, "other", True),
    ],
)
def test_an_adapter_of_another_base_model_is_refused_unless_forced(
    save_adapter: SaveAdapter, new_store: NewStore, base: dict[str, str] | None, named: str | None, fits: bool
) -> None:
    adapter = save_adapter()
    edit_config(lambda config: config.update(base_model_name_or_path=named))(adapter)
    with new_store(base_model=base) as store:
        if not fits:
            with pytest.raises(BaseModelMismatchError, match=r"other, the store's experts for tiny.*--any-base"):
                import_group(store, adapter)
        assert import_group(store, adapter, any_base=not fits).group_id == 1


def test_the_same_folder_under_another_path_is_the_same_base_model(
    save_adapter: SaveAdapter, new_store: NewStore, tmp_path: Path
) -> None:
    adapter = save_adapter()
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "model")
    edit_config(lambda config: config.update(base_model_name_or_path=str(tmp_path / "link")))(adapter)
    with new_store(base_model={"name": str(tmp_path / "model")}) as store:
        import_group(store, adapter)


def test_fingerprints_decide_where_both_have_one(
    save_adapter: SaveAdapter, new_store: NewStore, tmp_path: Path
) -> None:
    with new_store(base_model={"name": "here", "fingerprint": "f00"}) as store:
        out = exported(store, import_group(store, save_adapter()).group_id, tmp_path / "out")
    with new_store(base_model={"name": "there", "fingerprint": "f00"}) as store:
        import_group(store, out)
    with new_store(base_model={"name": "here", "fingerprint": "bad"}) as store, pytest.raises(BaseModelMismatchError):
        import_group(store, out)


def test_experts_whose_scales_no_adapter_has_are_not_exported(new_store: NewStore, tmp_path: Path) -> None:
    with new_store() as store:
        experts = [
            {name: (np.ones((r, i), np.float32), np.ones((o, r), np.float32)) for name, (i, o) in
             store.schema.modules.items()}
            for r in (3, 4)
        ]  # fmt: skip
        with store.transaction() as txn:
            group = txn.add_group(experts, None)
        with pytest.raises(AdapterError, match=r"ranks \[3, 4\] .* one adapter has one scale"):
            exported(store, group, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_experts_whose_scales_can_not_be_made_one_without_rounding_are_not_exported(
    new_store: NewStore, tmp_path: Path
) -> None:
    """Four times 60,000 is beyond float16, and a quarter of its smallest number is zero."""
    with new_store(dtype="float16") as store:
        experts = [
            {name: (np.ones((r, i)), np.full((o, r), value)) for name, (i, o) in store.schema.modules.items()}
            for r, value in ((1, 60000.0), (4, 2.0**-24))
        ]
        with store.transaction() as txn:
            group = txn.add_group(experts, None)
        with pytest.raises(AdapterError, match=r"ranks \[1, 4\] .* one adapter has one scale"):
            exported(store, group, tmp_path / "out")


def test_a_pool_is_neither_exported_from_nor_imported_into(
    save_adapter: SaveAdapter, new_store: NewStore, tmp_path: Path
) -> None:
    with new_store() as store:
        expert = {name: (np.ones((1, i)), np.ones((o, 1))) for name, (i, o) in store.schema.modules.items()}
        with store.transaction() as txn:
            group = txn.add_group([expert], np.ones((1, store.key_dim), np.float32), mode="pool")
            set_pool_memories(txn, [Memory("q", "a")])
        with pytest.raises(AdapterError, match="pool"):
            exported(store, group, tmp_path / "out")
        with pytest.raises(SchemaError, match="pool"):
            import_group(store, save_adapter())
        with store.snapshot() as snapshot:
            assert len(pool_memories(snapshot)) == len(snapshot.group_ids) == 1


def test_export_overwrites_nothing_and_leaves_nothing_half(
    save_adapter: SaveAdapter, new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_store() as store:
        group = import_group(store, save_adapter()).group_id
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("mine")
        (tmp_path / "file").write_text("mine")
        for taken in ("mine", "file"):
            with pytest.raises(FileExistsError) as raised:
                exported(store, group, tmp_path / taken)
            assert raised.value.filename == str(tmp_path / taken)
        assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
        with pytest.raises(FileNotFoundError):
            exported(store, group, tmp_path / "no" / "parent")
        before = sorted(tmp_path.iterdir())
        monkeypatch.setattr("mome_store.exchange.whole_files.os.fsync", fail_with_full_disk)
        with pytest.raises(OSError, match="No space left"):
            exported(store, group, tmp_path / "out")
        assert sorted(tmp_path.iterdir()) == before
        monkeypatch.undo()
        (tmp_path / "empty").mkdir()
        assert sorted(path.name for path in exported(store, group, tmp_path / "empty").iterdir()) == [CONFIG, WEIGHTS]


def fail_with_full_disk(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_group_without_keys_is_whole_for_every_reader(new_store: NewStore) -> None:
    from mome_store.store import statistics, verify

    with new_store() as store:
        expert = {name: (np.ones((1, i)), np.ones((o, 1))) for name, (i, o) in store.schema.modules.items()}
        with store.transaction() as txn:
            bare = txn.add_group([expert], None)
            found = txn.add_group([expert], np.ones((2, store.key_dim), np.float32))
            with pytest.raises(SchemaError, match="at least one key"):
                txn.add_group([expert], np.empty((0, store.key_dim), np.float32))
        with store.snapshot() as snapshot:
            assert snapshot.group_ids.tolist() == [bare, found]
            assert snapshot.keys()[1].tolist() == [found, found]
        with store.transaction() as txn:
            txn.remove_group(bare)
            txn.replace_group(found, [expert], None)
        with store.snapshot() as snapshot:
            assert len(snapshot.group_ids) == 1 and not len(snapshot.keys()[0])
        assert verify(store.path, deep=True).ok and statistics(store.path).keys == 0


def test_import_into_a_schema_of_other_modules_names_what_is_missing(save_adapter: SaveAdapter, tmp_path: Path) -> None:
    schema = ExpertSchema({"elsewhere": (96, 64)}, rank=4)
    with (
        ExpertStore.create(tmp_path / "s", schema, 8) as store,
        pytest.raises(AdapterError, match=r"model\.layers\.2\.mlp\.down_proj, model\.layers\.3\.mlp\.down_proj"),
    ):
        import_group(store, save_adapter())
