"""HTML by construction: text is escaped when it goes into an element, so that no memory can become markup."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

_UNSHOWN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")  # not allowed in HTML, or not seen
_VOID = frozenset({"meta", "input", "br"})

Attribute = str | float | bool | None


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | None | Iterable["Child"]  # a str that is no Markup is text


def text(value: str) -> Markup:
    """Any text as HTML."""
    return Markup(escape(_UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", value)))


def element(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """An element. Of an attribute's name a trailing _ is dropped (class_), others become dashes; None and False leave
    it out.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{text(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(*children)}</{name}>")


def prose(value: str) -> Markup:
    """Text whose `parts in backticks` are code."""
    return joined(element("code", part) if i % 2 else text(part) for i, part in enumerate(value.split("`")))


def joined(*children: Child) -> Markup:
    """The children one after the other."""
    parts = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(text(child))
        elif child is not None:
            parts.append(joined(*child))
    return Markup("".join(parts))


def table(caption: str, head: Iterable[str], rows: Iterable[Iterable[Child]], class_: str | None = None) -> Markup:
    """A table with a header for each column. Cells know their column's name, for narrow screens (style.py)."""
    names = tuple(head)
    body = [element("tr", [_cell(name, cell) for name, cell in zip(names, row, strict=True)]) for row in rows]
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", element("tr", [element("th", name, scope="col") for name in names])),
            element("tbody", body),
            class_=class_,
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def _cell(name: str, content: Child) -> Markup:
    inside = joined(content)
    return element("td", element("div", inside) if inside else None, data_label=name)
