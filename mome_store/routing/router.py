"""From questions to experts: score the query's key against all keys, let the keys vote, and let the gate decide.

Owned mode: the `top_k` nearest keys, by inner product, vote for their groups; a group's score is that of its best key.
With a trained router (`KeyEncoder`, the default) the gate then compares the nearest groups with the query in detail,
takes the likeliest, and opens when its probability reaches `threshold` (gate.py).

With an encoder alone the best group wins, and the gate opens when its score reaches `threshold` and its lead reaches
`margin`. The lead tells a fact in other words from a fact that the store does not hold: the latter lies between the
keys of several facts. With the best key k of the winner and the best key r of the runner-up, the lead is

    (q.k - q.r) / (k.k - k.r)

0 where q is as near to one as to the other and 1 where q is k itself, however alike the two facts are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mome_store.devices import check_torch_device, parse_device
from mome_store.errors import SchemaError
from mome_store.routing.apart import Compound, Joint, take_apart
from mome_store.routing.device_index import DeviceLimits, check_faiss_device, device_index
from mome_store.routing.encoder import QueryEncoder, SentenceEncoder, TokenEncoder
from mome_store.routing.gate import Reading, StoredWordings, Surroundings, Wordings, features
from mome_store.routing.hidden_states import HiddenStateEncoder
from mome_store.routing.index_cache import load_or_build_index
from mome_store.routing.key_encoder import KeyEncoder, keys_of_readings
from mome_store.routing.names import Names
from mome_store.routing.nearest import NearestKeys
from mome_store.routing.pool import PoolRouter
from mome_store.routing.projection import BLOCKS
from mome_store.routing.route import Part, Route
from mome_store.routing.second_look import names_of_group
from mome_store.routing.several import Decision, Judge, bar_of, unsettled
from mome_store.routing.words import fold, plain_words, words_of

if TYPE_CHECKING:
    from mome_store.store import Memory, Snapshot

DEFAULT_THRESHOLD = 0.70  # these two: of an encoder alone
DEFAULT_MARGIN = 0.40
_COMPARED = 4  # groups that the trained gate compares with a query
_IDENTIFIED = 256  # keys among whose groups those are looked for that have the query's identifiers
_NAMED = 0.5  # a word with a digit that is as likely a name is an identifier
_REMEMBERED = 1 << 16  # groups whose wordings are kept at hand
_NO_DISTANCE = 1e-6  # two groups with the very same key: the lead is then rounding noise, and must stay small


@dataclass(frozen=True)
class _Remembered:
    """What a group's questions are, and what the gate sees of them."""

    texts: tuple[str, ...]
    wordings: Wordings


@dataclass(frozen=True)
class Candidate:
    """A group that keys voted for: the score of its best key (inner product), and that key's place in the index."""

    group_id: int
    score: float
    key: int


