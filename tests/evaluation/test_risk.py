"""The risk-coverage curve of a gate: what its shares count, how they change with the threshold, and that it is kept."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mome_store.evaluation import RiskCurve, Share
from mome_store.evaluation.risk import THRESHOLDS, Decision

KINDS = ("seen", "heldout", "twins", "unknown_person", "unrelated")
_known = st.builds(Decision, st.floats(0, 1), st.booleans(), st.booleans())
_unknown = st.builds(Decision, st.floats(0, 1), st.just(False), st.booleans())
curves = st.fixed_dictionaries(
    {kind: st.lists(_unknown if kind.startswith("un") else _known, max_size=8) for kind in KINDS}
).map(RiskCurve.of)
place_of = {threshold: place for place, threshold in enumerate(THRESHOLDS)}


def decided(*scores_and_right: tuple[float, bool], bar: float = 0.5) -> list[Decision]:
    """By a gate that opens at `bar`."""
    return [Decision(score, right, score >= bar) for score, right in scores_and_right]


def test_wrong_facts_and_answered_unknowns_are_the_risk_and_answered_known_ones_the_coverage() -> None:
    curve = RiskCurve.of(
        {
            "seen": decided((0.99, True), (0.6, True)),
            "heldout": decided((0.9, False), (0.3, True)),
            "twins": decided((0.99, False)),
            "unknown_person": decided((0.7, False), (0.1, False)),
        }
    )
    for place in (None, place_of[0.5]):
        assert curve.coverage(place) == Share(3, 4)
        assert curve.risk(place) == Share(2, 4)  # a wrong fact and an unknown one, of four that are answered
        assert curve.fired("unknown_person", place) == Share(1, 2)
        assert curve.fired("heldout", place) == Share(1, 2) and curve.fired("twins", place) == Share(1, 1)
    everything = place_of[0.0]
    assert curve.coverage(everything) == Share(4, 4) and curve.risk(everything) == Share(3, 6)
    assert curve.unknown == ("unknown_person",)


def test_the_risk_of_a_gate_that_answers_nothing_is_no_number() -> None:
    curve = RiskCurve.of({"seen": decided((0.2, True)), "heldout": [], "unrelated": decided((0.1, False))})
    assert curve.coverage(None) == Share(0, 1) and curve.risk(None).value is None


@given(curves)
def test_a_higher_threshold_never_answers_more(curve: RiskCurve) -> None:
    answered = [curve.coverage(place).hits for place in range(len(THRESHOLDS))]
    assert answered == sorted(answered, reverse=True)
    for kind in KINDS:
        fired = [curve.fired(kind, place).hits for place in range(len(THRESHOLDS))]
        assert fired == sorted(fired, reverse=True)
    assert curve.coverage(0).hits == curve.coverage(0).n, "0 is a threshold that everything reaches"


@given(curves, curves)
def test_curves_add_up_as_their_shares_do_and_are_the_same_after_json(one: RiskCurve, other: RiskCurve) -> None:
    both = one + other
    for place in (None, *range(0, len(THRESHOLDS), 16)):
        assert both.coverage(place) == one.coverage(place) + other.coverage(place)
        assert both.risk(place) == one.risk(place) + other.risk(place)
    assert RiskCurve.from_json(json.loads(json.dumps(both.to_json()))) == both


@pytest.mark.parametrize("seed", range(3))
def test_with_calibrated_scores_the_risk_falls_as_the_threshold_rises(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 1, 4000)
    right = rng.uniform(0, 1, 4000) < scores  # a score is the probability to be right
    curve = RiskCurve.of({"seen": decided(*zip(scores.tolist(), right.tolist(), strict=True)), "heldout": []})
    risks = [curve.risk(place_of[threshold]).value for threshold in (0.0, 0.5, THRESHOLDS[-30])]
    assert risks == sorted(risks, reverse=True)  # type: ignore[type-var]
    assert risks[0] == pytest.approx(0.5, abs=0.03) and risks[1] == pytest.approx(0.25, abs=0.03)
