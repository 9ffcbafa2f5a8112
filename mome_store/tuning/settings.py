"""What can be set about memory tuning, and the shape of expert that suits a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mome_store.errors import SchemaError
from mome_store.store import ExpertSchema

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The projection that writes a block's result back into the residual stream, by the names it has in known models.
_OUTPUT_PROJECTIONS = ("mlp.down_proj", "mlp.c_proj", "mlp.fc2", "mlp.dense_4h_to_h", "feed_forward.w2")


@dataclass(frozen=True)
class TuningSettings:
    """How facts are trained. The defaults are what docs/tuning.md gives the figures for.

    batch_facts: facts in training at once.
    batch_tokens: and no more answer positions (over all wordings) than this, so that long answers fit into memory;
        a fact that has more by itself is trained alone.
    learning_rate, betas: of Adam, for A and B alike.
    stop_probability: a fact is finished when every answer token and the end token has at least this probability in
        every training wording, computed from the rounded record, and is the most likely of the whole vocabulary.
    max_steps: after so many steps without success a fact gets one more expert.
    max_experts: and it is given up when it has so many and fails again.
    commit_facts: finished facts are committed when there are so many.
    competitors: how many of the base model's likeliest tokens, per answer position, a fact's shortlist starts with.
    """

    batch_facts: int = 64
    batch_tokens: int = 2048
    learning_rate: float = 3e-2
    betas: tuple[float, float] = (0.9, 0.99)
    stop_probability: float = 0.99
    max_steps: int = 60
    max_experts: int = 4
    commit_facts: int = 64
    competitors: int = 32

    def __post_init__(self) -> None:
        for name in ("batch_facts", "batch_tokens", "max_steps", "max_experts", "commit_facts", "competitors"):
            if getattr(self, name) < 1:
                raise SchemaError(f"{name} must be at least 1, found {getattr(self, name)}")
        if not 0.5 < self.stop_probability < 1:
            raise SchemaError(f"stop_probability must lie between 0.5 and 1, found {self.stop_probability}")
        if self.learning_rate <= 0:
            raise SchemaError(f"learning_rate must be positive, found {self.learning_rate}")


def default_schema(model: PreTrainedModel, rank: int = 4) -> ExpertSchema:
    """One adapted layer seven eighths of the way up: the output projection of its MLP, in bf16.

    Late enough that a step runs few layers, early enough that the layers above can still form the answer's tokens
    (the measurements are in docs/tuning.md). Raises SchemaError for a model whose MLP goes by an unknown name.
    """
    layers = int(model.config.num_hidden_layers)
    layer = 7 * layers // 8
    for target in _OUTPUT_PROJECTIONS:
        if any(name.endswith(f".{layer}.{target}") for name, _ in model.named_modules()):
            return ExpertSchema.for_model(model, target_modules=[target], layers=[layer], rank=rank)
    raise SchemaError(
        f"{type(model).__name__} has none of {', '.join(_OUTPUT_PROJECTIONS)} in layer {layer}; "
        "make the store with ExpertStore.create and a schema that names the layers to adapt"
    )
