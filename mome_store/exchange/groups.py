"""One group of a store into an adapter's folder, and an adapter's folder into a store as a new group."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mome_store.errors import AdapterError, BaseModelMismatchError, FactError, SchemaError
from mome_store.exchange.adapter_folder import AdapterFolder, read_adapter, write_adapter
from mome_store.exchange.peft_adapter import adapter_of, experts_of
from mome_store.store import ExpertStore, Memory, Snapshot
from mome_store.store.record import Weights

if TYPE_CHECKING:
    from mome_store.routing import QueryEncoder


@dataclass(frozen=True)
class ExportedGroup:
    """path: the adapter's folder. rank: the adapter's. activation: of the group ("answer": PEFT can't do that)."""

    path: Path
    group_id: int
    rank: int
    activation: str


@dataclass(frozen=True)
class ImportedGroup:
    """experts, rank: how many, and of which rank each. rounded: values that are not stored exactly.

    filled: modules that the adapter leaves alone. question: by which the group is found; None: by no question.
    """

    group_id: int
    experts: int
    rank: int
    activation: str
    rounded: int
    filled: tuple[str, ...]
    question: str | None


def export_group(snapshot: Snapshot, group_id: int, path: str | Path) -> ExportedGroup:
    """Writes a group as one PEFT adapter, whole or not at all; its memory goes with it.

    A and B are those of the record, bit for bit. Raises UnknownIdError; AdapterError for a group that one adapter
    can't be; FileExistsError where anything but an empty folder is at `path`.
    """
    folder = Path(path)
    group = snapshot.group(group_id)
    if group.mode == "pool":
        raise AdapterError(
            folder, f"group {group_id} is an expert of a pool, which answers only as a weighted sum with others"
        )
    base = snapshot.base_model or {}
    config, tensors = adapter_of(
        snapshot.schema,
        [snapshot.read_expert(expert_id) for expert_id in group.expert_ids.tolist()],
        base.get("name"),
        lambda reason: AdapterError(folder, f"group {group_id} is no adapter: {reason}"),
    )
    notes: dict[str, Any] = {
        "activation": group.activation,
        "base_model": base.get("fingerprint"),
        "experts": len(group.expert_ids),
    }
    if group.memory is not None:
        notes["memory"] = asdict(group.memory)
    write_adapter(folder, config, tensors, notes)
    return ExportedGroup(folder, group_id, config["r"], group.activation)


def import_group(
    store: ExpertStore,
    path: str | Path,
    wordings: Sequence[str] = (),
    answer: str | None = None,
    *,
    encoder: QueryEncoder | None = None,
    activation: str | None = None,
    nearest: bool = False,
    split: bool = False,
    any_base: bool = False,
) -> ImportedGroup:
    """Adds a PEFT LoRA adapter to a store that is open for writing, as one group and one commit.

    wordings: the question that leads to it and other wordings of that; the store's encoder makes a key of each, as
    when a fact is memorised. None given: those that an exported group brings along, and else the group gets no key,
    so that only a route which names its experts uses it. answer: what it says to them, if that is known.
    encoder: None: the one that the store remembers.
    activation: "all" tokens or "answer"; None: as the exported group, and for other adapters "all", as PEFT trains.
    nearest, split: as `experts_of`; what was exported as several experts is split without asking.
    any_base: take it though it names another base model than the store.

    Raises AdapterError and BaseModelMismatchError for what would not be the same in this store; FactError for a
    question that the store answers otherwise, also when only the router finds it so: the group is taken back then.
    """
    adapter = read_adapter(Path(path))
    if not any_base:
        _check_base_model(adapter, store.base_model or {})
    several = adapter.notes.get("experts", 1) != 1
    converted = experts_of(adapter, store.schema, nearest=nearest, split=split or several)
    memory = _memory(adapter, wordings, answer, unchanged=not (converted.rounded or any_base))
    acts = activation or str(adapter.notes.get("activation", "all"))
    with store.snapshot() as snapshot:
        if "pool" in snapshot.modes:
            raise SchemaError(f"{store.path} is a pool, whose experts are trained together; import into another store")
        if memory is None:
            with store.transaction() as txn:
                group_id = txn.add_group(converted.experts, None, activation=acts)
        else:
            group_id = _add_found(store, snapshot, converted.experts, memory, acts, encoder)
    return ImportedGroup(
        group_id=group_id,
        experts=len(converted.experts),
        rank=converted.rank,
        activation=acts,
        rounded=converted.rounded,
        filled=converted.filled,
        question=None if memory is None else memory.question,
    )


def _add_found(
    store: ExpertStore,
    snapshot: Snapshot,
    experts: Sequence[Weights],
    memory: Memory,
    activation: str,
    encoder: QueryEncoder | None,
) -> int:
    """Adds a group with a key for each wording, and takes it back where it gets in another group's way."""
    from mome_store.routing import Router
    from mome_store.routing.thieves import find_thieves

    for group, held in snapshot.memories():
        for wording in memory.wordings:
            if wording in held.wordings and not (held.answer and held.answer == memory.answer):
                raise FactError(
                    None,
                    f"the store answers {wording!r} with {held.answer!r} (group {group}); forget that group first",
                )
    router = Router.open(snapshot, encoder=encoder)
    keys = router.keys(memory.wordings)
    with store.transaction() as txn:
        group_id = txn.add_group(experts, keys, memory, activation=activation)
    with store.snapshot() as after:
        router.refresh(after)
        thieves = find_thieves(router, after, [group_id])
    if thieves:
        with store.transaction() as txn:
            txn.remove_group(group_id)
        raise FactError(None, f"the group was taken back: {thieves[group_id]}")
    return group_id


def _memory(adapter: AdapterFolder, wordings: Sequence[str], answer: str | None, unchanged: bool) -> Memory | None:
    """What the group is found by and says. unchanged: its values and base model are those it was exported with."""
    if not wordings:
        if answer is not None:
            raise FactError(None, "an answer needs the question that it answers")
        brought = adapter.notes.get("memory")
        if brought is None:
            return None
        try:
            memory = Memory(**brought)
        except (TypeError, SchemaError) as error:
            raise AdapterError(adapter.path, f"the memory that it brings along is none: {error}") from error
        return memory if unchanged else replace(memory, status="imported", nll=None, tuned_at=None)
    from mome_store.tuning.facts import parse_facts

    said = {"question": wordings[0], "paraphrases": list(wordings[1:]), "answer": answer}
    try:
        [fact] = parse_facts([json.dumps(said)])
    except FactError as error:
        raise FactError(None, error.reason) from error
    return Memory(fact.question, fact.answer or "", fact.paraphrases, status="imported")


def _check_base_model(adapter: AdapterFolder, base: Mapping[str, Any]) -> None:
    """Raises BaseModelMismatchError where adapter and store tell of different base models.

    Where both have a fingerprint, that decides, else their names.
    """
    own, found = base.get("fingerprint"), adapter.notes.get("base_model")
    name, named = base.get("name"), adapter.config.get("base_model_name_or_path")
    known = own == found if own and found else None
    if known is None and name and named:
        known = _same_model(str(name), str(named))
    if known is False:
        raise BaseModelMismatchError(
            f"{adapter.path}: the adapter was made for the base model {named}, the store's experts for {name}; "
            "if that is the same model under another name, import it with --any-base"
        )


def _same_model(name: str, named: str) -> bool:
    """Whether a store's name for its base model and an adapter's are of one model, as far as names can tell."""
    if name == named:
        return True
    if not Path(named).is_dir():
        return False
    from mome_store.base_model import resolve_base_model

    try:
        return Path(resolve_base_model(name).path).resolve() == Path(named).resolve()
    except BaseModelMismatchError:
        return False
