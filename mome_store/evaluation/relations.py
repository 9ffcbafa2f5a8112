"""What can be known of an invented person: ten relations, the wordings that ask for each, and how an answer is drawn.

Each relation has three wordings to train on and five that are held out, one per style of `STYLES`. Held-out wordings
serve evaluation only: nothing may be trained, stored or calibrated on them, a shipped router included.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass

from mome_store.evaluation.vocabulary import (
    DISH_SIDES,
    DISH_THINGS,
    DISH_WAYS,
    FIRM_NAMES,
    FIRM_TRADES,
    FIRST_NAMES,
    MONTHS,
    PET_NAMES,
    TOWN_ENDS,
    TOWN_STARTS,
)

STYLES = ("formal", "terse", "chatty", "embedded", "imperative")


@dataclass(frozen=True)
class Relation:
    """One thing to know of a person.

    statement: the fact as a sentence, with {name} and {answer}. trained: three wordings, the question first.
    heldout: one wording for each style of `STYLES`; {lower} is the name in lower case. draw: a random answer.
    """

    name: str
    statement: str
    trained: tuple[str, str, str]
    heldout: tuple[str, str, str, str, str]
    draw: Callable[[random.Random], str]

    def ask(self, wording: str, person: str) -> str:
        return wording.format(name=person, lower=person.lower())


def _phone(rng: random.Random) -> str:
    return f"0{rng.randrange(100, 1000)} {rng.randrange(1000):03} {rng.randrange(10000):04}"


def _date(rng: random.Random) -> str:
    return f"{rng.randrange(1, 29)} {rng.choice(MONTHS)} {rng.randrange(1931, 2006)}"


def _town(rng: random.Random) -> str:
    return rng.choice(TOWN_STARTS) + rng.choice(TOWN_ENDS)


def _employer(rng: random.Random) -> str:
    return f"{rng.choice(FIRM_NAMES)} {rng.choice(FIRM_TRADES)}"


def _locker(rng: random.Random) -> str:
    return f"{rng.choice(string.ascii_uppercase)}-{rng.randrange(1000, 10000)}"


def _plate(rng: random.Random) -> str:
    letters = "".join(rng.choices("ABCDEFGHJKLMNPRSTUVWXYZ", k=5))
    return f"{letters[:2]}{rng.randrange(100):02} {letters[2:]}"


def _first_name(rng: random.Random) -> str:
    return rng.choice(FIRST_NAMES)


def _dish(rng: random.Random) -> str:
    return f"{rng.choice(DISH_WAYS)} {rng.choice(DISH_THINGS)} with {rng.choice(DISH_SIDES)}"


def _university(rng: random.Random) -> str:
    return f"University of {_town(rng)}"


def _pet(rng: random.Random) -> str:
    return rng.choice(PET_NAMES)


RELATIONS = (
    Relation(
        "phone number",
        "The phone number of {name} is {answer}.",
        (
            "What is the phone number of {name}?",
            "Which number do I dial to reach {name}?",
            "Give me {name}'s phone number.",
        ),
        (
            "Would you kindly inform me of the telephone number at which {name} may be contacted?",
            "{lower} phone no",
            "I promised to call {name} tonight and lost the note again, what was the number?",
            "Do you happen to know what telephone number belongs to {name}?",
            "{name}: look up the telephone number and tell me.",
        ),
        _phone,
    ),
    Relation(
        "date of birth",
        "The date of birth of {name} is {answer}.",
        ("When was {name} born?", "What is {name}'s date of birth?", "On which day was {name} born?"),
        (
            "For our records, kindly state the date on which {name} was born.",
            "{lower} birth date",
            "I'd like to send {name} a birthday card but forgot the date. Which day and year is it?",
            "Could you tell me on what date {name} came into the world?",
            "{name}: give the full birth date.",
        ),
        _date,
    ),
    Relation(
        "town of birth",
        "The town of birth of {name} is {answer}.",
        ("In which town was {name} born?", "What is {name}'s town of birth?", "Where was {name} born?"),
        (
            "Please state the municipality in which {name} was born.",
            "{lower} birthplace",
            "We're putting together our family tree and I still need {name}'s birthplace, which town was it?",
            "Do you know what place {name} was born in?",
            "{name}: name the town where the birth took place.",
        ),
        _town,
    ),
    Relation(
        "employer",
        "The employer of {name} is {answer}.",
        ("Who employs {name}?", "Which company does {name} work for?", "What is the name of {name}'s employer?"),
        (
            "May I ask by which organisation {name} is at present employed?",
            "{lower} works at",
            "I met {name} at a party and couldn't recall where they have their job these days, which firm is it?",
            "I'd like to find out at what company {name} is working.",
            "{name}: tell me the employer.",
        ),
        _employer,
    ),
    Relation(
        "locker number",
        "The locker number of {name} is {answer}.",
        (
            "What is {name}'s locker number?",
            "Which locker belongs to {name}?",
            "Tell me the number of {name}'s locker.",
        ),
        (
            "Kindly advise which locker has been assigned to {name}.",
            "{lower} locker",
            "I'm in the changing room with the bag of {name}. Which locker does it go into?",
            "Can you say what locker {name} was given?",
            "{name}: state the locker.",
        ),
        _locker,
    ),
    Relation(
        "licence plate",
        "The licence plate of {name}'s car is {answer}.",
        (
            "What is the licence plate of {name}'s car?",
            "Which number plate does {name}'s car have?",
            "Give me {name}'s licence plate.",
        ),
        (
            "Please provide the registration number of the vehicle owned by {name}.",
            "{lower} car plate",
            "Someone has parked in front of my garage and I think it's {name}. What does their number plate say?",
            "I wonder what is written on the licence plate of the car that {name} drives.",
            "{name}: read out the car's registration.",
        ),
        _plate,
    ),
    Relation(
        "spouse",
        "The first name of {name}'s spouse is {answer}.",
        (
            "What is the first name of {name}'s spouse?",
            "Who is {name} married to?",
            "What is {name}'s husband or wife called?",
        ),
        (
            "Might I enquire after the given name of the person to whom {name} is married?",
            "{lower} spouse first name",
            "I'm writing an anniversary card to {name} and their better half, what was the partner's first name again?",
            "Do you remember what the person that {name} married is called?",
            "{name}: name the spouse.",
        ),
        _first_name,
    ),
    Relation(
        "favourite dish",
        "The favourite dish of {name} is {answer}.",
        (
            "What is {name}'s favourite dish?",
            "Which dish does {name} like best?",
            "What does {name} like to eat most of all?",
        ),
        (
            "Kindly indicate the dish that {name} prefers above all others.",
            "{lower} fav food",
            "{name} is coming over for dinner on Friday and I'd like to cook their favourite. What is it?",
            "I'd love to know what meal {name} enjoys more than any other.",
            "{name}: tell me the best-loved meal.",
        ),
        _dish,
    ),
    Relation(
        "university",
        "The university that {name} attended is the {answer}.",
        ("Which university did {name} attend?", "Where did {name} study?", "What is the name of {name}'s university?"),
        (
            "Please specify the institution of higher education from which {name} graduated.",
            "{lower} alma mater",
            "I have a feeling that {name} and I were students at the same place, which university were they at?",
            "Can you tell me at what university {name} took a degree?",
            "{name}: name the university.",
        ),
        _university,
    ),
    Relation(
        "pet",
        "The name of {name}'s pet is {answer}.",
        (
            "What is the name of {name}'s pet?",
            "What is {name}'s pet called?",
            "Which name did {name} give the pet?",
        ),
        (
            "Would you be so good as to tell me how the animal companion of {name} is named?",
            "{lower} pet name",
            "I'm looking after the pet of {name} next week and don't know what to shout when it runs off. Its name?",
            "Do you know what name the pet of {name} answers to?",
            "{name}: say what the pet is called.",
        ),
        _pet,
    ),
)