class Router:
    """Finds the group for each question in one snapshot. Made by `Router.open`.

    Attributes: `encoder`, `threshold`, `margin`, `top_k`, `pool` (a PoolRouter where the store is a pool, else None),
    `index_device` (where the keys are searched).
    """

    def __init__(
        self,
        snapshot: Snapshot,
        encoder: QueryEncoder,
        top_k: int,
        threshold: float | None,
        margin: float | None,
        false_fire: float | None,
        several: bool,
        index_device: str,
        limits: DeviceLimits | None,
    ) -> None:
        if top_k < 1:
            raise SchemaError(f"top_k must be at least 1, found {top_k}")
        if encoder.dim != snapshot.key_dim:
            raise SchemaError(f"the store's keys have {snapshot.key_dim} dimensions, the encoder gives {encoder.dim}")
        self.encoder = encoder
        self.top_k = top_k
        self._asked = {"threshold": threshold, "margin": margin, "false_fire": false_fire}
        self._several = several
        self.index_device = index_device
        self._limits = limits
        self._remembered: dict[int, _Remembered] = {}
        self._load(snapshot)

    @classmethod
    def open(
        cls,
        snapshot: Snapshot,
        encoder: QueryEncoder | None = None,
        top_k: int = 32,
        device: str = "cpu",
        threshold: float | None = None,
        margin: float | None = None,
        false_fire: float | None = None,
        several: bool = True,
        index_device: str | None = None,
        limits: DeviceLimits | None = None,
    ) -> Router:
        """A router over `snapshot`'s keys.

        encoder: by default the one that the store remembers, on `device` ("cpu", "cuda" or "cuda:1"); one that is given
        stays where it is. index_device: where the keys are searched, with the same routes (device_index.py); by default
        `device`. limits: what the index may take there (`DeviceLimits`); a refresh holds the old one meanwhile.
        threshold, margin: by default those in the store's meta value "router", else the module's. false_fire: where a
        trained router is not told its threshold, the share of questions that no fact answers for which its gate may
        open; by default the meta value's, else `gate.FALSE_FIRE`, by kind of question. several: look for several facts
        in one query, where a trained router can (several.py); False: at most one group wins.
        Raises SchemaError for an encoder other than the store's; DeviceError for a device that FAISS or torch don't
        have, or that has no room for the keys. The cpu never stands in for it.
        """
        remembered = snapshot.encoder
        searched_on = device if index_device is None else index_device
        if parse_device(searched_on)[0] == "cuda":
            check_faiss_device(searched_on)  # before anything is loaded
        if encoder is None:
            check_torch_device(device)
            encoder = remembered_encoder(remembered, device)
        if remembered and remembered.get("fingerprint") not in (None, encoder.identity["fingerprint"]):
            raise SchemaError(
                f"{snapshot.path}: its keys were made by the encoder {_name(remembered)}; "
                f"{encoder.identity['name']} is another one (fingerprints differ)"
            )
        return cls(snapshot, encoder, top_k, threshold, margin, false_fire, several, searched_on, limits)

    def refresh(self, snapshot: Snapshot) -> None:
        """Route by `snapshot` from now on: its keys, and its gate where `open` was not told one."""
        if snapshot.key_dim != self.encoder.dim:
            raise SchemaError(f"the snapshot's keys have {snapshot.key_dim} dimensions, not {self.encoder.dim}")
        self._load(snapshot)

    def route(self, queries: Sequence[str]) -> Route:
        """The route of a batch: for each query the winner's experts, or none where the gate stays shut.

        A query that needs several facts gets the groups of all of its parts that a fact answers (`Route.parts`).
        A pool (`pool` is not None) selects in its own way.
        """
        if self.pool is not None:
            return self.pool.route(self.encoder.encode(queries))
        decisions, parts = self._decided(queries)
        route = Route.shut(len(queries))
        expert_ids, weights, group_ids = list(route.expert_ids), list(route.weights), list(route.group_ids)
        for i, decision in enumerate(decisions):
            found = [part for part in parts[i] if part.group_id is not None]
            route.scores[i] = min((part.score for part in found), default=decision.score)
            route.opened[i] = bool(found) or decision.opened
            group_ids[i] = tuple(part.group_id for part in found if part.group_id is not None)
            if decision.opened and not found:
                group_ids[i] = (decision.group_id,)
            if group_ids[i]:
                expert_ids[i] = np.concatenate([self._experts_of(group) for group in group_ids[i]])
                weights[i] = np.ones(len(expert_ids[i]), np.float32)
        return Route(tuple(expert_ids), tuple(weights), tuple(group_ids), route.scores, route.opened, tuple(parts))

    def _decided(self, queries: Sequence[str]) -> tuple[list[Decision], list[tuple[Part, ...]]]:
        """Of each query what the gate says of the whole, and the parts that it is taken apart into, none where it is
        left whole.
        """
        nothing: list[tuple[Part, ...]] = [()] * len(queries)
        if not isinstance(self.encoder, KeyEncoder):
            return [self._decided_by_lead(candidates) for candidates in self.score(queries)], nothing
        readings = self.encoder.read(queries)
        decisions = self._decided_on(queries, readings, self.encoder)
        return decisions, self._parts(queries, readings, decisions, self.encoder) if self._several else nothing

    def _parts(
        self,
        queries: Sequence[str],
        readings: Sequence[Reading],
        decisions: Sequence[Decision],
        encoder: KeyEncoder,
    ) -> list[tuple[Part, ...]]:
        """The parts of each query. Where none can be several nothing more is encoded."""
        compounds: dict[int, Compound] = {}
        stands_in = partial(self._stands_in, encoder)
        for i, (query, reading, decision) in enumerate(zip(queries, readings, decisions, strict=True)):
            compound = take_apart(query, reading.words)
            if compound and (compound := unsettled(compound, decision, stands_in)):
                compounds[i] = compound
        texts = list(dict.fromkeys(text for compound in compounds.values() for text in compound.texts()))
        decided = dict(zip(texts, self._decided_on(texts, encoder.read(texts), encoder), strict=True)) if texts else {}
        bar = partial(bar_of, encoder.router.gate, self._false_fire)
        judge = Judge(decided, bar, stands_in, partial(self._names_in_full, encoder))
        return [judge.parts(compounds[i], decision) if i in compounds else () for i, decision in enumerate(decisions)]

    def _stands_in(self, encoder: KeyEncoder, joint: Joint, group_id: int) -> bool:
        [group] = self._known([group_id], encoder)
        return any(joint.stands_in(text) for text in group.texts)

    def _names_in_full(self, encoder: KeyEncoder, text: str, group_id: int) -> bool:
        [group] = self._known([group_id], encoder)
        words = {word.text for word in plain_words(text)}
        readings = zip(group.texts, encoder.read(group.texts), strict=True)
        names = (Names(reading.words).words(wording) for wording, reading in readings)
        return any(name and name <= words for name in names)

    def keys(self, wordings: Sequence[str]) -> NDArray[np.float32]:
        """float32 [n, key_dim]: the keys under which groups with these wordings are stored, and looked up again."""
        return _checked(self.encoder.encode(wordings), wordings)

    def score(self, queries: Sequence[str]) -> list[tuple[Candidate, ...]]:
        """For each query the groups among its nearest keys, best first: at least two where the store has two."""
        return self._nearest(self.keys(queries), self.top_k) if queries else []

    def _decided_by_lead(self, candidates: Sequence[Candidate]) -> Decision:
        """Of an encoder alone: the best group, which must be near and clearly ahead."""
        if not candidates:
            return _NOBODY
        best = candidates[0]
        opened = best.score >= self.threshold and self.lead(candidates) >= self.margin
        return Decision(best.group_id, best.score, opened)

    def _decided_on(self, texts: Sequence[str], readings: Sequence[Reading], encoder: KeyEncoder) -> list[Decision]:
        """Of a trained router: what the gate says of each text, at a second look (second_look.py) where it found
        nothing.
        """
        decisions = self._compared(texts, readings, encoder)
        again: dict[int, frozenset[str]] = {}
        for i, (text, reading, decision) in enumerate(zip(texts, readings, decisions, strict=True)):
            if not decision.opened and decision.group_id >= 0:
                [group] = self._known([decision.group_id], encoder)
                if names := names_of_group(text, reading, group.wordings):
                    again[i] = names
        if not again:
            return decisions
        chosen = [texts[i] for i in again]
        reread = encoder.read(chosen, list(again.values()))
        for i, reading, decision in zip(again, reread, self._compared(chosen, reread, encoder), strict=True):
            if decision.score <= decisions[i].score:
                continue
            [group] = self._known([decision.group_id], encoder)
            relations = group.wordings.blocks[:, 0]
            if (relations @ reading.blocks[0]).max() > (relations @ readings[i].blocks[0]).max():
                decisions[i] = decision
        return decisions

    def _compared(self, texts: Sequence[str], readings: Sequence[Reading], encoder: KeyEncoder) -> list[Decision]:
        """Of a trained router: the likeliest of the nearest groups. readings: of the texts."""
        if not texts:
            return []
        found = []
        keys = _checked(keys_of_readings(readings, encoder.dim), texts)
        for reading, key, candidates in zip(readings, keys, self._nearest(keys, self.top_k), strict=True):
            if not candidates:
                found.append(_NOBODY)
                continue
            nearest = candidates[:_COMPARED]
            wordings = self._wordings_of(nearest, encoder)
            if identified := self._identified(reading, key, wordings):
                nearest = identified
                wordings = self._wordings_of(nearest, encoder)
            likely = encoder.router.gate.probability(features(reading, wordings, self._around))
            best = int(likely.argmax())
            ahead = self.lead([nearest[best], *candidates]) >= self.margin
            opened = bool(likely[best] >= self.threshold) and ahead
            found.append(Decision(nearest[best].group_id, float(likely[best]), opened))
        return found

    def _identified(
        self, reading: Reading, key: NDArray[np.float32], nearest: Sequence[Wordings]
    ) -> tuple[Candidate, ...]:
        """Groups whose wordings have all identifiers of a query, where none of the nearest has: to an encoder
        "8086:15f3" is much like "8086:15f2", and in other words the right one may come hundredth.
        """
        identifiers = {
            word
            for word, p in reading.words.items()
            if p >= _NAMED and any(c.isdigit() for c in word) and " " not in word
        }
        if not identifiers or any(group.words is None or identifiers <= group.words for group in nearest):
            return ()
        [candidates] = self._nearest(key[None], _IDENTIFIED)
        memories = dict(self._snapshot.memories([candidate.group_id for candidate in candidates]))
        having = [group_id for group_id, memory in memories.items() if _has(memory.wordings, identifiers)]
        return tuple(candidate for candidate in candidates if candidate.group_id in having)[:_COMPARED]

    def _wordings_of(self, candidates: Sequence[Candidate], encoder: KeyEncoder) -> list[Wordings]:
        return [group.wordings for group in self._known([candidate.group_id for candidate in candidates], encoder)]

    def _known(self, group_ids: Sequence[int], encoder: KeyEncoder) -> list[_Remembered]:
        new = [group_id for group_id in group_ids if group_id not in self._remembered]
        if new:
            if len(self._remembered) + len(new) > _REMEMBERED:
                self._remembered.clear()
                new = list(group_ids)
            memories = dict(self._snapshot.memories(new))  # all at once: each look into the catalogue opens it anew
            self._remembered |= {
                group_id: self._read_group(group_id, memories.get(group_id), encoder) for group_id in new
            }
        return [self._remembered[group_id] for group_id in group_ids]

    def _read_group(self, group_id: int, memory: Memory | None, encoder: KeyEncoder) -> _Remembered:
        texts = memory.wordings if memory else ()
        first, last = np.searchsorted(self._sorted_key_groups, [group_id, group_id + 1])
        keys = np.stack([self._index.reconstruct(int(key)) for key in self._keys_by_group[first:last]])
        words = [encoder.words_with_rarity(text) for text in texts]
        return _Remembered(texts, Wordings.of_keys(keys, words))

    def lead(self, candidates: Sequence[Candidate]) -> float:
        """How clearly the first candidate wins (see the module): infinite without a second one."""
        if len(candidates) < 2:
            return np.inf
        winner, runner_up = candidates[:2]
        key, other = (self._index.reconstruct(candidate.key) for candidate in (winner, runner_up))
        return (winner.score - runner_up.score) / max(float(key @ (key - other)), _NO_DISTANCE)

    def _nearest(self, embedded: NDArray[np.float32], looked_at: int) -> list[tuple[Candidate, ...]]:
        looked_at = min(looked_at, len(self._key_groups))
        if not looked_at:
            return [()] * len(embedded)
        found = []
        for query, scores, keys in zip(embedded, *self._index.search(embedded, looked_at), strict=True):
            best: dict[int, Candidate] = {}
            for score, key, group in zip(scores.tolist(), keys.tolist(), self._key_groups[keys].tolist(), strict=True):
                best.setdefault(group, Candidate(group, score, key))  # scores descend: a group's first is its best
            if len(best) == 1 and looked_at < len(self._key_groups):  # one group fills the list: its rival is beyond
                found += self._nearest(query[None], 4 * looked_at)
            else:
                found.append(tuple(best.values()))
        return found

    def _experts_of(self, group_id: int) -> NDArray[np.int64]:
        # snapshot.group() would read the memory's text from the catalogue as well: too slow for every query
        first, last = np.searchsorted(self._expert_groups, [group_id, group_id + 1])
        return self._expert_ids[first:last]

    def _index_over(self, keys: NDArray[np.float32], snapshot: Snapshot) -> NearestKeys:
        if self.index_device == "cpu":
            return load_or_build_index(snapshot.path, snapshot.commit, keys)
        return device_index(keys, self.index_device, self._limits)

    def _load(self, snapshot: Snapshot) -> None:
        keys, key_groups = snapshot.keys()
        index = self._index_over(keys, snapshot)  # may fail, and leaves the router as it was then
        self.pool = PoolRouter.of(snapshot, index, key_groups)
        self._index, self._key_groups = index, key_groups
        by_group = np.argsort(snapshot.expert_groups, kind="stable")
        self._expert_ids, self._expert_groups = snapshot.expert_ids[by_group], snapshot.expert_groups[by_group]
        self._snapshot = snapshot
        self._keys_by_group = np.argsort(self._key_groups, kind="stable")
        self._sorted_key_groups = self._key_groups[self._keys_by_group]
        self._remembered.clear()
        stored: dict[str, float] = dict(snapshot.meta("router", {}))
        told = stored | {name: value for name, value in self._asked.items() if value is not None}
        if isinstance(self.encoder, KeyEncoder):
            width = self.encoder.router.projection.width
            blocks = keys.reshape(len(keys), len(BLOCKS), width) * np.float32(len(BLOCKS) ** 0.5)
            self._around = Surroundings(
                self.encoder.router.background, StoredWordings.of_keys(blocks, self._key_groups)
            )
            self._false_fire = told.get("false_fire")
            calibrated = self.encoder.router.gate.threshold(told.get("false_fire"))
            self.threshold = float(told.get("threshold", calibrated))
            self.margin = float(told.get("margin", -np.inf))
        else:
            self.threshold = float(told.get("threshold", DEFAULT_THRESHOLD))
            self.margin = float(told.get("margin", DEFAULT_MARGIN))


