"""A model cut at its first adapted layer: a training step runs the layers above the cut, and nothing else.

The model's own layer modules are called with the arguments that the model itself gave them. What is written down about
architectures is how the logits follow from the last hidden state; `base_pass.check_cut` compares with the whole model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mome_store.errors import DeviceError, SchemaError
from mome_store.modeling.memory_linear import Attachment
from mome_store.store import ExpertSchema
from mome_store.tuning.constants import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class UpperLayers:
    """The layers of `model` from the first that the schema adapts, what follows them, and the head.

    The model's adapted modules are wrapped already and listen to `attachment`. Raises SchemaError for a model that
    can't be cut, and DeviceError for one that is not on the cpu.

    Attributes: `model`, `decoder` (the model without its head), `attachment`, `schema`, `layers` (all of them) and
    `numbers` (of the upper ones).
    """

    def __init__(self, model: PreTrainedModel, schema: ExpertSchema, attachment: Attachment) -> None:
        check_trained_on(model)
        self.model = model
        self.schema = schema
        self.attachment = attachment
        self.decoder: nn.Module = model.get_decoder()
        self.layers, first = _find_layers(model, schema)
        self.numbers = range(first, len(self.layers))
        head = model.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            raise SchemaError(f"{type(model).__name__} has no linear output head, which memory tuning needs")
        self._head = head
        self._soft_cap: float | None = getattr(model.config, "final_logit_softcapping", None)
        self._after = self._modules_after_layers()

    @property
    def vocabulary(self) -> int:
        return int(self._head.weight.shape[0])

    def hidden(self, batch: Batch) -> torch.Tensor:
        """[N, T, d], after the final norm: the upper layers on a batch's constants, under the attached source."""
        cache = _PromptCache(batch.keys, batch.values)
        hidden = batch.hidden
        for i in self.numbers:
            arguments = batch.arguments[i]
            output = self.layers[i](hidden, attention_mask=batch.mask, past_key_values=cache, **arguments)
            hidden = output[0] if isinstance(output, tuple) else output
        for module in self._after:
            hidden = module(hidden)
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., vocabulary] of hidden states [..., d] after the final norm."""
        # Flat, since a batched product with slices of a larger tensor does not take the fast path.
        return self._capped(self._head(hidden.reshape(-1, hidden.shape[-1]))).view(*hidden.shape[:-1], -1)

    def head_rows(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The head's weight [..., d] and bias [...] (or None) for `tokens` int64 [...]."""
        return self._head.weight[tokens], None if self._head.bias is None else self._head.bias[tokens]

    def shortlist_logits(self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """[N, T, L]: logits of hidden [N, T, d] for the head's rows weight [N, L, d], bias [N, L]."""
        logits = hidden @ weight.transpose(1, 2)
        return self._capped(logits if bias is None else logits + bias[:, None])

    def ids(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor(rows, device=self.model.device)

    def _capped(self, logits: torch.Tensor) -> torch.Tensor:
        if self._soft_cap is None:
            return logits
        return torch.tanh(logits / self._soft_cap) * self._soft_cap

    @torch.no_grad()
    def _modules_after_layers(self) -> list[nn.Module]:
        """The decoder's own modules that run once the last layer is done (its final norm), in order."""
        called: list[nn.Module] = []
        last = self.layers[-1]
        watched = [last, *(child for child in self.decoder.children() if child is not self.layers)]
        handles = [module.register_forward_hook(lambda module, *_: called.append(module)) for module in watched]
        try:
            self.decoder(input_ids=self.ids([[0, 0]]))
        finally:
            for handle in handles:
                handle.remove()
        return called[called.index(last) + 1 :]


def check_trained_on(model: PreTrainedModel) -> None:
    """Raises DeviceError for a model that experts can't be trained beside: one that is not on the cpu."""
    if model.device.type != "cpu":
        raise DeviceError(
            str(model.device),
            "experts are trained on the cpu: memorize with a memory that was opened with device='cpu', and open the "
            "store on the device to answer from it",
        )


class _PromptCache:
    """Stands in for a transformers cache: the prompt's keys and values are constants, the positions' own come after."""

    def __init__(self, keys: Mapping[int, torch.Tensor], values: Mapping[int, torch.Tensor]) -> None:
        self._keys = keys
        self._values = values

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat([self._keys[layer_idx], keys], 2), torch.cat([self._values[layer_idx], values], 2)


def _find_layers(model: PreTrainedModel, schema: ExpertSchema) -> tuple[nn.ModuleList, int]:
    """The list of decoder layers, and the number of the first one that the schema adapts."""
    numbers: list[int] = []
    layers: nn.ModuleList | None = None
    for name in schema.modules:
        parts = name.split(".")
        place = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
        found = None if place is None else model.get_submodule(".".join(parts[:place]))
        if place is None or not isinstance(found, nn.ModuleList) or (layers is not None and found is not layers):
            raise SchemaError(f"memory tuning adapts modules of the decoder's layers only, which {name} is not")
        layers = found
        numbers.append(int(parts[place]))
    assert layers is not None  # a schema has at least one module
    return layers, min(numbers)
