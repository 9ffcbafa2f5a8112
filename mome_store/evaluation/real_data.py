"""Facts that are real, for the router alone: found in other words, and left alone where nothing of the kind is stored.

Only keys are stored; no expert is trained or applied. Here is what makes and asks such questions, and the devices of
pci.ids: identifiers that differ in one character, which a sentence encoder blurs. (Airports need packages that only
`mome_tools` uses: mome_tools/airports.py.)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mome_store.evaluation.intervals import Share
from mome_store.evaluation.key_store import KeyStore, ungated
from mome_store.evaluation.unrelated import TEXTS
from mome_store.tuning.facts import Fact

if TYPE_CHECKING:
    from mome_store.routing import QueryEncoder

T = TypeVar("T")

PCI_IDS = (Path("/usr/share/misc/pci.ids"), Path("/usr/share/hwdata/pci.ids"))
"""Where Debian's packages pci.ids and hwdata put it."""

_STORED = (
    "Which device has the PCI id {id}?",
    "What is the name of PCI device {id}?",
    "Name the hardware behind PCI id {id}.",
)
_ASKED = (
    "lspci -n shows {id}, what is that?",
    "I found {id} in a kernel log and wonder which chip this is.",
    "{id} pci device name",
)
_OTHER_RELATIONS = (
    "Which driver supports PCI id {id}?",
    "When was PCI device {id} released?",
    "How much power does PCI device {id} draw?",
)


@dataclass(frozen=True)
class QuestionSet:
    """Facts to store, questions with the place of their fact, and questions that no fact answers, by kind."""

    facts: Sequence[Fact]
    known: dict[str, Sequence[tuple[str, int]]]
    unknown: dict[str, Sequence[str]]


@dataclass(frozen=True)
class RealDataResult:
    """What routing made of one set. missing: why it could not be asked; there are no shares then.

    shares: as `routed_shares` names them.
    """

    name: str
    facts: int
    seed: int
    shares: dict[str, Share]
    missing: str | None = None

    def to_json(self) -> dict[str, Any]:
        """`from_json` reads it; the intervals are for other readers."""
        shares = {
            kind: {"hits": share.hits, "n": share.n, "interval": share.interval()}
            for kind, share in self.shares.items()
        }
        return {
            "name": self.name,
            "facts": self.facts,
            "seed": self.seed,
            "shares": shares,
            "missing": self.missing,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RealDataResult:
        shares = {kind: Share(share["hits"], share["n"]) for kind, share in value["shares"].items()}
        return cls(value["name"], value["facts"], value["seed"], shares, value["missing"])


def routed_shares(encoder: QueryEncoder, questions: QuestionSet, path: Path) -> dict[str, Share]:
    """Stores the facts under keys that `encoder` makes, and routes every question. path: a folder that is not there.

    Of each known kind "KIND: right" (the gate opened for the question's own fact and no other), "KIND: another fact",
    and "KIND: right, gate or not" (an open gate would have chosen it); of each unknown one "KIND: opened".
    """
    shares: dict[str, Share] = {}
    with KeyStore(path, encoder) as store:
        groups = store.insert(questions.facts)
        for kind, known in questions.known.items():
            asked = [text for text, _ in known]
            winners = store.route(asked).group_ids
            right = [found == (groups[place],) for (_, place), found in zip(known, winners, strict=True)]
            shares[f"{kind}: right"] = Share.of(right)
            shares[f"{kind}: another fact"] = Share.of(
                [bool(found) and not own for found, own in zip(winners, right, strict=True)]
            )
            likeliest = ungated(store.snapshot, store.router, asked)
            shares[f"{kind}: right, gate or not"] = Share.of(
                [found == (groups[place],) for (_, place), found in zip(known, likeliest, strict=True)]
            )
        for kind, texts in questions.unknown.items():
            shares[f"{kind}: opened"] = Share.of(store.route(texts).opened.tolist())
    return shares


def device_questions(size: int, seed: int, asked: int) -> QuestionSet:
    """PCI devices by their identifiers: `size` stored ones, at most `asked` questions of a kind.

    Raises FileNotFoundError where no file of `PCI_IDS` is there.
    """
    file = next((path for path in PCI_IDS if path.is_file()), None)
    if file is None:
        raise FileNotFoundError(f"there is no {' or '.join(map(str, PCI_IDS))} (Debian: pci.ids)")
    chance = random.Random(seed)
    chosen = chance.sample(read_pci_ids(file), size + unknown_of(size))
    known, unknown = chosen[:size], chosen[size:]
    facts = [
        Fact(_STORED[0].format(id=i), name, tuple(wording.format(id=i) for wording in _STORED[1:])) for i, name in known
    ]
    questions = [(wording.format(id=i), place) for place, (i, _) in enumerate(known) for wording in _ASKED]
    strangers = [wording.format(id=i) for i, _ in unknown for wording in (*_STORED, *_ASKED)]
    other = [wording.format(id=i) for i, _ in known for wording in _OTHER_RELATIONS]
    return QuestionSet(
        facts,
        {"other wordings": sampled(chance, questions, asked)},
        {
            "unknown devices": sampled(chance, strangers, asked),
            "other relations": sampled(chance, other, asked),
            "anything else": list(TEXTS),
        },
    )


def read_pci_ids(file: Path) -> list[tuple[str, str]]:
    """(vendor:device, name) of every device."""
    found = []
    vendor = ""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("C "):
            break
        if line and not line.startswith(("#", "\t")):
            vendor = line[:4]
        elif line.startswith("\t") and not line.startswith("\t\t"):
            found.append((f"{vendor}:{line[1:5]}", line[7:].strip()))
    return found


def unknown_of(size: int) -> int:
    """How many unknown things to ask about beside `size` known ones."""
    return max(50, size // 4)


def sampled(chance: random.Random, items: Sequence[T], most: int) -> list[T]:
    return chance.sample(items, min(len(items), most))
