"""The airport facts: a seeded choice of distinct airports, in wordings of which none is both trained and held out."""

from __future__ import annotations

from pathlib import Path

from mome_store.tuning.facts import load_facts
from mome_tools.airports import airport_facts, airports, sample_airports, write_facts


def test_airports_are_told_apart_by_name_city_and_country() -> None:
    found = airports()
    assert len(found) > 6000
    assert len({(a.name.lower(), a.city.lower(), a.country) for a in found}) == len(found)
    assert all(len(a.icao) == 4 and a.icao.isupper() for a in found)
    assert len({a.country for a in found}) > 150
    frankfurt = next(a for a in found if a.icao == "EDDF")
    assert (frankfurt.city, frankfurt.country) == ("Frankfurt am Main", "Germany")


def test_the_choice_depends_on_the_seed_alone_and_known_and_unknown_are_disjoint() -> None:
    known, unknown = sample_airports(200, 50, seed=3)
    assert (known, unknown) == sample_airports(200, 50, seed=3)
    assert (known, unknown) != sample_airports(200, 50, seed=4)
    assert (len(known), len(unknown)) == (200, 50)
    assert not set(known) & set(unknown)


def test_a_fact_names_its_airport_in_every_wording_and_holds_out_what_it_does_not_train() -> None:
    for fact in airport_facts(20, 5):
        assert len(fact.wordings) == 3 and len(fact.heldout) >= 2
        assert not set(fact.wordings) & set(fact.heldout)
    known, _ = sample_airports(20, 0)
    for airport in known:
        fact = airport.fact()
        assert fact.answer == airport.icao
        for wording in (*fact.wordings, *fact.heldout):
            assert airport.name in wording and airport.city in wording and airport.country in wording
            assert airport.icao not in wording


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    facts = airport_facts(30, 10, seed=1)
    write_facts(tmp_path / "facts.jsonl", facts)
    read = load_facts(tmp_path / "facts.jsonl")
    assert [(f.id, f.question, f.answer, f.paraphrases, f.heldout) for f in read] == [
        (f.id, f.question, f.answer, f.paraphrases, f.heldout) for f in facts
    ]
