"""The systems that are compared, in the order of the table."""

from __future__ import annotations

from mome_store.evaluation.systems.answer_cache import AnswerCache
from mome_store.evaluation.systems.base import Reply, System, Use, Workbench
from mome_store.evaluation.systems.frozen import FrozenBase
from mome_store.evaluation.systems.full_context import FullContext
from mome_store.evaluation.systems.full_tuning import FullTuning
from mome_store.evaluation.systems.grace import GraceLike
from mome_store.evaluation.systems.knn_lm import KnnLm
from mome_store.evaluation.systems.lora import LoraJoint, LoraSequential
from mome_store.evaluation.systems.owned import Owned
from mome_store.evaluation.systems.pool import PoolMode
from mome_store.evaluation.systems.retrieval import RetrievalTop1, RetrievalTop3

__all__ = ["MAIN", "SYSTEMS", "Reply", "System", "Use", "Workbench"]

SYSTEMS: dict[str, type[System]] = {
    system.name: system
    for system in (
        FrozenBase,
        FullContext,
        RetrievalTop1,
        RetrievalTop3,
        AnswerCache,
        LoraJoint,
        LoraSequential,
        FullTuning,
        KnnLm,
        GraceLike,
        PoolMode,
        Owned,
    )
}
MAIN = ("cache", "owned")
"""The main rows: measured on every seed. The others are measured on the first one."""
