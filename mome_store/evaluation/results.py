"""What an evaluation found: the metrics of each system, how they are written, and every failure of owned mode."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mome_store.evaluation.intervals import Share

Metric = Share | float | None
"""A share of questions, another number, or None where the metric makes no sense for the system."""


@dataclass(frozen=True)
class Failure:
    """A question that a routed system got wrong.

    kind: the metric that it counts in. expected: None where no memory should have answered.
    label: "gate" (shut for a stored fact, or open where there is none), "routing" (the experts of another fact
    answered) or "storage" (the right experts said something else).
    """

    kind: str
    question: str
    expected: str | None
    said: str | None
    label: str
    used: tuple[str, ...]


@dataclass(frozen=True)
class SystemResult:
    """One system on one seed. facts: how many it was given, which is less than asked for where it is expensive."""

    name: str
    title: str
    seed: int
    facts: int
    metrics: dict[str, Metric]
    failures: tuple[Failure, ...] = ()
    notes: str = ""


@dataclass(frozen=True)
class Row:
    """A system over its seeds: shares are added up, other numbers averaged."""

    name: str
    title: str
    seeds: tuple[int, ...]
    facts: int
    metrics: dict[str, Metric]
    failures: tuple[Failure, ...]
    notes: str

    def values(self) -> dict[str, float | None]:
        """Every metric as one number."""
        return {name: metric.value if isinstance(metric, Share) else metric for name, metric in self.metrics.items()}

    def to_json(self) -> dict[str, Any]:
        """All that is known, shares with their counts and 95 % intervals."""
        detailed = {
            name: {"hits": metric.hits, "n": metric.n, "value": metric.value, "interval": metric.interval()}
            if isinstance(metric, Share)
            else {"value": metric}
            for name, metric in self.metrics.items()
        }
        return {
            "title": self.title,
            "facts": self.facts,
            "seeds": list(self.seeds),
            "notes": self.notes,
            "metrics": detailed,
            "failures": [asdict(failure) for failure in self.failures],
        }

    @classmethod
    def from_json(cls, name: str, value: dict[str, Any]) -> Row:
        """The row that `to_json` wrote."""
        return cls(
            name=name,
            title=value["title"],
            seeds=tuple(value["seeds"]),
            facts=value["facts"],
            metrics={
                metric: Share(found["hits"], found["n"]) if "hits" in found else found["value"]
                for metric, found in value["metrics"].items()
            },
            failures=tuple(Failure(**{**f, "used": tuple(f["used"])}) for f in value["failures"]),
            notes=value["notes"],
        )


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
        )
        for name, runs in by_name.items()
    ]


def _pooled(values: Sequence[Metric]) -> Metric:
    shares = [value for value in values if isinstance(value, Share)]
    if shares:
        return sum(shares[1:], shares[0])
    numbers = [value for value in values if value is not None and not isinstance(value, Share)]
    return sum(numbers) / len(numbers) if numbers else None
