"""The whole page: what stands at the top, what there is to do, and the sections one after the other."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime

from mome_store.inspection import Contents, Inspection, RowState
from mome_tools.inspect_page.keys import crowded_pairs, near_section
from mome_tools.inspect_page.markup import Child, Markup, element, joined
from mome_tools.inspect_page.sections import (
    age_section,
    damage_section,
    facts_section,
    memory_section,
    norm_section,
    size_section,
    usage_section,
)
from mome_tools.inspect_page.shards import shard_section
from mome_tools.inspect_page.style import CSS, SCRIPT
from mome_tools.inspect_page.wording import ago, at, count, moment
from mome_tools.output import bytes_text


def render_page(inspection: Inspection, now: datetime | None = None) -> str:
    """The page as HTML that needs no other file and no network. now: when it is made; by default this moment."""
    now = now or datetime.now(UTC)
    sections = _sections(inspection, now)
    name = inspection.path.resolve().name or str(inspection.path)
    links = [element("li", element("a", title, href=f"#{key}")) for key, title, _ in sections]
    body = joined(
        element(
            "header",
            element("h1", name),
            element("p", _subtitle(inspection, now), class_="soft"),
            _verdict(inspection),
            _tiles(inspection),
            _todo(inspection),
            element("nav", element("ul", links), aria_label="Sections"),
        ),
        element(
            "main",
            [
                element(
                    "section", element("h2", title, id=f"{key}-title"), *content, id=key, aria_labelledby=f"{key}-title"
                )
                for key, title, content in sections
            ],
        ),
        element(
            "footer", element("p", f"Made {moment(now)} by mome inspect. The page changes nothing and loads nothing.")
        ),
    )
    policy = f"default-src 'none'; style-src '{_hash(CSS)}'; script-src '{_hash(SCRIPT)}'; img-src data:"
    head = joined(
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("title", f"{name} · mome inspect"),
        element("style", Markup(CSS)),
    )
    script = element("script", Markup(SCRIPT))
    page = element("html", element("head", head), element("body", body, script), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _sections(inspection: Inspection, now: datetime) -> list[tuple[str, str, list[Child]]]:
    """Of each section its id, its heading, and what is below."""
    contents = inspection.contents
    damage = ("damage", "Damage", damage_section(inspection.damage, inspection.deep))
    found = [damage] if inspection.damage else []
    if contents is not None:
        found.append(("shards", "Shards", shard_section(contents)))
    found.append(("sizes", "Sizes", size_section(inspection.sizes)))
    if contents is not None:
        found += [
            ("age", "Age", age_section(contents, now)),
            ("near", "Near keys", near_section(contents)),
            ("norms", "Norms of the experts", norm_section(contents)),
            ("usage", "Use", usage_section(contents, contents.statistics.record_bytes)),
            ("memories", "Memories", memory_section(contents, now)),
        ]
    if not inspection.damage:
        found.append(damage)
    return [*found, ("store", "The store", facts_section(inspection))]


def _subtitle(inspection: Inspection, now: datetime) -> Child:
    contents = inspection.contents
    if contents is None:
        return "The catalogue can't be read: only what the files themselves tell is shown."
    when = at(contents.time_us)
    return f"Commit {contents.statistics.commit}, {moment(when)} ({ago((now - when).total_seconds())})"


def _verdict(inspection: Inspection) -> Markup:
    if inspection.damage:
        link = element("a", count(len(inspection.damage), "finding"), href="#damage")
        return element("p", element("span", "The store is damaged: ", link, "."), class_="verdict bad")
    how = "every record and key checked" if inspection.deep else "files, indexes and catalogue checked"
    return element("p", f"The store is whole ({how}).", class_="verdict")


def _tiles(inspection: Inspection) -> Markup | None:
    contents = inspection.contents
    if contents is None:
        return element("dl", _tile("Size", bytes_text(inspection.sizes.total), "on disk"), class_="tiles")
    found = contents.statistics
    return element(
        "dl",
        _tile("Memories", count(contents.memories_total), "questions with an answer"),
        _tile("Groups", count(found.groups), f"{found.keys:,} keys"),
        _tile("Experts", count(found.experts_live), f"{found.experts_dead:,} dead"),
        _tile("Shards", count(found.shards), "files"),
        _tile("Live", bytes_text(found.bytes_live), f"{found.record_bytes:,} bytes an expert"),
        _tile("Dead", bytes_text(found.bytes_dead), "given back by compaction"),
        class_="tiles",
    )


def _tile(name: str, value: str, below: str) -> Markup:
    return element("div", element("dt", name), element("dd", value, element("small", below)))


def _todo(inspection: Inspection) -> Markup:
    points: list[Child] = []
    if inspection.damage:
        points.append(
            [
                element("a", "Damage", href="#damage"),
                ": restore the named files from a copy of the store. What only single records held can also be "
                "forgotten (",
                element("code", "mome forget --group ID"),
                ") and taught again.",
            ]
        )
    if inspection.contents is not None:
        points += _suggested(inspection.contents)
    if not points:
        return element("p", "Nothing needs to be done.", class_="soft")
    return joined(
        element("h3", "Worth doing"), element("ul", [element("li", point) for point in points], class_="todo")
    )


def _suggested(contents: Contents) -> list[Child]:
    points: list[Child] = []
    due = [each for each in contents.compactions if each.due]
    if due:
        now, after = sum(each.shards for each in due), sum(each.needed for each in due)
        dead = sum(shard.count(RowState.DEAD) * shard.row_bytes for shard in contents.shards)
        points.append(
            [
                element("a", "Compaction", href="#shards"),
                f" is due: {count(now, 'shard')} could be {after:,}, and {bytes_text(dead)} of dead rows would be "
                "given back. ",
                element("code", "mome compact DIR"),
            ]
        )
    pairs = crowded_pairs(contents)
    if pairs and "pool" not in contents.modes:
        nearest = pairs[0]
        words = f"{len(pairs):,} pairs of groups have" if len(pairs) > 1 else "a pair of groups has"
        points.append(
            [
                element("a", "Near keys", href="#near"),
                f": {words} different answers and keys as near as two wordings of one fact, nearest of all groups "
                f"{nearest.group_id} and {nearest.other_id} ({nearest.similarity:.3f}). Reword one of them, or forget "
                "the one that is out of date.",
            ]
        )
    idle = int((contents.norms.whole == 0).sum())
    if idle:
        points.append(
            [
                element("a", "Norms", href="#norms"),
                f": {count(idle, 'expert')} change{'s' if idle == 1 else ''} nothing; what was taught there is lost.",
            ]
        )
    return points


def _hash(content: str) -> str:
    """What a content security policy knows an inline script or style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
