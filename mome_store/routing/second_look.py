"""A question that found nothing, looked at once more: with the names of the fact that it is likeliest about.

The tagger may take what is asked for a part of the name: in "dalia m. steiner alma mater" no capital tells where the
name ends. Where a text has the whole name of the likeliest group, words that are not of it may ask instead. Then it is
read again with this name alone. What it asks must be nearer to the group so, since the words that are left may as well
have been of a longer name: in "paris hilton birthplace", where the birthplace of Paris is known, "hilton" makes the
question no likelier.
"""

from __future__ import annotations

from mome_store.routing.gate import Reading, Wordings
from mome_store.routing.words import capital_inside, in_one_case, plain_words

_NAMED = 0.5  # a word as likely a name as this is taken for one
_POSSIBLY = 0.15  # and so is one of the group's words from here on
_UNKNOWN = 1.0  # how rare a word is that the encoder does not know


def names_of_group(text: str, reading: Reading, group: Wordings) -> frozenset[str] | None:
    """The words of the text that are the group's names, if all that the group has are there and others, that may ask
    instead, were taken for names as well; else None.

    Words with digits, or with a capital where the text has both cases, are names, whosever, and so are words between
    those of the group's name.
    """
    common = group.common or {}
    if any(rare >= _UNKNOWN and word not in reading.words for word, rare in common.items()):
        return None
    capitals_tell = not in_one_case(text)
    words = plain_words(text)
    own: list[int] = []
    doubtful: list[int] = []
    for place, word in enumerate(words):
        likely = reading.words[word.text]
        if word.text in common:
            own += [place] if likely >= _POSSIBLY else []
        elif likely >= _NAMED:
            if (capitals_tell and capital_inside(text, word.start)) or any(c.isdigit() for c in word.text):
                return None
            doubtful.append(place)
    if not own or not doubtful or any(own[0] < place < own[-1] for place in doubtful):
        return None
    return frozenset(words[place].text for place in own)
