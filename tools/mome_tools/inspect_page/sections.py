"""The sections about sizes, commits, norms, use, memories, damage and what the store is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from mome_store.inspection import SHOWN, Contents, Inspection, Sizes
from mome_store.store.damage import Damage
from mome_tools.inspect_page.charts import Column, Part, columns, range_bar, share_bar
from mome_tools.inspect_page.markup import Child, Markup, element, joined, prose, table
from mome_tools.inspect_page.wording import ago, at, count, moment, percent, quoted, shortened
from mome_tools.output import bytes_text

_MOST_COLUMNS = 48
_MOST_MODULES = 64
_MOST_DAMAGE = 200
_LOUDEST = 10
_MOST_WORDINGS = 10
_BINS = 40
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def damage_section(damage: Sequence[Damage], deep: bool) -> list[Child]:
    how = (
        "Every record and key was checked."
        if deep
        else "The catalogue, every file's size and index were checked, and the records and keys read for this page; "
        "`mome inspect DIR --html FILE --deep` checks every record."
    )
    if not damage:
        return [element("p", prose(f"Nothing is damaged. {how}"))]
    rows = [
        (
            element("code", each.file),
            "" if each.row is None else f"{each.row:,}",
            "" if each.expert_id is None else str(each.expert_id),
            each.problem,
        )
        for each in damage[:_MOST_DAMAGE]
    ]
    more = f", the first {_MOST_DAMAGE}" if len(damage) > _MOST_DAMAGE else ""
    return [
        element(
            "p",
            prose(how),
            " What is listed is not as it was committed, and the store refuses to answer from it. Restore these files "
            "from a copy of the store; what is not named here is whole.",
        ),
        table(f"{count(len(damage), 'finding')}{more}.", ("File", "Row", "Expert", "Problem"), rows, class_="wide"),
    ]


def size_section(sizes: Sizes) -> list[Child]:
    parts = [
        ("live rows", sizes.live, "live"),
        ("dead rows", sizes.dead, "dead"),
        ("damaged rows", sizes.damaged, "damaged"),
        ("indexes of the shards", sizes.shard_indexes, "idx"),
        ("catalogue", sizes.catalog, "cat"),
        ("router's index (a cache, may be deleted)", sizes.router_index, "cache"),
        ("zarr.json files", sizes.metadata, "second"),
        ("shard files that the newest commit does not name", sizes.unnamed, "dead"),
    ]
    shown = [Part(label, value, bytes_text(value), color) for label, value, color in parts if value]
    label = "Bytes: " + ", ".join(f"{part.label} {part.shown}" for part in shown)
    found: list[Child] = [
        element("p", f"{bytes_text(sizes.total)} in all."),
        share_bar(shown, label),
    ]
    if sizes.unnamed_files:
        found.append(
            element(
                "p",
                f"{count(sizes.unnamed_files, 'shard file')} not named by the newest commit: left of a writer that was "
                "killed, being written at this moment, or kept for readers of an older commit.",
                class_="soft",
            )
        )
    return found


def age_section(contents: Contents, now: datetime) -> list[Child]:
    history = contents.history
    adding = np.flatnonzero(history.groups_added > 0)
    first, last = at(int(history.times_us.min())), at(int(history.times_us.max()))
    words = f"{count(len(history.ids), 'commit')}"
    words += f", the first {moment(first)}, the last" if len(history.ids) > 1 else ","
    words += f" {moment(last)} ({ago((now - last).total_seconds())})."
    if not len(adding):
        return [element("p", words + " None of them has added a group.")]
    added, live = int(history.groups_added.sum()), int(history.groups_live.sum())
    words += f" Of {count(added, 'group')} that were ever added, {live:,} are live ({percent(live, added)})."
    if live:
        age = np.cumsum(history.groups_live[::-1])
        middle = at(int(history.times_us[::-1][int(np.searchsorted(age, live / 2))]))
        words += f" Half of the live ones came {moment(middle)} or later."
    bars = []
    edges = np.arange(min(len(adding), _MOST_COLUMNS)) * len(adding) // min(len(adding), _MOST_COLUMNS)
    runs = [adding[run] for run in np.split(np.arange(len(adding)), edges[1:])]
    for run in runs:
        own_added, own_live = int(history.groups_added[run].sum()), int(history.groups_live[run].sum())
        numbers = f"commit {history.ids[run[0]]}"
        if len(run) > 1:
            numbers = f"commits {history.ids[run[0]]} to {history.ids[run[-1]]}"
        title = f"{numbers}, {moment(at(int(history.times_us[run[0]])))}: {own_added:,} added, {own_live:,} still live"
        bars.append(Column(((own_live, "live"), (max(own_added - own_live, 0), "dead")), title))
    shown = [runs[0], runs[len(runs) // 2], runs[-1]] if len(runs) > 2 else runs
    days = [at(int(history.times_us[run[0]])).strftime("%Y-%m-%d %H:%M") for run in shown]
    label = "Groups added by each commit, oldest first, and how many are still live: "
    label += "; ".join(bar.title for bar in (bars if len(bars) <= 6 else (bars[0], bars[-1])))
    most = f"highest column: {count(int(max(bar.total for bar in bars)), 'group')}"
    if len(adding) > len(bars):
        most += f"; a column is up to {max(len(run) for run in runs)} commits"
    return [
        element("p", words),
        element(
            "ul",
            element("li", element("i", class_="chip live"), "still live"),
            element("li", element("i", class_="chip dead"), "removed or replaced since"),
            class_="legend",
        ),
        columns(bars, label, most, days),
        element("details", element("summary", "As a table"), _commit_table(bars)),
    ]


def _commit_table(bars: Sequence[Column]) -> Markup:
    rows = []
    for bar in reversed(bars):
        live, gone = (int(value) for value, _ in bar.parts)
        rows.append((bar.title.partition(": ")[0], f"{live + gone:,}", f"{live:,}"))
    return table("Newest first.", ("Commits", "Groups added", "Still live"), rows)


def norm_section(contents: Contents) -> list[Child]:
    norms = contents.norms
    if not len(norms.values):
        return [element("p", "There is no expert whose weights could be read.")]
    how_many = f"All {count(norms.experts, 'expert')}"
    if norms.sampled:
        how_many = f"{len(norms.values):,} of {count(norms.experts, 'expert')}, drawn at random"
    words = f"{how_many}. The norm is that of (alpha/r)·B·A: how much an expert changes what a layer computes."
    if norms.unreadable:
        words += f" {count(norms.unreadable, 'expert')} of those drawn could not be read."
    idle = int((norms.whole == 0).sum())
    if idle:
        words += f" {count(idle, 'expert')} of them change{'s' if idle == 1 else ''} nothing at all: the norm is 0."
    order = np.arange(len(norms.modules))
    note = ""
    if len(order) > _MOST_MODULES:
        order = np.sort(np.argsort(-np.median(norms.values, axis=0), kind="stable")[:_MOST_MODULES])
        note = f" {_MOST_MODULES} of {len(norms.modules)} modules, those with the largest medians."
    quantiles = np.quantile(norms.values, _QUANTILES, axis=0).T
    highest = float(quantiles.max())
    rows = [
        (
            element("code", norms.modules[i]),
            range_bar(quantiles[i].tolist(), highest, _range_label(norms.modules[i], quantiles[i].tolist())),
            _value(float(quantiles[i, 2])),
            _value(float(quantiles[i, 4])),
            _value(float(norms.values[:, i].max())),
        )
        for i in order.tolist()
    ]
    caption = "Line: 5 to 95 % of the experts; box: the middle half; mark: the median." + note
    found: list[Child] = [
        element("p", words),
        table(caption, ("Module", f"0 to {_value(highest)}", "Median", "95 %", "Largest"), rows, class_="wide norms"),
    ]
    whole = norms.whole
    counts, edges = np.histogram(whole, _BINS, (0.0, float(whole.max()) or 1.0))
    bars = [
        Column(
            ((int(number), "live"),),
            f"{_value(edges[i])} to {_value(edges[i + 1])}: {count(int(number), 'expert')}",
        )
        for i, number in enumerate(counts)
    ]
    loud = norms.largest(_LOUDEST).tolist()
    found += [
        element("h3", "All modules together"),
        columns(
            bars,
            f"Experts by norm over all modules: median {_value(float(np.median(whole)))}, "
            f"largest {_value(float(whole.max()))}",
            f"highest column: {count(int(counts.max()), 'expert')}",
            ("0", _value(edges[len(counts) // 2]), _value(edges[-1])),
            gap=0.06,
        ),
        element("details", element("summary", "The largest"), _loudest(contents, loud)),
    ]
    return found


def _loudest(contents: Contents, places: Sequence[int]) -> Markup:
    norms = contents.norms
    rows = [
        (
            _value(float(norms.whole[place])),
            str(norms.expert_ids[place]),
            str(norms.group_ids[place]),
            _question(contents, int(norms.group_ids[place])),
        )
        for place in places
    ]
    return table("Experts with the largest norms.", ("Norm", "Expert", "Group", "Question"), rows, class_="wide")


def _range_label(module: str, quantiles: Sequence[float]) -> str:
    low, _, middle, _, high = (_value(value) for value in quantiles)
    return f"{module}: median {middle}, 5 to 95 % of the experts from {low} to {high}"


def _value(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.2e}"


def usage_section(contents: Contents, record_bytes: int) -> list[Child]:
    usage = contents.usage
    if usage is None:
        words = (
            "No trace was given. `mome ask --trace FILE` records which experts are used (in Python: "
            "MemoryModel.from_pretrained(..., trace=FILE)), and `mome inspect DIR --html PAGE --trace FILE` shows it "
            "here."
        )
        return [element("p", prose(words))]
    groups = len(usage.group_ids) + len(usage.never)
    words = f"{count(usage.requests, 'request')} for experts in {count(usage.batches, 'batch', 'batches')}"
    if usage.first is not None and usage.last is not None:
        words += f", {moment(at(int(usage.first * 1e6)))} to {moment(at(int(usage.last * 1e6)))}"
    words += (
        f". {len(usage.group_ids):,} of {count(groups, 'group')} were used, {len(usage.never):,} never "
        f"({percent(len(usage.never), groups)})."
    )
    found: list[Child] = [element("p", words)]
    if usage.gone:
        found.append(
            element(
                "p",
                f"{count(usage.gone, 'request')} went to experts that are not live in this store: removed or replaced "
                "since, or of another store.",
            )
        )
    if usage.record_bytes != record_bytes:
        found.append(
            element(
                "p",
                f"The trace was recorded with experts of {bytes_text(usage.record_bytes)}, this store's have "
                f"{bytes_text(record_bytes)}: it may be another store's.",
            )
        )
    if len(usage.group_ids):
        runs = np.array_split(usage.uses, min(len(usage.uses), _MOST_COLUMNS))
        bars, before = [], 0
        for run in runs:
            ranks = f"rank {before + 1:,}" if len(run) == 1 else f"ranks {before + 1:,} to {before + len(run):,}"
            bars.append(Column(((float(run.mean()), "live"),), f"{ranks}: {run.mean():,.1f} uses each"))
            before += len(run)
        half, most = usage.groups_for(0.5), usage.groups_for(0.9)
        have = f"Half of all uses went to {count(half, 'group')}, nine tenths to {most:,}."
        found += [
            element("h3", "From the most used group to the least"),
            columns(
                bars,
                have,
                f"highest column: {bars[0].total:,.0f} uses of a group",
                ("rank 1", f"rank {len(usage.uses):,}") if len(usage.uses) > 1 else ("rank 1",),
            ),
            element("p", have),
            _used(contents, "Most used", usage.group_ids[:SHOWN], usage.uses[:SHOWN]),
        ]
        rest = slice(max(SHOWN, len(usage.uses) - SHOWN), None)
        if len(usage.uses) > SHOWN:
            found.append(
                element(
                    "details",
                    element("summary", "Least used"),
                    _used(contents, "Least used", usage.group_ids[rest][::-1], usage.uses[rest][::-1]),
                )
            )
    if len(usage.never):
        rows = [(str(group), _question(contents, group)) for group in usage.never[:SHOWN].tolist()]
        caption = f"Oldest first, {len(rows)} of {len(usage.never):,}."
        found.append(
            element(
                "details",
                element("summary", "Never used"),
                table(caption, ("Group", "Question"), rows),
            )
        )
    return found


def _used(contents: Contents, caption: str, groups: Any, uses: Any) -> Markup:
    rows = [
        (f"{number:,}", str(group), _question(contents, group))
        for group, number in zip(groups.tolist(), uses.tolist(), strict=True)
    ]
    return table(f"{caption}.", ("Uses", "Group", "Question"), rows)


def memory_section(contents: Contents, now: datetime) -> list[Child]:
    shown, total = contents.memories, contents.memories_total
    if not total:
        return [element("p", "No group has a memory.")]
    words = f"{count(total, 'memory', 'memories')}, newest first."
    if len(shown) + contents.unreadable_memories < total:
        words = f"The newest {len(shown):,} of {total:,} memories; the search looks in these only."
    if contents.unreadable_memories:
        words += f" {count(contents.unreadable_memories, 'memory', 'memories')} could not be read."
    statuses: dict[str, int] = {}
    for each in shown:
        statuses[each.memory.status] = statuses.get(each.memory.status, 0) + 1
    if len(statuses) > 1:
        words += " By status: " + ", ".join(f"{shortened(name)} {number:,}" for name, number in statuses.items()) + "."
    rows = []
    for each in shown:
        memory = each.memory
        others: list[Child] = [quoted(wording) for wording in memory.paraphrases[:_MOST_WORDINGS]]
        question: Child = quoted(memory.question)
        if others:
            if len(memory.paraphrases) > len(others):
                others.append("…")
            listed = element("ul", [element("li", wording) for wording in others])
            more = element("details", element("summary", count(len(memory.paraphrases), "more wording")), listed)
            question = joined(question, more)
        rows.append(
            (
                question,
                quoted(memory.answer),
                _status(memory.status),
                "" if memory.nll is None else element("span", f"{memory.nll:.2g}", class_="num"),
                _age(memory.tuned_at, each.since_us, now),
                "pool" if each.group_id is None else str(each.group_id),
            )
        )
    search = element(
        "div",
        element("label", "Search questions, wordings and answers", for_="find"),
        element("input", id="find", type="search", autocomplete="off"),
        element("p", id="found", role="status", class_="soft"),
        class_="find",
        hidden=True,
    )
    head = ("Question", "Answer", "Status", "Loss", "Age", "Group")
    caption = "Loss: mean negative log-likelihood of the answer after tuning, in nats per token."
    printed = "Only the first 100 are printed." if len(rows) > 100 else None
    paper = element("p", printed, class_="paper") if printed else None
    return [
        element("p", words),
        paper,
        search,
        element("div", table(caption, head, rows, class_="wide"), id="memory-rows"),
    ]


def _status(status: str) -> Markup:
    return element("span", shortened(status), class_="tag fine" if status == "memorized" else "tag bad")


def _age(tuned_at: str | None, since_us: int | None, now: datetime) -> Child:
    when = None if since_us is None else at(since_us)
    if tuned_at is not None:
        try:
            told = datetime.fromisoformat(tuned_at)
            when = told if told.tzinfo else told.replace(tzinfo=UTC)
        except ValueError:
            return shortened(tuned_at)  # whatever somebody wrote there
    if when is None:
        return ""
    words = ago((now - when).total_seconds())
    return element("time", words, datetime=when.isoformat(), title=moment(when), class_="num")


def facts_section(inspection: Inspection) -> list[Child]:
    told = inspection.attributes
    if told is None:
        return [element("p", "Neither zarr.json nor the catalogue can be read, so nothing is known of the store.")]
    schema = told.get("schema") if isinstance(told.get("schema"), dict) else None
    facts: list[tuple[str, Child]] = [
        ("Path", element("code", str(inspection.path))),
        ("Format", str(told.get("format"))),
        ("Base model", _described(told.get("base_model"))),
        ("Encoder", _described(told.get("encoder"))),
        ("Key width", f"{told.get('key_dim')} float32"),
    ]
    contents = inspection.contents
    if contents is not None:
        modes = ", ".join(f"{name} {number:,}" for name, number in contents.modes.items())
        activations = ", ".join(f"{name} {number:,}" for name, number in contents.activations.items())
        facts += [
            ("Commit", f"{contents.statistics.commit}, {moment(at(contents.time_us))}"),
            ("Rows per shard", f"{contents.rows_per_shard:,}"),
            ("Record", bytes_text(contents.statistics.record_bytes)),
            ("Groups by mode", modes or "none"),
            ("Groups act on", activations or "none"),
        ]
    if schema is not None:
        facts += [
            ("Rank", f"up to {schema.get('rank')}, alpha {schema.get('alpha')}"),
            ("Weights", str(schema.get("dtype"))),
        ]
    found: list[Child] = [
        element("dl", [[element("dt", name), element("dd", value)] for name, value in facts], class_="facts")
    ]
    modules = schema.get("modules") if schema else None
    if isinstance(modules, list):
        rows = [
            (element("code", str(name)), f"{d_in:,}", f"{d_out:,}")
            for name, d_in, d_out in (each for each in modules if isinstance(each, list) and len(each) == 3)
        ]
        modules_table = table("In the order of execution.", ("Module", "In", "Out"), rows)
        found.append(element("details", element("summary", count(len(rows), "adapted module")), modules_table))
    return found


def _described(value: Any) -> Child:
    if not value:
        return "not told"
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        rest = {name: each for name, each in value.items() if name != "name"}
        return joined(element("b", value["name"]), " ", element("code", json.dumps(rest, ensure_ascii=False)))
    return element("code", json.dumps(value, ensure_ascii=False))


def _question(contents: Contents, group_id: int) -> Child:
    memory = contents.texts.get(group_id)
    return element("span", "no memory", class_="soft") if memory is None else quoted(memory.question)
