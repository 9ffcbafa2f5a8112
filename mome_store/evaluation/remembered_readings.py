"""What a router reads in a text, kept for the time in which the same questions are routed again and again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from mome_store.routing import KeyEncoder

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mome_store.routing import QueryEncoder
    from mome_store.routing.gate import Reading

_MOST = 1 << 15


class RememberingEncoder(KeyEncoder):
    """A KeyEncoder that inside of `remembering` reads each text once.

    The evaluation routes the same questions after every batch of facts, and for each system anew. A reading depends on
    the text alone, so that the routes are those of a KeyEncoder. Outside nothing is looked up and nothing is kept: what
    is timed is computed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As KeyEncoder."""
        super().__init__(*args, **kwargs)
        self._known: dict[str, Reading] = {}
        self._remembers = False

    def read(self, texts: Sequence[str], names: Sequence[Set[str]] | None = None) -> list[Reading]:
        if not self._remembers or names is not None:
            return super().read(texts, names)
        if len(self._known) > _MOST:
            self._known.clear()
        new = list(dict.fromkeys(text for text in texts if text not in self._known))
        if new:
            self._known |= zip(new, super().read(new), strict=True)
        return [self._known[text] for text in texts]

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """While the block runs, a text that was read in such a block before is not read again."""
        before, self._remembers = self._remembers, True
        try:
            yield
        finally:
            self._remembers = before


def remembering(encoder: QueryEncoder) -> AbstractContextManager[None]:
    """`encoder.remembering()` where there is such a thing; any other encoder reads as it always does."""
    return encoder.remembering() if isinstance(encoder, RememberingEncoder) else nullcontext()
