"""The words of a text, as they are compared: folded, with what their order decides put in as words of its own.

Also a text without the names in it, which is how a router sees what is asked, whoever it is asked of.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

PLACEHOLDER = "this"
"""Stands for the entity where its name is left out."""
_BRIDGED = 3  # letters of a word between two names that belongs to them: "University of Oslo", "Vincent van Gogh"
_APOSTROPHES = ("'", "\u2019")
_WORD = re.compile(r"\w+")
_INITIAL = re.compile(r"\b\w\.$")
_IDENTIFIER = re.compile(r"\w+(?:[:./_#-]\w+)+")


@dataclass(frozen=True)
class Word:
    """A word and the characters of the text that it stands on."""

    text: str
    start: int
    end: int


def words_of(text: str) -> list[Word]:
    """The words, and where their order tells one name from another, more:

    "8086:15f3" whole beside its parts, for the parts alone may be anyone's; and each initial with the word before and
    the word after it, since "J. P. Marat" is not "P. J. Marat".
    """
    plain = plain_words(text)
    found = list(plain)
    for match in _IDENTIFIER.finditer(text):
        if any(c.isdigit() for c in match.group()):
            found.append(Word(fold(match.group()), *match.span()))
    for first, second in pairwise(plain):
        if _initial(first, text) or _initial(second, text):
            found.append(Word(f"{first.text} {second.text}", first.start, second.end))
    return found


def plain_words(text: str) -> list[Word]:
    """The words alone."""
    return [Word(fold(match.group()), *match.span()) for match in _WORD.finditer(text)]


def _initial(word: Word, text: str) -> bool:
    """A letter that stands alone, other than what an apostrophe cut off."""
    return len(word.text) == 1 and text[max(0, word.start - 1) : word.start] not in _APOSTROPHES


def begins_sentence(text: str, start: int) -> bool:
    """Whether the word that starts there is a sentence's first: the dot of an initial ends none."""
    before = text[:start].rstrip()
    return not before or (before[-1] in ".?!:" and not _INITIAL.search(before))


def in_one_case(text: str) -> bool:
    """Whether capitals tell nothing, as the text has none or nothing else."""
    return text in (text.lower(), text.upper())


def capital_inside(text: str, start: int) -> bool:
    """Whether the word that starts there has a capital that is not a sentence's."""
    return text[start].isupper() and not begins_sentence(text, start)


def without_names(text: str, words: Sequence[Word], named: Sequence[bool]) -> str:
    """The text with `PLACEHOLDER` in place of each name. named: of each word whether it belongs to a name.

    Names that are neighbours are one, also with a short word between them.
    """
    spans: list[tuple[int, int]] = []
    last = -1  # the last named word
    for place, word in enumerate(words):
        if not named[place]:
            continue
        joined = last >= 0 and (last == place - 1 or (last == place - 2 and len(words[place - 1].text) <= _BRIDGED))
        start = spans.pop()[0] if joined else word.start
        spans.append((start, word.end))
        last = place
    for start, end in reversed(spans):
        text = text[:start] + PLACEHOLDER + text[end:]
    return text


def fold(text: str) -> str:
    """Without case and accents: people type names as their keyboards let them."""
    if text.isascii():
        return text.lower()
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
