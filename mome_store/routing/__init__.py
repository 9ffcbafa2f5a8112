"""From a question's text to the experts that hold its answer."""

from mome_store.routing.encoder import QueryEncoder, SentenceEncoder
from mome_store.routing.key_encoder import KeyEncoder
from mome_store.routing.route import Part, Route
from mome_store.routing.router import Candidate, Router

__all__ = ["Candidate", "KeyEncoder", "Part", "QueryEncoder", "Route", "Router", "SentenceEncoder"]
