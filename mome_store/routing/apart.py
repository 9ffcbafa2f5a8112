"""In which ways a text may be several questions, as its words tell.

Two steps. A text is cut into clauses, whole questions each, with what is said before a question kept to it ("I forgot
my notes. What is her number?" is one). Pronouns of later clauses are given the name that they stand for. Then the
joints of each clause are looked at ("and", commas in a list): the words on one side of a joint belong to one part
alone, and the others are shared, but the text does not say which. So each part is worded in a few ways, with more or
fewer of the words that it may share, and several.py lets the gate find out.

The rules are of English. A text of another language is one question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mome_store.routing.names import EMPTY, LINKING, PRONOUNS, WORD, Names, stands_out
from mome_store.routing.words import fold

MOST_PARTS = 16
"""Longer lists are left whole: each part costs the encoder several texts."""
MOST_WORDINGS = 4
"""Of a part."""
_MOST_WORDS = 120  # of a question: a longer text is hardly one
_SHORT = 8  # words: a question without a verb, as people type it
_LONG = 12  # words: more than two relations of one thing differ in

_WH = r"(?:what|which|who|whom|whose|when|where|why|how)(?:['’]s)?"
_PREPOSITION = r"(?:in|on|at|to|by|from|for|with|of|under)"
_REQUEST = (
    r"(?:tell|give|show|send|name|state|list|find|look\s+up|read\s+out|say"
    r"|indicate|provide|specify|advise|inform|enquire|inquire)\b"
)
_NAMED = r"(?:[^\s,:;?!]+\s+){0,5}[^\s,:;?!]+:\s"  # "Ada Brandt: "
_POLITE = r"(?:please\s+|kindly\s+)?"
_OPENING = (
    rf"(?:{_NAMED}|(?:{_PREPOSITION}\s+)?{_WH}\b|{_POLITE}{_REQUEST}|(?:might|may)\s+I\b"
    r"|(?:do|did|can|could|would|will)\s+you\b)"
)
_AND = r"(?:and\s+also|and|as\s+well\s+as|along\s+with|plus|also|&)"

_ASKS = re.compile(rf"\b(?:{_WH}|{_REQUEST})\b", re.IGNORECASE)
_OPENS = re.compile(rf"(?:(?:for|as)\b[^,]*,\s+)?{_OPENING}", re.IGNORECASE)
_SENTENCE = re.compile(rf"(?:(?:(?<=[?!;])|(?<=\w\w\.))\s+|\s*\n+\s*)(?P<and>{_AND}\b,?\s+)?", re.IGNORECASE)
_CLAUSE = re.compile(rf"\s*[,;]?\s+{_AND},?\s+(?={_OPENING})", re.IGNORECASE)
_COMMA_CLAUSE = re.compile(rf",\s+{_OPENING}", re.IGNORECASE)
_JOINT = re.compile(rf"\s*,?\s+{_AND}\s+", re.IGNORECASE)
_JOINT_OR_COMMA = re.compile(rf"\s*,?\s+{_AND}\s+|\s*[,;]\s+", re.IGNORECASE)
_BARE_WH = re.compile(rf"(?:{_PREPOSITION}\s+)?{_WH}\b", re.IGNORECASE)
_OF_BOTH = re.compile(r"\b(?:between|same|difference|compare|together|each\s+other|in\s+common)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Joint:
    """Where a text is taken apart: the folded words on both sides."""

    left: str
    right: str

    def stands_in(self, wording: str) -> bool:
        """Whether a wording has the two words with nothing but "and" between them."""
        words = [fold(word) for word in re.findall(r"\w+", wording)]
        return (self.left, self.right) in pairwise(word for word in words if word != "and")


@dataclass(frozen=True)
class Split:
    """A clause as several questions: each part in several wordings, the plainest first.

    certain: there are names at all joints, so that several things are asked for, whatever the store holds.
    """

    parts: tuple[tuple[str, ...], ...]
    joints: tuple[Joint, ...]
    certain: bool


@dataclass(frozen=True)
class Clause:
    """A whole question, and the ways in which it may be several."""

    text: str
    splits: tuple[Split, ...]

    @property
    def asks(self) -> bool:
        """Whether it is a question by its words, which what people type need not be ("ada brandt phone")."""
        return _ASKS.search(self.text) is not None

    @property
    def asks_at_once(self) -> bool:
        """Whether it begins as a question or a request, with nothing told before it."""
        return _OPENS.match(self.text) is not None


@dataclass(frozen=True)
class Compound:
    """A text that may need several facts: its clauses, and the joints between them."""

    clauses: tuple[Clause, ...]
    joints: tuple[Joint, ...]

    def texts(self) -> Iterator[str]:
        """Every text that the gate is to decide on."""
        for clause in self.clauses:
            yield clause.text
            for split in clause.splits:
                for wordings in split.parts:
                    yield from wordings


@dataclass(frozen=True)
class _Sentence:
    """joined: begins with an "and", which is left out. cut: a new line or a semicolon is before or after it."""

    text: str
    joined: bool
    cut: bool

    @property
    def short(self) -> bool:
        return len(WORD.findall(self.text)) <= _SHORT


def take_apart(text: str, likely: Mapping[str, float]) -> Compound | None:
    """How a text may be several questions; None where it can't, which is soon found out where it has no joint.

    likely: how likely each of its words (folded) names an entity, as in `Reading.words`.
    """
    text = text.strip()
    joined = _JOINT_OR_COMMA.search(text) or _SENTENCE.search(text)
    if not joined or len(WORD.findall(text)) > _MOST_WORDS:
        return None
    names = Names(likely)
    pieces, joints = _clauses(text, names)
    clauses: list[Clause] = []
    named: str | None = None
    for piece in pieces:
        whole = names.resolved(piece, named)
        clauses.append(Clause(whole, tuple(_splits(whole, names))))
        named = names.surest(whole) or named
    if len(clauses) > MOST_PARTS or not (len(clauses) > 1 or clauses[0].splits):
        return None
    return Compound(tuple(clauses), joints)


def _clauses(text: str, names: Names) -> tuple[list[str], tuple[Joint, ...]]:
    """The whole questions in a text, with what is said before each, and the joints between them."""
    pieces: list[str] = []
    joints: list[Joint] = []
    before = ""  # said before the question that it belongs to
    sentences = _sentences(text)
    for sentence, after in zip(sentences, [*sentences[1:], None], strict=True):
        if not (sentence.cut and sentence.short) and not _asks(sentence, after, names):
            if sentence.joined and sentence.short and pieces and not before:
                pieces[-1] = f"{pieces[-1].rstrip('?.; ')} and {sentence.text}"  # "And of Bo?"
            else:
                before = f"{before} {sentence.text}".strip()
            continue
        for piece in _questions_in(sentence.text, names):
            if pieces:
                joints.append(_joint(pieces[-1], piece))
            pieces.append(f"{before} {piece}".strip())
            before = ""
    if before:
        pieces = [*pieces[:-1], f"{pieces[-1]} {before}"] if pieces else [before]
    return pieces, tuple(joints)


def _sentences(text: str) -> list[_Sentence]:
    found = []
    start, joined, cut = 0, False, False
    for match in _SENTENCE.finditer(text):
        cuts = "\n" in match.group() or text[match.start() - 1] == ";"
        found.append(_Sentence(text[start : match.start()], joined, cut or cuts))
        start, joined, cut = match.end(), match["and"] is not None, cuts
    return [*found, _Sentence(text[start:], joined, cut)]


def _asks(sentence: _Sentence, after: _Sentence | None, names: Names) -> bool:
    """Whether a sentence is a question, and not what is said before one: "I forgot what it was called. Its name?"."""
    if not _ASKS.search(sentence.text):
        return False
    if sentence.text.endswith("?") or _OPENS.match(sentence.text) or after is None:
        return True
    return after.joined or bool(names.of(after.text))


def _questions_in(sentence: str, names: Names) -> list[str]:
    """A sentence cut where one question ends and "and" with another follows."""
    pieces, start = [], 0
    for match in _CLAUSE.finditer(sentence):
        left, right = sentence[start : match.start()], sentence[match.end() :]
        asks = _ASKS.search(left) or (len(WORD.findall(left)) <= _SHORT and names.of(left))
        told = any(fold(word) not in EMPTY for word in WORD.findall(left))
        if asks and told and _says_something(right) and not _goes_without_saying(right, names):
            pieces.append(left)
            start = match.end()
    return [*pieces, sentence[start:]]


def _goes_without_saying(text: str, names: Names) -> bool:
    """Whether a question leaves to the one before it what it asks about: "and where?", "and in which town?"."""
    words = [fold(word) for word in WORD.findall(text)]
    return len(words) <= 4 and not names.of(text) and not any(word in PRONOUNS for word in words)


def _splits(text: str, names: Names) -> Iterator[Split]:
    """The ways in which one clause may ask for several things."""
    if _COMMA_CLAUSE.search(text):
        return  # it tells more than it asks
    ends = [*(match.start() for match in _SENTENCE.finditer(text)), len(text)]
    asking = [(start, end) for start, end in pairwise([0, *ends]) if _ASKS.search(text, start, end)] or [(0, len(text))]
    ands, all_joints = (
        [joint for joint in pattern.finditer(text) if any(start <= joint.start() < end for start, end in asking)]
        for pattern in (_JOINT, _JOINT_OR_COMMA)
    )
    ways = [ands, all_joints, *([joint] for joint in ands[:3])]
    seen: set[tuple[int, ...]] = set()
    for joints in ways:
        places = tuple(joint.start() for joint in joints)
        if not 1 <= len(joints) < MOST_PARTS or places in seen:
            continue
        seen.add(places)
        edges = [0, *(edge for joint in joints for edge in joint.span()), len(text)]
        pieces = [text[start:stop].strip() for start, stop in zip(edges[::2], edges[1::2], strict=True)]
        if not all(_says_something(piece) for piece in pieces[1:]):
            continue
        named = _named_throughout(pieces, names)
        if _OF_BOTH.search(text) if named else any(len(WORD.findall(piece)) > _LONG for piece in pieces[1:]):
            continue
        parts = tuple(_wordings(pieces, place, named, names) for place in range(len(pieces)))
        if all(parts):
            yield Split(parts, tuple(_joint(*pair) for pair in pairwise(pieces)), certain=named)


def _named_throughout(pieces: Sequence[str], names: Names) -> bool:
    """Whether each joint has a name on its left, and on its right one but for words like "of the"."""
    for left, right in pairwise(pieces):
        before, after = names.of(left), names.of(right)
        if not before or not after or WORD.search(left, before[-1][1]):
            return False
        if any(fold(word.group()) not in LINKING for word in WORD.finditer(right, 0, after[0][0])):
            return False
    return True


def _wordings(pieces: Sequence[str], place: int, named: bool, names: Names) -> tuple[str, ...]:
    """One part as a question of its own: its piece, with more or fewer of the words that all parts share.

    named: there are names at all joints; then what is before and after them is shared.
    """
    first, piece, last = pieces[0], pieces[place], pieces[-1]
    heads = _heads(first, named, names) if place else [""]
    tails = _tails(last, named, names) if place < len(pieces) - 1 else [""]
    found: list[str] = []
    if named and place:
        piece = piece[names.of(piece)[0][0] :]  # "of Bo": the head has the "of"
    elif place:
        resolved = names.resolved(piece, names.surest(first))
        if resolved != piece:
            found.append(resolved)
        elif _BARE_WH.match(piece) and not names.of(piece):
            # "When was Ada born, and where?": the first part goes on
            words = list(WORD.finditer(first))[:4]
            found += [f"{piece.rstrip('?. ')} {first[word.end() :].strip()}" for word in words]
        piece = resolved
    order = sorted((i + j, i, j) for i in range(len(heads)) for j in range(len(tails)))
    found += [_joined(heads[i], piece, tails[j]) for _, i, j in order]
    asking = [text for text in dict.fromkeys(found) if not _only_names(text, names)]
    return tuple(asking[:MOST_WORDINGS])


def _joined(head: str, piece: str, tail: str) -> str:
    """The three as one text, without the same word on both sides of a seam ("the" "the date of birth")."""
    words, after = head.split(), piece.split()
    if words and after and words[-1].lower() == after[0].lower():
        words.pop()
    return " ".join([*words, *after, *tail.split()])


def _heads(first: str, named: bool, names: Names) -> list[str]:
    """Beginnings of the first piece that the other parts may share, the likeliest first."""
    if named:
        return [first[: names.of(first)[-1][0]].strip()]
    spans = names.chief(first)
    linking = [word.end() for word in WORD.finditer(first) if fold(word.group()) in EMPTY]
    if not spans:
        likeliest = max(linking, default=0)
    elif WORD.search(first, spans[-1][1]):
        likeliest = spans[-1][1]
    else:
        likeliest = spans[-1][0]
    if first[likeliest : likeliest + 1] == ":":
        likeliest += 1
    others = [0, *reversed(linking)]
    if spans and not stands_out(first[slice(*spans[-1])]):
        others = [word.end() for word in reversed(list(WORD.finditer(first))[:-1])]  # where the name ends is uncertain
    return [first[:end].strip() for end in dict.fromkeys((likeliest, *others))]


def _tails(last: str, named: bool, names: Names) -> list[str]:
    """Ends of the last piece that the other parts may share, the likeliest first."""
    words = list(WORD.finditer(last))
    spans = names.of(last) if named else names.chief(last)
    starts = [len(last)]
    if named:
        starts = [spans[0][1]]
    elif match := _BARE_WH.match(last):
        starts.insert(0, match.end())
    elif spans:
        start = spans[0][0]
        before = [word for word in words if word.end() <= start]
        while before and fold(before[-1].group()) in LINKING:
            start = before.pop().start()
        starts.insert(0, start)
    if spans and not stands_out(last[slice(*spans[0])]):
        starts += [word.start() for word in reversed(words[1:]) if word.end() <= spans[0][1]]
    tails = (last[start:].strip() for start in starts)
    return list(dict.fromkeys(tail if WORD.search(tail) else "" for tail in tails))


def _says_something(text: str) -> bool:
    """Whether a word names or asks for a thing: none in "tell me" does, "where" does."""
    words = (fold(word) for word in WORD.findall(text))
    return bool(_BARE_WH.match(text)) or any(word not in EMPTY for word in words)


def _only_names(text: str, names: Names) -> bool:
    """Whether no word but those of names with capitals or digits is left to say what is asked: gates open for some."""
    spans = [(start, stop) for start, stop in names.of(text) if stands_out(text[start:stop])]
    words = [word for word in WORD.finditer(text) if fold(word.group()) not in EMPTY]
    return all(any(start <= word.start() and word.end() <= stop for start, stop in spans) for word in words)


def _joint(left: str, right: str) -> Joint:
    before, after = re.findall(r"\w+", left), re.findall(r"\w+", right)
    return Joint(fold(before[-1]) if before else "", fold(after[0]) if after else "")
