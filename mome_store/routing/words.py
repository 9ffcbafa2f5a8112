"""The words of a text, as they are compared: folded, with what their order decides put in as words of its own."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise

_WORD = re.compile(r"\w+")
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
    plain = [Word(fold(match.group()), *match.span()) for match in _WORD.finditer(text)]
    found = list(plain)
    for match in _IDENTIFIER.finditer(text):
        if any(c.isdigit() for c in match.group()):
            found.append(Word(fold(match.group()), *match.span()))
    for first, second in pairwise(plain):
        if len(first.text) == 1 or len(second.text) == 1:
            found.append(Word(f"{first.text} {second.text}", first.start, second.end))
    return found


def fold(text: str) -> str:
    """Without case and accents: people type names as their keyboards let them."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
