"""From a question's text to the experts that hold its answer."""

from mome_store.routing.device_index import DeviceLimits, faiss_reaches
from mome_store.routing.encoder import QueryEncoder, SentenceEncoder, TokenEncoder
from mome_store.routing.hidden_states import HiddenStateEncoder
from mome_store.routing.key_encoder import KeyEncoder
from mome_store.routing.route import Part, Route
from mome_store.routing.router import Candidate, Router

__all__ = [
    "Candidate",
    "DeviceLimits",
    "HiddenStateEncoder",
    "KeyEncoder",
    "Part",
    "QueryEncoder",
    "Route",
    "Router",
    "SentenceEncoder",
    "TokenEncoder",
    "faiss_reaches",
]
