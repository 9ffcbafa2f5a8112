"""Ten thousand strangers: a memory of facts, measured beside everything else that a user could pick."""

from mome_store.evaluation.evaluation import check_systems, evaluate
from mome_store.evaluation.intervals import Share
from mome_store.evaluation.people import PersonFact, Question, Strangers, make_strangers
from mome_store.evaluation.real_data import RealDataResult
from mome_store.evaluation.remembered_readings import RememberingEncoder
from mome_store.evaluation.results import Failure, Row, SystemResult, rows_of
from mome_store.evaluation.risk import RiskCurve
from mome_store.evaluation.settings import EvaluationSettings
from mome_store.evaluation.systems import MAIN, SYSTEMS, Reply, System, Use, Workbench

__all__ = [
    "MAIN",
    "SYSTEMS",
    "EvaluationSettings",
    "Failure",
    "PersonFact",
    "Question",
    "RealDataResult",
    "RememberingEncoder",
    "Reply",
    "RiskCurve",
    "Row",
    "Share",
    "Strangers",
    "System",
    "SystemResult",
    "Use",
    "Workbench",
    "check_systems",
    "evaluate",
    "make_strangers",
    "rows_of",
]
