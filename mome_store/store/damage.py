"""One thing in a store that is not as it was committed, as `verify` and `repair` tell it."""

from __future__ import annotations

from dataclasses import dataclass

from mome_store.errors import DamagedStoreError, ReadError


@dataclass(frozen=True)
class Damage:
    """file: within the store. `row` and `expert_id` are None where the damage is not that small."""

    file: str
    row: int | None
    expert_id: int | None
    problem: str

    @classmethod
    def of(cls, error: DamagedStoreError | ReadError) -> Damage:
        """What an error that was raised while reading tells."""
        if isinstance(error, DamagedStoreError):
            return cls(error.file, error.row, error.expert_id, error.problem)
        return cls(error.path, None, None, str(error))
