"""`mome evaluate`: what it prints and saves, and that an evaluation can be made in parts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mome_store import MomeError
from mome_store.evaluation import EvaluationSettings, Failure, RealDataResult, RiskCurve, Share, SystemResult
from mome_store.evaluation.results import Metric
from mome_store.evaluation.risk import Decision
from mome_tools.strangers_results import Results, bars_of
from tests.tiny_models import make_model, make_tokenizer

from .conftest import Mome

SHARES = """
    exact_match_seen exact_match_heldout exact_match_twins contains_heldout right_route_seen right_route_heldout
    right_route_twins steal_rate oracle_exact_match wrong_fact_right_answer wrong_fact_its_own_answer
    false_fire_unknown_person false_fire_unknown_twin false_fire_other_relation false_fire_unrelated
    retention_before retention_after update_new_value update_old_value forget_equals_base forget_still_said
"""
NUMBERS = """
    perplexity_change retention_drop seconds_per_fact bytes_per_fact context_tokens_per_query context_tokens_per_fact
    added_ms_per_query
"""


def made_up(name: str, seed: int = 0, failures: tuple[Failure, ...] = (), **other: Metric) -> SystemResult:
    """A result whose shares are all 90 of 100 unless told otherwise."""
    metrics: dict[str, Metric] = dict.fromkeys(SHARES.split(), Share(90, 100))
    metrics |= dict.fromkeys(NUMBERS.split(), 1.0)
    return SystemResult(name, f"title of {name}", seed, 100, metrics | other, failures, "a note")


def test_a_saved_evaluation_holds_tables_bars_failures_and_plots(tmp_path: Path) -> None:
    results = Results(100, EvaluationSettings(), "some-model", "some-router", tmp_path)
    failure = Failure("heldout", "Where is it?", "here", "there", "routing", ("Ada / pet",))
    results.add(made_up("owned", failures=(failure,), exact_match_seen=Share(100, 100), perplexity_change=0.0))
    results.add(made_up("rag1", exact_match_heldout=Share(99, 100), steal_rate=None))
    page = (tmp_path / "strangers.md").read_text()
    assert "| title of owned | 100 | 1 | 100.0 % (96.3–100.0) | 90.0 % (82.6–94.5) |" in page
    assert "| exact match, trained wordings | 100.0 % | >= 99.0 % | ok |" in page
    assert "| exact match, held-out wordings | 90.0 % | >= 95.0 % | NOT MET |" in page
    assert "| heldout | 1 | 0 | 0 |" in page and "* heldout, routing: 'Where is it?'; right: 'here'" in page
    assert "| held-out wordings | 90.0 % (82.6–94.5) | title of rag1: 99.0 % (94.6–99.8) |" in page  # where it loses
    assert page.index("title of rag1") < page.index("title of owned")
    for plot in ("strangers_answers.png", "strangers_false_fire.png"):
        assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG") and plot in page


def test_an_evaluation_made_in_parts_is_one_and_a_run_made_again_replaces_the_old_one(tmp_path: Path) -> None:
    for seed, hits in ((0, 10), (1, 20), (0, 30)):
        results = Results(100, EvaluationSettings(), "some-model", "some-router", tmp_path)
        results.add(made_up("owned", seed, exact_match_seen=Share(hits, 100)))
    content = json.loads((tmp_path / "strangers.json").read_text())
    assert content["systems"]["owned"]["exact_match_seen"] == (20 + 30) / 200
    assert content["intervals"]["owned"]["exact_match_seen"] == pytest.approx([0.195, 0.314], abs=1e-3)
    assert (content["seeds"], content["facts"], len(content["runs"])) == ([0, 1], 100, 2)


def test_a_gate_with_scores_has_a_table_and_a_plot_of_risk_and_coverage(tmp_path: Path) -> None:
    known = [Decision(0.99, True, True)] * 9 + [Decision(0.1, True, False)]
    unknown = [Decision(0.9, False, True), Decision(0.2, False, False)]
    kinds = ("unknown_person", "unknown_twin", "other_relation", "unrelated")
    curve = RiskCurve.of(dict.fromkeys(("seen", "heldout", "twins"), known) | dict.fromkeys(kinds, unknown))
    results = Results(100, EvaluationSettings(), "some-model", "some-router", tmp_path)
    for seed in (0, 1):
        results.add(replace(made_up("owned", seed), curve=curve))
    page = (tmp_path / "strangers.md").read_text()
    assert (tmp_path / "strangers_risk.png").read_bytes().startswith(b"\x89PNG") and "(strangers_risk.png)" in page
    (gate,) = [line for line in page.splitlines() if line.startswith("| the gate as it is |")]
    cells = [cell.split(" (")[0] for cell in gate.strip("| ").split(" | ")]
    assert cells == ["the gate as it is", "90.0 %", "18.2 %", "0.0 %", *["50.0 %"] * 4]  # wrong: 4 of 18 + 4
    assert "seen 20, heldout 20, twins 20, unknown_person 4" in page  # both seeds
    assert Results(100, EvaluationSettings(), "some-model", "some-router", tmp_path).rows()[0].curve == curve + curve


def test_real_data_is_kept_beside_the_systems_and_replaced_by_name(tmp_path: Path) -> None:
    results = Results(100, EvaluationSettings(), "some-model", "some-router", tmp_path)
    results.add_real(RealDataResult("airports", 20, 0, {}, missing="no package"))
    results = Results(100, EvaluationSettings(), "some-model", "some-router", tmp_path)
    results.add(made_up("cache"))
    assert "| 20 airports | not measured: no package |" in (tmp_path / "strangers.md").read_text()
    results.add_real(RealDataResult("airports", 20, 0, {"other wordings: right": Share(9, 10)}))
    assert (
        "| 20 airports | other wordings: right | 90.0 % (59.6–98.2) | 10 |" in (tmp_path / "strangers.md").read_text()
    )
    assert [result["missing"] for result in results.to_json()["real_data"]] == [None]


@pytest.mark.parametrize("other", ("facts", "settings", "model", "router"))
def test_runs_that_were_made_otherwise_are_not_mixed_in(tmp_path: Path, other: str) -> None:
    Results(100, EvaluationSettings(), "some-model", "some-router", tmp_path).add(made_up("base"))
    results = Results(
        200 if other == "facts" else 100,
        EvaluationSettings(questions=7) if other == "settings" else EvaluationSettings(),
        "other-model" if other == "model" else "some-model",
        "other-router" if other == "router" else "some-router",
        tmp_path,
    )
    assert results.rows() == []


def test_another_file_of_that_name_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "strangers.json").write_text("[]")
    with pytest.raises(MomeError, match="move it away"):
        Results(100, EvaluationSettings(), "some-model", "some-router", tmp_path)


def test_a_bar_is_left_out_where_nothing_was_measured() -> None:
    results = Results(100, EvaluationSettings(), "some-model", "some-router", None)
    results.add(made_up("owned", exact_match_twins=Share(0, 0)))
    names = [figure.name for figure in bars_of(results.rows()[0])]
    assert "exact match, held-out wordings" in names and "exact match, twins" not in names


def test_identifiers_have_a_bar_where_they_were_routed() -> None:
    results = Results(100, EvaluationSettings(), "some-model", "some-router", None)
    results.add(made_up("owned"))
    results.add_real(RealDataResult("PCI devices", 20, 0, {}, missing="no file"))
    assert "right route, identifiers" not in [figure.name for figure in results.bars()]
    results.add_real(RealDataResult("PCI devices", 20, 0, {"other wordings: right": Share(9, 10)}))
    [bar] = [figure for figure in results.bars() if figure.name == "right route, identifiers"]
    assert bar.value == 90 and bar.ok is False


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    make_model("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def test_the_command_prints_one_json_object(mome: Mome, tiny_model: Path, tmp_path: Path) -> None:
    ran = mome(
        *("evaluate", "--facts", "12", "--seeds", "3,4", "--systems", "cache,base", "--questions", "4"),
        *("--routed-questions", "20"),
        *("--model", tiny_model, "--save", tmp_path / "results", "--json"),
    )
    assert ran.code == 0 and ran.err == "" and len(ran.out.splitlines()) == 1
    assert list(ran.json["systems"]) == ["base", "cache"]
    assert (ran.json["facts"], ran.json["seeds"]) == (12, [3, 4])
    assert (
        ran.json["systems"]["cache"]["exact_match_seen"] == 1 == ran.json["intervals"]["cache"]["exact_match_seen"][1]
    )
    assert (tmp_path / "results" / "strangers.md").exists()


def test_the_command_prints_tables_for_people(mome: Mome, tiny_model: Path) -> None:
    ran = mome(
        "evaluate", "--facts", "12", "--seed", "3", "--systems", "base", "--questions", "2", "--model", tiny_model
    )
    assert ran.code == 0 and "frozen base model" in ran.out and "ms added to a query" in ran.out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    ((("--systems", "magic"), "there is no system magic"), (("--seeds", "one"), "no list of seeds")),
)
def test_what_can_not_be_run_is_refused(mome: Mome, arguments: tuple[str, str], problem: str) -> None:
    ran = mome("evaluate", *arguments)
    assert ran.code != 0 and problem in ran.err and ran.out == ""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_hundred_strangers_are_answered_by_owned_mode(mome: Mome) -> None:
    ran = mome("evaluate", "--facts", "300", "--seed", "0", "--systems", "owned", "--questions", "60", "--json")
    owned = ran.json["systems"]["owned"]
    assert owned["exact_match_seen"] >= 0.99 and owned["right_route_seen"] >= 0.99
    assert owned["perplexity_change"] == 0 and owned["update_old_value"] == 0
    assert owned["steal_rate"] <= 0.01 and owned["retention_drop"] <= 2
