"""Ways to ask: generic augmentation of wordings, without a teacher model.

A relation of relations/*.txt has names ("head office, main office") and whole questions ("Where is {e} based?"). Here
the names are put into frames, and questions are put into the mouths of different people. In both, {t} is a tool that
nobody knows: a rare word that names nothing that is asked about.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

_NAME_FRAMES = (
    "What is the {r} of {e}?",
    "What's {e}'s {r}?",
    "Which {r} does {e} have?",
    "Tell me the {r} of {e}.",
    "Give me {e}'s {r}.",
    "Give the {r} for {e}, please.",
    "Could you tell me the {r} of {e}?",
    "Do you happen to know {e}'s {r}?",
    "I need the {r} of {e}.",
    "I would like to know the {r} of {e}.",
    "{e}: {r}?",
    "{e} - {r}",
    "{r} of {e}",
    "{r} {e}",
    "{e}, {r}?",
    "look up {e}, {r}",
    "About {e}: what is the {r}?",
    "For {e}, state the {r}.",
    "Regarding {e}, which {r} do we have on record?",
    "Please confirm the {r} that we hold for {e}.",
    "I forgot the {r} of {e}. What was it again?",
    "A form asks me for the {r} of {e}. What do I write?",
    "Somebody wants the {r} of {e} from me; what do I answer?",
    "We talked about {e} over lunch and nobody knew the {r}. Can you help?",
    "I'm filling in a table and the row for {e} lacks the {r}. What goes there?",
    "My notes on {e} are incomplete: the {r} is missing. Fill it in.",
    "can u tell me {e}'s {r} pls",
    "hey, {r} of {e}?",
    "When it comes to {e}, what would the {r} be?",
    "Name the {r} of {e}.",
    "The {r} of {e} is what exactly?",
    "Is there a {r} on file for {e}, and what is it?",
    "I have to call someone about {e} and they will ask me for the {r}. What is it?",
    "With regard to {e}, may I ask what the {r} is?",
    "Let me have the {r} that belongs to {e}.",
    "Find out what {r} is given for {e}.",
    "We should be obliged to learn the {r} of {e}.",
    "For the file: the {r} of {e} is to be entered. Which one is it?",
    "It has not been recorded what {e} has for a {r}; please supply it.",
    "According to our papers, what is the {r} in the case of {e}?",
    "I am writing to ask for the {r} of {e}.",
    "Nobody here can tell me the {r} of {e}. Can you?",
    "Someone just asked about {e} and I had no idea about the {r}, can you help me out?",
    "I had it on the tip of my tongue: {e}, the {r}, how did it go again?",
    "Before I hang up I want to be sure about the {r} of {e}. Remind me?",
    "My colleague swears that I should know the {r} of {e} by heart, and I don't. So?",
    "I keep mixing these things up. Which {r} goes with {e}?",
    "I'd love to hear what the {r} of {e} is.",
    "I am curious about {e}'s {r}.",
    "It would help me to know which {r} {e} has.",
    "You surely know the {r} that goes with {e}?",
    "{e}: the {r}, please.",
    "{e}: say what the {r} is.",
    "{e}? I only want the {r}.",
    "{e} what {r}",
    "{r} for {e}?",
    "whats {e} {r}",
    "{r}: {e}",
    "Remind me of {e}'s {r}.",
    "Enter the {r} of {e} here: ",
    "{t} shows {e}. What is the {r}?",
    "In the output of {t} there is {e}, and I want the {r}.",
    "{e} turned up in {t}, which {r} does it have?",
    "{t} asks for the {r} of {e}.",
)
_QUESTION_FRAMES = (
    *["{q}"] * 16,
    "Quick question: {q}",
    "Hello! {q} Thanks a lot.",
    "{q} I need it for a report.",
    "Just wondering: {q}",
    "Sorry to bother you. {q}",
    "Please answer this for me: {q}",
    "{q} My boss wants to know.",
    "I can't remember. {q}",
    "I'm looking at {t}. {q}",
    "{q} I have to type it into {t}.",
)
_WHOLE = 0.55  # share of wordings that are whole questions of the relation
_LOWER = 0.2  # share of wordings without capitals and marks, as people type them


@dataclass(frozen=True)
class Relation:
    """What can be asked of a kind of entity. names: noun phrases; questions: whole ones, with {e} in them."""

    kind: str
    names: tuple[str, ...]
    questions: tuple[str, ...]

    def ask(self, entity: str, chance: random.Random) -> str:
        """The relation of `entity`, asked in some way."""
        if self.questions and chance.random() < _WHOLE:
            question = chance.choice(self.questions).replace("{e}", entity)
            return _typed(chance.choice(_QUESTION_FRAMES).replace("{q}", question), chance)
        return ask_by_name(chance.choice(self.names), entity, chance)


def ask_by_name(relation: str, entity: str, chance: random.Random) -> str:
    """What is called `relation`, asked of `entity` in some way."""
    return _typed(chance.choice(_NAME_FRAMES).replace("{r}", relation).replace("{e}", entity), chance)


def _typed(text: str, chance: random.Random) -> str:
    text = text.replace("{t}", _tool(chance))
    if chance.random() < _LOWER:
        return text.lower().rstrip("?.!")
    return text[0].upper() + text[1:] if chance.random() < 0.9 else text


def _tool(chance: random.Random) -> str:
    """The name of a program, perhaps with an option."""
    name = "".join(chance.choices(string.ascii_lowercase, k=chance.randint(3, 6)))
    return f"{name} -{chance.choice(string.ascii_letters)}" if chance.random() < 0.5 else name


def load_relations() -> list[Relation]:
    """The relations of relations/*.txt."""
    folder = files(__package__) / "relations"
    sheets = sorted(folder.iterdir(), key=lambda sheet: sheet.name)
    return [each for sheet in sheets for each in parse_relations(sheet.read_text(encoding="utf-8").splitlines())]


def parse_relations(lines: Sequence[str]) -> list[Relation]:
    relations = []
    kind = ""
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            kind = line.strip("[] \n")
            continue
        names, _, questions = line.partition("|")
        relations.append(
            Relation(
                kind,
                tuple(name.strip() for name in names.split(",")),
                tuple(question.strip() for question in questions.split(";") if question.strip()),
            )
        )
    return relations