def _checked(vectors: NDArray[np.float32], texts: Sequence[str]) -> NDArray[np.float32]:
    """The vectors [n, dim] of these texts, contiguous. Raises SchemaError where one is not finite."""
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise SchemaError(f"the encoder gives no finite vector for {texts[int(finite.argmin())][:60]!r}")
    return np.ascontiguousarray(vectors, np.float32)


def _has(wordings: Sequence[str], words: Set[str]) -> bool:
    folded = [fold(wording) for wording in wordings]
    if not all(any(word in text for text in folded) for word in words):  # soon found out, and mostly so
        return False
    return words <= {word.text for wording in wordings for word in words_of(wording)}


_NOBODY = Decision(-1, -np.inf, False)
"""The decision where the store holds no key."""


def remembered_encoder(
    remembered: Mapping[str, Any] | None, device: str, tokens: TokenEncoder | None = None
) -> QueryEncoder:
    """The encoder that made a store's keys, loaded; the default one where it does not say.

    tokens: what is below its trained router, or is it where it has none, if the caller holds that already.
    """
    facts = remembered or {}
    if tokens is None and "layer" in facts:
        tokens = HiddenStateEncoder.from_pretrained(facts.get("name"), facts["layer"], device)
    elif tokens is None:
        tokens = SentenceEncoder(facts.get("name"), device)
    router = facts.get("router")
    return tokens if router is None else KeyEncoder(tokens, router)


def _name(encoder: Mapping[str, Any] | None) -> str | None:
    return None if encoder is None else encoder.get("name")
