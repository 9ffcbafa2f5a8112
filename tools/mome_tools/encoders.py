"""What `--encoder` names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from mome_store.routing import TokenEncoder

_BASE = "base"


def named_encoder(name: str | None, model: str | None) -> TokenEncoder:
    """A folder's sentence encoder, or with None the default one; "base", "base:N": the hidden states of the base model
    `model` (None: the default one), of layer N.

    Raises BadParameter for an N that is no number, SchemaError as the encoders do.
    """
    from mome_store.routing import HiddenStateEncoder, SentenceEncoder

    kind, _, layer = (name or "").partition(":")
    if kind != _BASE:
        return SentenceEncoder(name)
    if layer and not layer.isdecimal():
        raise typer.BadParameter(f"--encoder {name}: a layer is a number, such as {_BASE}:5")
    return HiddenStateEncoder.from_pretrained(model, int(layer) if layer else None)
