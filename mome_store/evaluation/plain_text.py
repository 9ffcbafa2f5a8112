"""Plain prose that no fact is about: what a model's perplexity is taken on, before and after it was given facts."""

from __future__ import annotations

PARAGRAPHS = (
    """The harbour wakes before the town does. Long before the first bus climbs the hill, the boats have come
    in, and the gulls, who keep a stricter timetable than anyone, are already quarrelling over what falls from
    the crates. A man in a yellow coat hoses down the quay. Water runs between the stones, finds the old drain,
    and vanishes with a sound like a long breath. By the time the cafe on the corner puts out its chairs,
    nothing is left of the night's work but a faint smell of salt and diesel and a single glove that somebody
    has hung on a bollard so that its owner may find it.""",
    """Bread is a slow thing that looks like a quick one. Flour, water, salt and a little yeast are all it
    needs, but they need time as well, and time can't be kneaded in. During the first hours the dough seems to
    do nothing. Then small bubbles rise to the surface, the mass loosens, and what was heavy becomes light. A
    baker learns to judge it by touch: when a finger leaves a dent that fills again only half, the loaf is ready
    for the oven. Too early, and the crumb is tight; too late, and it collapses. No clock can tell the moment,
    since a warm kitchen and a cold one keep different hours.""",
    """Rivers do not run straight for long. Where the current meets the outer bank it digs, and where it
    slackens on the inner side it drops what it carries, so every small bend grows into a larger one. After some
    centuries the loop is so wide that its two ends almost touch. One wet spring the water breaks through the
    narrow neck, takes the shorter way, and leaves the old bed behind as a lake in the shape of a horseshoe.
    Reeds close in from the edges. A hundred years later there is only a curved hollow in a field, which the
    farmer ploughs around without knowing why.""",
    """The library had been built for fewer books and for smaller people. Its shelves stood so close that two
    readers who met between them had to agree, without a word, on who should go back. Upstairs the light came
    through a round window and moved across the floor in the course of the day, and regular visitors followed it
    from desk to desk. Nobody had ever made a rule about silence. It was simply hard to imagine speaking there,
    as it is hard to imagine shouting in snow. On Fridays an old clerk wound the clock, which was always eleven
    minutes slow, and nobody minded.""",
    """To measure a thing is to compare it with something else, and the something else has to be agreed upon.
    For a long time a foot was the foot of whoever ruled, and cloth bought in one town was shorter in the next.
    Merchants cut the length into the stone of the church wall, where anyone could check it. Later came a bar of
    metal in a vault, and after that the wavelength of a certain light, which needs no vault, because it is the
    same everywhere. Each step made the measure less like us and more dependable. What we gave up was the
    pleasure of carrying the yardstick at the end of our own legs.""",
    """In winter the orchard looks finished, but most of the year's work is done then. The branches that cross
    are taken out, and those that point inwards, so that in summer the light will reach every fruit. It is cold
    and quiet work. From the top of the ladder one sees the whole valley, grey and brown, with a thin line of
    smoke above the farm. The cut ends are pale and smell of almonds. By March the buds at the tips begin to
    swell, red first and then green, and for a week the trees seem to hold their breath. After that everything
    happens at once, and there is no more time for ladders.""",
)


def paragraphs() -> tuple[str, ...]:
    """The passage, one text per paragraph, without line breaks: about 650 words in all."""
    return tuple(" ".join(paragraph.split()) for paragraph in PARAGRAPHS)
