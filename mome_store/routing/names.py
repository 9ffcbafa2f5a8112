"""Where names stand in a question, and whom its pronouns mean: what the router's tagger tells, made whole by rules."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mome_store.routing.words import capital_inside, fold

_LIKELY = 0.5  # how likely a word must be a name to be one
_POSSIBLY = 0.15  # and one beside such a word
WORD = re.compile(r"\w+(?:['’]\w+|['’](?!\w))?")  # "Ada's" and "Jonas'" are one
_POSSESSIVE = re.compile(r"['’]s?$")

_PERSONAL = frozenset(("she", "he", "they", "it", "her", "him", "them"))
_POSSESSIVES = frozenset(("his", "their", "its"))
PRONOUNS = _PERSONAL | _POSSESSIVES
LINKING = frozenset(
    WORD.findall(
        "a an the this that these those of in on at to for by from with near about is are was were be do does did has "
        "have had can could would will shall also and or as what which who whom whose when where why how"
    )
)
EMPTY = PRONOUNS.union(
    LINKING,
    WORD.findall("i me my we us our you your tell give show send name state list find look read say please kindly"),
)
"""Words that neither name a thing nor say what is asked of it."""


class Names:
    """Finds them in texts. likely: how likely each word (folded) names an entity, as in `Reading.words`."""

    def __init__(self, likely: Mapping[str, float]) -> None:
        self._likely = likely

    def of(self, text: str) -> list[tuple[int, int]]:
        """From where to where each name goes.

        Words that the encoder takes for names, that have a digit, or a capital inside a sentence; the possible ones
        beside these; and "in" or "of" between two that are written alike.
        """
        words = list(WORD.finditer(text))
        value = [self._value(word.group()) for word in words]
        sure = [
            likely >= _LIKELY
            or (likely >= 0 and (any(c.isdigit() for c in word.group()) or capital_inside(text, word.start())))
            for word, likely in zip(words, value, strict=True)
        ]
        for places in (range(1, len(words)), range(len(words) - 2, -1, -1)):
            for place in places:
                sure[place] |= sure[place - places.step] and value[place] >= _POSSIBLY
        found: list[tuple[int, int]] = []
        for word in (word for word, named in zip(words, sure, strict=True) if named):
            if found and _goes_on(text[slice(*found[-1])], text[found[-1][1] : word.start()], word.group()):
                found[-1] = (found[-1][0], word.end())
            else:
                found.append(word.span())
        return found

    def words(self, text: str) -> set[str]:
        """The words of the names, folded, without possessives."""
        names = (_POSSESSIVE.sub("", text[slice(*span)]) for span in self.of(text))
        return {fold(word) for name in names for word in re.findall(r"\w+", name)}

    def chief(self, text: str) -> list[tuple[int, int]]:
        """Of these the ones with capitals or digits, if any has."""
        found = self.of(text)
        return [span for span in found if stands_out(text[slice(*span)])] or found

    def surest(self, text: str) -> str | None:
        """The name that a pronoun after this text stands for: the likeliest one, with capitals or digits if one has."""

        def surety(name: str) -> tuple[bool, float]:
            values = [self._likely.get(fold(word), 0.0) for word in re.findall(r"\w+", name)]
            return stands_out(name), sum(values) / len(values)

        return max((self._without_rest(text[slice(*span)]) for span in self.of(text)), key=surety, default=None)

    def resolved(self, text: str, named: str | None) -> str:
        """The text with the name in place of pronouns, up to where it names somebody itself."""
        if named is None:
            return text
        own = min((start for start, _ in self.of(text)), default=len(text))

        def name(match: re.Match[str]) -> str:
            word = match.group().lower()
            after = WORD.match(text, match.end() + 1)
            owns = word in _POSSESSIVES or (word == "her" and after is not None and fold(after.group()) not in LINKING)
            if match.start() > own or not (owns or word in _PERSONAL):
                return match.group()
            return f"{named}'s" if owns else str(named)

        return WORD.sub(name, text)

    def _without_rest(self, name: str) -> str:
        """A name alone: without its possessive, and where others of its words have capitals or digits without small
        ones at its end that are hardly of it ("Bo Chen born").
        """
        own = [
            word.end()
            for word in WORD.finditer(name)
            if stands_out(word.group()) or self._value(word.group()) >= _LIKELY
        ]
        if stands_out(name) and own:
            name = name[: own[-1]]
        return _POSSESSIVE.sub("", name)

    def _value(self, word: str) -> float:
        """How likely a word is of a name; below 0 where it can't be."""
        plain = fold(_POSSESSIVE.sub("", word))
        return -1.0 if plain in EMPTY else max(self._likely.get(part, 0.0) for part in re.findall(r"\w+", plain))


def stands_out(name: str) -> bool:
    """Whether capitals or digits tell where a name begins and ends."""
    return name != name.lower() or any(c.isdigit() for c in name)


def _goes_on(name: str, gap: str, word: str) -> bool:
    """Whether a word is of the same name as what is before the gap: "room Helsinki", "Airport in Tonopah"."""
    between = WORD.findall(gap)
    if _POSSESSIVE.search(name) or re.search(r"[:;?!]\s", gap):
        return False
    if not between:
        return True
    alike = WORD.findall(name)[-1][0].isupper() == word[0].isupper()
    return alike and all(fold(each) in LINKING for each in between)
