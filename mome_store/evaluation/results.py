"""What an evaluation found: the metrics of each system, how they are written, and every failure of owned mode."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mome_store.evaluation.intervals import Share
from mome_store.evaluation.risk import RiskCurve

Metric = Share | float | None
"""A share of questions, another number, or None where the metric makes no sense for the system."""


@dataclass(frozen=True)
class Failure:
    """A question that a routed system got wrong.

    kind: the metric that it counts in. expected: None where no memory should have answered.
    label: "gate" (shut for a stored fact, or open where there is none), "routing" (the experts of another fact
    answered) or "storage" (the right experts said something else); of SQL "failed" (it does not run) or "other".
    """

    kind: str
    question: str
    expected: str | None
    said: str | None
    label: str
    used: tuple[str, ...]


@dataclass(frozen=True)
class SystemResult:
    """One system on one seed. facts: how many it was given, which is less than asked for where it is expensive.

    curve: of a system whose gate has a threshold.
    """

    name: str
    title: str
    seed: int
    facts: int
    metrics: dict[str, Metric]
    failures: tuple[Failure, ...] = ()
    notes: str = ""
    curve: RiskCurve | None = None

    def to_json(self) -> dict[str, Any]:
        """All that was found; `from_json` reads it."""
        metrics = {
            name: {"hits": metric.hits, "n": metric.n} if isinstance(metric, Share) else metric
            for name, metric in self.metrics.items()
        }
        return {
            "name": self.name,
            "title": self.title,
            "seed": self.seed,
            "facts": self.facts,
            "notes": self.notes,
            "metrics": metrics,
            "failures": [asdict(failure) for failure in self.failures],
            "risk_coverage": None if self.curve is None else self.curve.to_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SystemResult:
        return cls(
            name=value["name"],
            title=value["title"],
            seed=value["seed"],
            facts=value["facts"],
            metrics={
                name: Share(**metric) if isinstance(metric, dict) else metric
                for name, metric in value["metrics"].items()
            },
            failures=tuple(Failure(**{**failure, "used": tuple(failure["used"])}) for failure in value["failures"]),
            notes=value["notes"],
            curve=None if value["risk_coverage"] is None else RiskCurve.from_json(value["risk_coverage"]),
        )


@dataclass(frozen=True)
class Row:
    """A system over its seeds: shares and curves are added up, other numbers averaged."""

    name: str
    title: str
    seeds: tuple[int, ...]
    facts: int
    metrics: dict[str, Metric]
    failures: tuple[Failure, ...]
    notes: str
    curve: RiskCurve | None = None

    def value(self, metric: str) -> float | None:
        """A metric as one number."""
        found = self.metrics[metric]
        return found.value if isinstance(found, Share) else found

    def values(self) -> dict[str, float | None]:
        """Every metric as one number."""
        return {metric: self.value(metric) for metric in self.metrics}

    def intervals(self) -> dict[str, tuple[float, float] | None]:
        """Wilson's 95 % interval of every share."""
        return {name: metric.interval() for name, metric in self.metrics.items() if isinstance(metric, Share)}


def rows_of(results: Iterable[SystemResult]) -> list[Row]:
    """A row for each system, in the order in which they first come."""
    by_name: dict[str, list[SystemResult]] = {}
    for result in results:
        by_name.setdefault(result.name, []).append(result)
    return [
        Row(
            name=name,
            title=runs[0].title,
            seeds=tuple(run.seed for run in runs),
            facts=runs[0].facts,
            metrics={metric: _pooled([run.metrics[metric] for run in runs]) for metric in runs[0].metrics},
            failures=tuple(failure for run in runs for failure in run.failures),
            notes="; ".join(dict.fromkeys(run.notes for run in runs if run.notes)),
            curve=_added([run.curve for run in runs if run.curve is not None]),
        )
        for name, runs in by_name.items()
    ]


def _pooled(values: Sequence[Metric]) -> Metric:
    shares = [value for value in values if isinstance(value, Share)]
    if shares:
        return sum(shares[1:], shares[0])
    numbers = [value for value in values if value is not None and not isinstance(value, Share)]
    return sum(numbers) / len(numbers) if numbers else None


def _added(curves: Sequence[RiskCurve]) -> RiskCurve | None:
    return sum(curves[1:], curves[0]) if curves else None
