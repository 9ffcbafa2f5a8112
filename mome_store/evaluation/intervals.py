"""A share of something counted, and how far it can be trusted: Wilson's interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

_Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""


@dataclass(frozen=True)
class Share:
    """`hits` out of `n`. Shares of several runs add up."""

    hits: int
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.hits <= self.n:
            raise ValueError(f"{self.hits} of {self.n} is no share")

    @classmethod
    def of(cls, outcomes: list[bool]) -> Share:
        return cls(sum(outcomes), len(outcomes))

    def __add__(self, other: Share) -> Share:
        return Share(self.hits + other.hits, self.n + other.n)

    @property
    def value(self) -> float | None:
        """The share itself; None where nothing was counted."""
        return self.hits / self.n if self.n else None

    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % score interval (Wilson 1927), which also holds at 0 and 1; None where nothing was counted.

        With p = hits / n and z the normal quantile:
        (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n).
        """
        if not self.n:
            return None
        p, z2 = self.hits / self.n, _Z95 * _Z95
        middle = p + z2 / (2 * self.n)
        reach = _Z95 * math.sqrt(p * (1 - p) / self.n + z2 / (4 * self.n * self.n))
        scale = 1 + z2 / self.n
        low, high = (middle - reach) / scale, (middle + reach) / scale
        # Exactly 0 and 1 there, which rounding misses.
        return 0.0 if self.hits == 0 else low, 1.0 if self.hits == self.n else high
