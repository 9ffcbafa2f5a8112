"""Numbers, sizes and times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

from mome_tools.inspect_page.markup import Markup, element

_LONGEST = 400  # characters of a text that are shown
_UNITS = ((365.25 * 86400, "year"), (30.44 * 86400, "month"), (86400, "day"), (3600, "hour"), (60, "minute"))


def count(number: int, thing: str = "", plural: str | None = None) -> str:
    """1,234 shards; 1 shard."""
    name = thing if number == 1 else plural or f"{thing}s"
    return f"{number:,} {name}" if thing else f"{number:,}"


def percent(part: float, whole: float) -> str:
    """How much of it, never rounded to nothing or all when it is neither."""
    if not whole or not part:
        return "0 %"
    share = 100 * part / whole
    if part == whole:
        return "100 %"
    return "< 0.1 %" if share < 0.1 else "> 99.9 %" if share > 99.9 else f"{share:.1f} %"


def ago(seconds: float) -> str:
    """How long ago, to one unit."""
    for size, name in _UNITS:
        if seconds >= size:
            number = int(seconds / size)
            return f"{number} {name}{'s' if number > 1 else ''} ago"
    return "just now"


def moment(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def at(time_us: int) -> datetime:
    """The moment so many microseconds after 1970 began; the nearest that the calendar has."""
    return datetime.fromtimestamp(min(max(time_us / 1e6, 0), 253402300799), UTC)


def shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + f"… ({len(text):,} characters)"


def quoted(text: str) -> Markup:
    """Somebody's text, in its own direction of writing."""
    return element("bdi", shortened(text), class_="q")
