"""Invented things to ask about: names of every kind that relations/*.txt know, and near twins of a name.

All of it is drawn from a seed. Names are put together from parts, so that no name of the real world, and none that an
evaluation uses, is learnt by heart.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence


def _list(names: str) -> list[str]:
    return names.split("|")


_ONSETS = _list("b|br|c|ch|d|dr|f|fl|g|gr|h|j|k|kl|l|m|n|p|pr|r|s|sch|st|t|tr|v|w|z")
_VOWELS = _list("a|e|i|o|u|ai|ei|ia|io|ou")
_CODAS = _list("b|ck|d|f|g|l|ld|lt|m|n|nd|ng|nt|r|rk|rt|s|sk|st|t|x")
_SURNAME_ENDS = _list("son|sen|ski|ska|ova|ov|ez|ini|elli|ert|mann|berg|stein|wood|ley|ton|kar|wala|oglu|idis|nen|li")
_PLACE_ENDS = _list("burg|ton|ville|dorf|ham|stad|grad|pur|abad|holm|mouth|ford|field|bach")
_COMPANY_ENDS = _list(
    "Ltd|Inc.|GmbH|AG|& Sons|Group|Systems|Logistics|Holdings|Works|Partners|Industries|Labs|Foods|SA"
)
_ADJECTIVES = _list(
    "silent|golden|broken|northern|last|hidden|blue|crooked|early|distant|iron|paper|hollow|second|wild|"
    "slow|bitter|crimson|empty|frozen|gentle|narrow|restless|secret|tall|young|ancient|bright|cold|deep"
)
_NOUNS = _list(
    "river|garden|lamp|harbour|winter|mirror|orchard|bridge|feather|engine|window|mountain|letter|island|"
    "needle|clock|shadow|compass|lantern|tower|forest|violin|kettle|anchor|meadow|ladder|crown|saddle|"
    "wheel|furnace|valley|comet"
)
_FUNCTIONS = _list("web|db|mail|build|cache|auth|files|proxy|print|backup|git|mon|dns|ldap|queue|search")
_PARTS = _list("bearing|valve|gasket|hex bolt|relay|pump|filter|sensor|bracket|coupling|spindle|cable|fuse|seal|spring")
_PRODUCTS = _list("drill|camera|router|printer|headset|kettle|toaster|monitor|lawn mower|scanner|speaker|oven|watch")
_SPECIES = _list("warbler|beetle|salamander|bat|orchid|trout|fox|owl|viper|moth|gecko|heron|shrew|crab|finch")
_DISHES = _list("cake|stew|pie|soup|salad|bread|curry|pudding|dumplings|tart|casserole|gnocchi")
_SUBSTANCES = _list("chloride|oxide|nitrate|sulphate|acetate|phosphate|carbonate|bromide|acid|amine")
_EVENTS = _list("conference|fair|summit|marathon|festival|workshop|gala|hackathon|symposium|regatta")
_BUILDINGS = _list("tower|hall|library|warehouse|theatre|church|villa|station|clinic|museum")
_SUBJECTS = _list("algebra|botany|logic|optics|rhetoric|geology|statistics|drawing|harmony|ethics|mechanics")
_VEHICLES = _list("van|truck|bus|pickup|trailer|forklift|tractor|ambulance")
_RULES = _list("parking|fishing|noise|advertising|dog keeping|shop opening|waste burning|street music")
_SIMILAR = {"k": "c", "c": "k", "i": "y", "y": "i", "s": "z", "z": "s", "v": "w", "w": "v", "f": "ph", "t": "th"}
_RELATIVES = _list("Aunt|Uncle|Cousin|Grandma|Grandpa|Great-uncle|my niece|my nephew|my cousin|our uncle")
_RANKS = _list("Private|Corporal|Sergeant|Lieutenant|Captain|Major")
_HONORIFICS = _list("Mr|Mrs|Ms|Miss|Dr|Prof.")
_SPORTS = _list("runner|swimmer|boxer|rower|gymnast|goalkeeper|cyclist|fencer")
_PLAYERS = _list("pianist|singer|drummer|violinist|conductor|composer|cellist")
_WRITERS = _list("novelist|poet|author|essayist|playwright")
_PLANTS = _list("power station|dam|wind farm|solar park|hydro plant")
_HOSPITALS = _list("hospital|clinic|infirmary|medical centre|sanatorium")
_HOTELS = _list("Hotel|Pension|Gasthof|Hostel|Inn")
_STATIONS = _list("Radio|Wave|Antenne|Studio|Canal")
_BODIES = _list("ISO|EN|DIN|ANSI|IEC|BS")
_TABLES = _list("orders|invoice_line|customers|stock|events|payments|sessions|ledger|audit_log|tariffs")
_SHIPS = _list("MS|MV|SS|the|HMS")
_ORDERS = _list("order|invoice|contract|ticket|quote")
_TRAINS = _list("train|the express|IC|RE")
_TITLES = _list("Dr. |Mr |Ms |Professor ")
_SOMEWHERE = frozenset(_list("company|building|restaurant|place|team|colleague"))


class Entities:
    """Draws entities; the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._kinds: dict[str, Callable[[], str]] = {
            "company": self._company,
            "colleague": self._person,
            "product": lambda: f"the {self._word()} {self._pick(_PRODUCTS)} {self._model()}",
            "part": self._part,
            "host": self._host,
            "software": self._software,
            "building": self._building,
            "book": self._title,
            "film": self._title,
            "song": self._title,
            "ship": lambda: f"{self._pick(_SHIPS)} {self._pick([self._word(), self._two_words()])}",
            "place": self._place,
            "substance": lambda: f"{self._word().lower()} {self._pick(_SUBSTANCES)}",
            "species": lambda: f"the {self._word()} {self._pick(_SPECIES)}",
            "medicine": lambda: f"{self._word()}{self._pick(['', ' 5 mg', ' 10 mg', ' 50 mg', ' 100 mg', ' 500 mg'])}",
            "order": lambda: f"{self._pick(_ORDERS)} {self._code()}",
            "vehicle": lambda: f"{self._pick(['the', 'our'])} {self._pick(_VEHICLES)} {self._code()}",
            "team": self._team,
            "event": self._event,
            "project": lambda: f"project {self._pick([self._word(), self._two_words(), self._code()])}",
            "course": lambda: f"{self._pick(_SUBJECTS)} {self._random.randint(1, 499)}",
            "recipe": lambda: f"{self._pick([self._person(), self._town()])}'s {self._pick(_DISHES)}",
            "star": self._star,
            "account": lambda: f"account {self._pick([self._code(), self._digits(10)])}",
            "painting": self._title,
            "restaurant": self._restaurant,
            "train": lambda: f"{self._pick(_TRAINS)} {self._random.randint(1, 9999)}",
            "law": lambda: f"the {self._town()} rule on {self._pick(_RULES)}",
            **self._people(),
            **self._coded(),
            "hotel": lambda: f"{self._pick(['', 'the '])}{self._pick(_HOTELS)} {self._name()}",
            "hospital": lambda: f"{self._pick(['St. ', 'the ', ''])}{self._word()} {self._pick(_HOSPITALS)}",
            "bridge": lambda: f"the {self._name()} {self._pick(['bridge', 'Bridge', 'viaduct'])}",
            "lake": lambda: self._pick(
                [f"Lake {self._word()}", f"the {self._word()} reservoir", f"{self._word()} tarn"]
            ),
            "museum": lambda: f"the {self._town()} {self._pick(['museum', 'gallery'])} of {self._pick(_NOUNS)}s",
            "magazine": self._title,
            "radio station": lambda: f"{self._pick(_STATIONS)} {self._pick([self._word(), self._digits(1)])}",
            "power plant": lambda: f"the {self._pick([self._town(), self._word()])} {self._pick(_PLANTS)}",
            "harbour": lambda: f"{self._pick(['the port of', 'the harbour of', 'Port'])} {self._town()}",
            "language": lambda: (
                f"{self._pick(['', '', 'Upper ', 'Old '])}{self._word()}{self._pick(['ian', 'ish', 'i'])}"
            ),
            "battle": lambda: f"the {self._pick(['battle', 'siege', 'second battle'])} of {self._town()}",
            "board game": self._title,
        }

    @property
    def kinds(self) -> list[str]:
        return list(self._kinds)

    def _people(self) -> dict[str, Callable[[], str]]:
        def called(*before: str) -> Callable[[], str]:
            """The name of a person, often with one of these before it."""
            return lambda: f"{self._pick([f'{self._pick(before)} ', '']) if before else ''}{self._person()}"

        def addressed(*before: str) -> Callable[[], str]:
            return lambda: self._pick([called(*before)(), f"{self._pick(_HONORIFICS)} {self._surname()}"])

        return {
            "patient": addressed("patient", "the patient"),
            "customer": addressed("customer", "our client"),
            "tenant": addressed("tenant"),
            "athlete": called(*(f"the {each}" for each in _SPORTS)),
            "musician": called(*(f"the {each}" for each in _PLAYERS)),
            "traveller": addressed("the traveller", "tourist"),
            "household": lambda: f"the {self._surname()} {self._pick(['family', 'household'])}",
            "relative": lambda: f"{self._pick(_RELATIVES)} {self._word()}",
            "member": called("member", "our member"),
            "staff": lambda: self._pick([addressed("trainee")(), f"{self._surname()} {self._word()}"]),
            "author": called(*(f"the {each}" for each in _WRITERS)),
            "soldier": lambda: self._pick([self._person(), f"{self._pick(_RANKS)} {self._surname()}"]),
            "child": lambda: self._pick([self._word(), f"little {self._word()}", self._person()]),
            "witness": addressed("the witness", "witness"),
            "politician": addressed("Senator", "the MP"),
        }

    def _coded(self) -> dict[str, Callable[[], str]]:
        """Kinds of things that are known by an identifier."""

        def marked(code: Callable[[], str], *before: str) -> Callable[[], str]:
            """The code, often bare."""
            return lambda: f"{self._pick(['', '', *(f'{each} ' for each in before)])}{code()}"

        def prefix() -> str:
            return self._pick([":", "-", ""]).join(self._hexadecimal(2).upper() for _ in range(3))

        def grouped() -> str:
            return self._pick([" ", "-", ""]).join(self._digits(self._random.choice([2, 3, 3, 4])) for _ in range(3))

        def post() -> str:
            return self._pick(
                [
                    self._digits(5),
                    self._digits(4),
                    f"{self._letters(2)}{self._digits(1)} {self._digits(1)}{self._letters(2)}",
                ]
            )

        def hexadecimal() -> str:
            return f"0x{self._hexadecimal(self._random.choice([4, 8])).upper()}"

        return {
            "error code": marked(
                lambda: self._pick([f"{self._letters(3)}-{self._digits(5)}", hexadecimal(), self._model()]), "error"
            ),
            "MAC prefix": marked(prefix, "the prefix", "MAC prefix"),
            "USB vendor id": marked(lambda: f"{self._pick(['', '0x', 'VID_'])}{self._hexadecimal(4)}", "USB vendor"),
            "chemical registry number": marked(
                lambda: f"{self._digits(5)}-{self._digits(2)}-{self._digits(1)}", "CAS", "substance"
            ),
            "bank code": marked(grouped, "bank code", "sort code"),
            "customs tariff code": marked(
                lambda: f"{self._digits(4)}{self._pick(['.', ' '])}{self._digits(2)}", "tariff code", "heading"
            ),
            "postcode": marked(post, "postcode"),
            "database table": marked(
                lambda: f"{self._word().lower()}{self._pick(['.', '_'])}{self._pick(_TABLES)}", "the table"
            ),
            "register address": marked(lambda: self._pick([hexadecimal(), self._digits(5)]), "register"),
            "standard": marked(lambda: f"{self._pick(_BODIES)} {self._digits(self._random.choice([3, 4, 5]))}"),
            "barcode": marked(lambda: self._digits(self._random.choice([8, 12, 13])), "barcode", "EAN"),
            "bug report": marked(
                lambda: self._pick([f"{self._letters(4)}-{self._digits(4)}", f"#{self._digits(4)}"]), "issue", "ticket"
            ),
        }

    def draw(self, kind: str) -> str:
        """A name of this kind; some come with where they are, as in "X in Y" or "X (Y)"."""
        name = self._kinds[kind]()
        if kind in _SOMEWHERE and self._random.random() < 0.3:
            where = self._pick([self._town(), f"{self._town()}, {self._country()}"])
            name = self._pick([f"{name} in {where}", f"{name} ({where})", f"{name}, {where}", f"{name} of {where}"])
        return name

    def twin(self, entity: str) -> str:
        """Another entity whose name differs as little as two names may: a letter, a digit, a word."""
        words = entity.split()
        telling = [i for i, word in enumerate(words) if any(c.isdigit() or c.isupper() for c in word)]
        place = self._random.choice(telling or [len(words) - 1])
        changed = words[place]
        while changed.casefold() == words[place].casefold():
            changed = self._changed(words[place])
        return " ".join([*words[:place], changed, *words[place + 1 :]])

    def _changed(self, word: str) -> str:
        at = [i for i, c in enumerate(word) if c.isalnum()]
        if not at:
            return self._word()
        if any(c.isdigit() for c in word):
            i = self._random.choice([i for i, c in enumerate(word) if c.isdigit()])
            return word[:i] + self._pick(string.digits) + word[i + 1 :]
        way = self._random.random()
        i = self._random.choice(at[1:] or at)
        if way < 0.25:  # another word altogether: another first name, another town
            return self._word() if word[0].isupper() else self._word().lower()
        if way < 0.5 and word[i].lower() in _SIMILAR:
            return word[:i] + _SIMILAR[word[i].lower()] + word[i + 1 :]
        if way < 0.6:
            return word + self._pick(["s", "a", "e", "n", "er"])
        if way < 0.7 and len(at) > 3:
            return word[:i] + word[i + 1 :]
        if way < 0.8 and i + 1 < len(word) and word[i + 1].isalnum():
            return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
        letter = self._pick(string.ascii_lowercase)
        return word[:i] + (letter.upper() if word[i].isupper() else letter) + word[i + 1 :]

    def _pick(self, options: Sequence[str]) -> str:
        return self._random.choice(options)

    def _syllable(self) -> str:
        return self._pick(_ONSETS) + self._pick(_VOWELS)

    def _word(self) -> str:
        count = self._random.choice([1, 2, 2, 2, 3])
        return ("".join(self._syllable() for _ in range(count)) + self._pick([self._pick(_CODAS), ""])).capitalize()

    def _two_words(self) -> str:
        return f"{self._pick(_ADJECTIVES).title()} {self._pick(_NOUNS).title()}"

    def _person(self) -> str:
        title = self._pick(_TITLES) if self._random.random() < 0.1 else ""
        return f"{title}{self._word()} {self._initials()}{self._surname()}"

    def _surname(self) -> str:
        return (self._syllable() + self._pick(_SURNAME_ENDS)).capitalize()

    def _name(self) -> str:
        return self._pick([self._two_words(), self._word(), self._town()])

    def _initials(self) -> str:
        count = self._random.choices([0, 1, 2], weights=[8, 1, 1])[0]
        return "".join(f"{letter}. " for letter in self._random.choices(string.ascii_uppercase, k=count))

    def _town(self) -> str:
        return (self._syllable() + self._pick([self._syllable(), ""]) + self._pick(_PLACE_ENDS)).capitalize()

    def _country(self) -> str:
        return (self._syllable() + self._syllable() + self._pick(["ia", "land", "stan", "ana"])).capitalize()

    def _place(self) -> str:
        new = f"{self._pick(['New', 'Upper', 'San'])} {self._town()}"
        return self._pick([self._town(), self._country(), self._word(), new])

    def _company(self) -> str:
        name = self._pick([self._word(), self._two_words(), self._person().split()[-1]])
        return f"{name} {self._pick(_COMPANY_ENDS)}"

    def _building(self) -> str:
        kind = self._pick(_BUILDINGS)
        numbered = f"{kind} {self._random.randint(1, 99)}"
        return self._pick([f"the {self._word()} {kind}", numbered, f"the {self._town()} {kind}"])

    def _title(self) -> str:
        whose = self._pick([f"{self._pick(_NOUNS).title()} of", f"A {self._pick(_NOUNS).title()} for"])
        title = self._pick([f"The {self._two_words()}", self._two_words(), f"{whose} {self._word()}"])
        return self._pick([title, f'"{title}"', f"'{title}'"])

    def _software(self) -> str:
        name = self._word()
        return self._pick([name, name.lower(), f"{name}DB", f"lib{name.lower()}"])

    def _team(self) -> str:
        return self._pick([f"FC {self._town()}", f"{self._town()} {self._pick(_NOUNS).title()}s", f"SV {self._town()}"])

    def _event(self) -> str:
        year = self._pick(["", f" {self._random.randint(1950, 2030)}"])
        return f"the {self._pick([self._town(), self._word()])} {self._pick(_EVENTS)}{year}"

    def _star(self) -> str:
        numbered = f"HD {self._random.randint(1000, 399_999)}"
        return self._pick([self._word(), f"{self._word()} {self._pick('ABCbcde')}", numbered])

    def _restaurant(self) -> str:
        name = self._pick([self._two_words(), self._word()])
        return self._pick([f"the {name}", f"Café {name}", f"Chez {name}", f"Trattoria {name}", name])

    def _part(self) -> str:
        named = f"{self._pick(_PARTS)} {self._code()}"
        return self._pick([named, f"part {self._code()}", f"the {self._pick(_PARTS)} {self._model()}"])

    def _host(self) -> str:
        return self._pick(
            [
                f"{self._pick(_FUNCTIONS)}{self._random.randint(1, 99):02d}",
                f"{self._pick(_FUNCTIONS)}-{self._word().lower()}-{self._random.randint(1, 9)}",
                f"{self._word().lower()}.{self._word().lower()}.example",
                f"the server {self._word().lower()}",
            ]
        )

    def _model(self) -> str:
        return (
            f"{self._letters(self._random.randint(1, 3))}{self._pick(['-', '', ' '])}{self._random.randint(10, 9999)}"
        )

    def _code(self) -> str:
        """An identifier: what a sentence encoder blurs."""
        return self._pick(
            [
                self._digits(self._random.randint(3, 8)),
                f"{self._letters(2)}-{self._digits(4)}",
                f"{self._digits(2)}-{self._digits(3)}-{self._digits(2)}",
                f"{self._hexadecimal(4)}:{self._hexadecimal(4)}",
                ":".join(self._hexadecimal(2).upper() for _ in range(3)),
                f"{self._pick(string.ascii_uppercase)}{self._digits(3)}{self._pick(string.ascii_uppercase)}",
                f"#{self._digits(5)}",
            ]
        )

    def _letters(self, count: int) -> str:
        return "".join(self._random.choices(string.ascii_uppercase, k=count))

    def _digits(self, count: int) -> str:
        return "".join(self._random.choices(string.digits, k=count))

    def _hexadecimal(self, count: int) -> str:
        return "".join(self._random.choices("0123456789abcdef", k=count))
