"""A frozen language model that answers from a store."""

from mome_store.base_model import BaseModelSource, fingerprint, load_base_model, resolve_base_model
from mome_store.modeling.answers import Answer, AnsweredPart
from mome_store.modeling.memory_model import MemoryModel
from mome_store.modeling.prompts import Prompts

__all__ = [
    "Answer",
    "AnsweredPart",
    "BaseModelSource",
    "MemoryModel",
    "Prompts",
    "fingerprint",
    "load_base_model",
    "resolve_base_model",
]
