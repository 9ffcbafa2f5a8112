"""Memory tuning: facts in, committed groups out."""

from mome_store.tuning.facts import Fact, load_facts, parse_facts
from mome_store.tuning.pool_settings import PoolSettings
from mome_store.tuning.pool_tuner import PoolTuner
from mome_store.tuning.report import FailedFact, TuningProgress, TuningReport
from mome_store.tuning.settings import TuningSettings, default_schema
from mome_store.tuning.tuner import MemoryTuner, create_store

__all__ = [
    "Fact",
    "FailedFact",
    "MemoryTuner",
    "PoolSettings",
    "PoolTuner",
    "TuningProgress",
    "TuningReport",
    "TuningSettings",
    "create_store",
    "default_schema",
    "load_facts",
    "parse_facts",
]
