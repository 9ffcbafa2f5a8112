"""Real facts for routing: what is read of pci.ids, what is asked, and what is counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mome_store.evaluation import RealDataResult, Share
from mome_store.evaluation import real_data as module
from mome_store.evaluation.real_data import (
    PCI_IDS,
    QuestionSet,
    device_questions,
    read_pci_ids,
    routed_shares,
    unknown_of,
)
from mome_store.tuning import Fact
from tests.tiny_models import HashEncoder

SMALL_FILE = """\
#
#\tList of PCI IDs
0010  Allied Telesis, Inc
\t8139  AT-2500TX V3 Ethernet
001c  PEAK-System Technik GmbH
\t0001  PCAN-PCI CAN-Bus controller
\t\t001c 0004  2 Channel CAN Bus SJC1000

\t0002  Ünïcode  with two spaces
C 00  Unclassified device
\t00  Non-VGA unclassified device
"""


def test_devices_are_read_with_their_vendor_and_neither_subsystems_nor_classes(tmp_path: Path) -> None:
    file = tmp_path / "pci.ids"
    file.write_text(SMALL_FILE)
    assert read_pci_ids(file) == [
        ("0010:8139", "AT-2500TX V3 Ethernet"),
        ("001c:0001", "PCAN-PCI CAN-Bus controller"),
        ("001c:0002", "Ünïcode  with two spaces"),
    ]


@pytest.fixture
def many_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up file of 300 devices, in the place of the system's."""
    lines = [f"{vendor:04x}  Vendor {vendor}" for vendor in range(3)]
    devices = [f"\t{device:04x}  Device {device} of its vendor" for device in range(100)]
    file = tmp_path / "pci.ids"
    file.write_text("\n".join(line for vendor in lines for line in (vendor, *devices)))
    monkeypatch.setattr(module, "PCI_IDS", (tmp_path / "none", file))
    return file


def test_unknown_devices_are_none_that_are_stored_and_no_stored_wording_is_asked(many_devices: Path) -> None:
    made = device_questions(40, seed=0, asked=10_000)
    assert len(made.facts) == 40
    stored = {wording for fact in made.facts for wording in fact.wordings}
    ids = {fact.question.split()[-1].rstrip("?") for fact in made.facts}
    known = made.known["other wordings"]
    assert len(known) == 3 * 40 and not {text for text, _ in known} & stored
    for text, place in known:
        (mentioned,) = [i for i in ids if i in text]
        assert mentioned in made.facts[place].question
    strangers = made.unknown["unknown devices"]
    assert len(strangers) == 6 * unknown_of(40) and not any(i in text for i in ids for text in strangers)
    assert all(any(i in text for i in ids) for text in made.unknown["other relations"])


def test_a_seed_and_a_number_give_one_sample(many_devices: Path) -> None:
    first, again, other = (device_questions(20, seed, asked=10) for seed in (0, 0, 1))
    assert first == again != other
    assert [len(asked) for asked in (*first.known.values(), *first.unknown.values())][:3] == [10, 10, 10]


def test_devices_that_are_not_there_are_named_with_their_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PCI_IDS", (tmp_path / "none",))
    with pytest.raises(FileNotFoundError, match=r"Debian: pci\.ids"):
        device_questions(2, 0, 2)


@pytest.mark.skipif(not any(path.is_file() for path in PCI_IDS), reason="Debian's package pci.ids is not installed")
def test_the_systems_own_list_has_thousands_of_devices_each_once() -> None:
    devices = read_pci_ids(next(path for path in PCI_IDS if path.is_file()))
    assert len(devices) > 2500  # 2,000 stored ones and 500 unknown
    assert len({i for i, _ in devices}) == len(devices)
    assert all(len(i) == 9 and name for i, name in devices)


class Table:
    """A QueryEncoder that is told each text's vector."""

    dim = 8
    identity = HashEncoder.identity

    def __init__(self, **place: Sequence[float]) -> None:
        self._place = place

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            vectors[row, : len(self._place[text])] = self._place[text]
        return vectors


def test_each_question_is_counted_as_right_or_as_another_fact_or_as_neither(tmp_path: Path) -> None:
    encoder = Table(a=[1], b=[0, 1], to_a=[1, 0.1], to_b=[0.1, 1], nowhere=[0, 0, 1], near_b=[0, 1, 0.1])
    facts = [Fact("a", "1"), Fact("b", "2")]
    asked = [("to_a", 0), ("to_b", 0), ("nowhere", 0), ("nowhere", 1)]
    questions = QuestionSet(facts, {"known": asked}, {"unknown": ["nowhere", "near_b"]})
    assert routed_shares(encoder, questions, tmp_path / "store") == {  # type: ignore[arg-type]
        "known: right": Share(1, 4),
        "known: another fact": Share(1, 4),
        "known: right, gate or not": Share(2, 4),
        "unknown: opened": Share(1, 2),
    }
    assert not list(tmp_path.iterdir())


def test_a_result_is_the_same_after_json_and_says_its_intervals() -> None:
    result = RealDataResult("airports", 20, 1, {"known: right": Share(9, 10)})
    missing = RealDataResult("PCI devices", 20, 1, {}, missing="there is none")
    for each in (result, missing):
        assert RealDataResult.from_json(json.loads(json.dumps(each.to_json()))) == each
    low, high = result.to_json()["shares"]["known: right"]["interval"]
    assert 0 < low < 0.9 < high < 1
