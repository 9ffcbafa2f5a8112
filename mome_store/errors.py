"""Every error that mome_store raises on purpose: which ones there are and the facts that each carries.

All derive from `MomeError`, so that a caller can tell "the store says no" from a bug. Each message says what
was found, what was expected and, where there is one, the way out.
"""

from __future__ import annotations

import os
from pathlib import Path


class MomeError(Exception):
    """Base class of all errors of mome_store."""


class StoreWarning(UserWarning):
    """Something beside a commit failed: the commit stands, and the store is whole."""


class SchemaError(MomeError, ValueError):
    """An expert, key, schema or setting does not fit: wrong module, shape, rank or dtype, or a value is not finite."""


class StoreNotFoundError(MomeError, FileNotFoundError):
    """The path holds no expert store."""


class StoreExistsError(MomeError, FileExistsError):
    """A store was to be created where something is already."""


class StoreLockedError(MomeError):
    """Another process (or another handle of this one) holds the store's writer lock."""

    def __init__(self, path: Path | str, owner: str | None = None) -> None:
        self.path = Path(path)
        self.owner = owner
        by = f" by {owner}" if owner else ""
        super().__init__(f"{path}: the store is already open for writing{by}; close that writer, or open with mode='r'")


class StoreReadOnlyError(MomeError):
    """A change was asked of a store that is open for reading, or lies in a place that can't be written."""


class TransactionError(MomeError):
    """A transaction was used after its end or after an error broke it, or a second one was begun beside it."""


class ClosedError(MomeError):
    """Something was used after it had been closed or released."""


class DamagedStoreError(MomeError):
    """Bytes on disk are not what was committed.

    Attributes: `file` (path within or of the store), `row` (array row, or None), `expert_id` (or None), `problem`.
    """

    def __init__(self, file: Path | str, row: int | None, expert_id: int | None, problem: str) -> None:
        self.file = str(file)
        self.row = row
        self.expert_id = expert_id
        self.problem = problem
        where = self.file
        if row is not None:
            where += f", row {row}"
        if expert_id is not None:
            where += f", expert {expert_id}"
        super().__init__(f"{where}: {problem}")


class FormatVersionError(MomeError):
    """The store was written by a format that this version does not know."""

    def __init__(self, path: Path | str, found: object, supported: int) -> None:
        self.path = Path(path)
        self.found = found
        self.supported = supported
        super().__init__(
            f"{path}: store format {found!r}, but this version of mome_store reads up to {supported}; "
            "upgrade mome_store"
        )


class UnknownIdError(MomeError, KeyError):
    """An expert or group id that the snapshot (or transaction) does not hold."""

    def __init__(self, kind: str, ids: list[int]) -> None:
        self.kind = kind
        self.ids = ids
        super().__init__(f"no live {kind} with id {', '.join(map(str, ids))}")

    def __str__(self) -> str:
        return str(self.args[0])


class CapacityError(MomeError):
    """A batch needs more experts at once than the cache has slots."""

    def __init__(self, needed: int, slots: int) -> None:
        self.needed = needed
        self.slots = slots
        super().__init__(
            f"the batch needs {needed} experts at once but the cache has {slots} slots; "
            "raise its capacity or split the batch"
        )


class DeviceMemoryError(MomeError, MemoryError):
    """A device has no memory for the cache. Attributes: `device`, `bytes` (what was asked for)."""

    def __init__(self, device: str, bytes: int) -> None:
        self.device = device
        self.bytes = bytes
        super().__init__(f"{device} has no {bytes} bytes of memory left for the expert cache; lower its capacity")


class DeviceError(MomeError):
    """A device is not there, can't be used or was lost. Attributes: `device`, `problem` (what its driver reported)."""

    def __init__(self, device: str, problem: str) -> None:
        self.device = device
        self.problem = problem
        super().__init__(f"{device}: {problem}")


class BaseModelMismatchError(MomeError):
    """The store's experts were trained beside another base model, or the base model can't be found."""


class FactError(MomeError, ValueError):
    """A fact that can't be memorised as given. Attributes: `line` (1-based, or None) and `reason`."""

    def __init__(self, line: int | None, reason: str) -> None:
        self.line = line
        self.reason = reason
        super().__init__(f"line {line}: {reason}" if line is not None else reason)


class AdapterError(MomeError, ValueError):
    """A PEFT adapter that a store can't take up as it is, or a group that no adapter can stand for.

    Attributes: `path` (the adapter's folder) and `reason`, which says the way out where there is one.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        self.path = Path(path)
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class TraceError(MomeError, ValueError):
    """A trace that can't be read or added to. Attributes: `path`, `line` (1-based, or None) and `reason`."""

    def __init__(self, path: Path | str, line: int | None, reason: str) -> None:
        self.path = Path(path)
        self.line = line
        self.reason = reason
        super().__init__(f"{path}: {reason}" if line is None else f"{path}, line {line}: {reason}")


class ReadError(MomeError, OSError):
    """The operating system refused a read. Attributes: `path`, `offset` (bytes), `errno`."""

    def __init__(self, path: Path | str, offset: int, errno: int) -> None:
        OSError.__init__(self, errno, f"read at offset {offset}: {os.strerror(errno)}", str(path))
        self.path = str(path)
        self.offset = offset


class WriteError(MomeError, OSError):
    """The operating system refused a write (disk full, no permission); nothing was committed."""

    def __init__(self, path: Path | str, errno: int) -> None:
        OSError.__init__(self, errno, f"nothing was committed: {os.strerror(errno)}", str(path))
        self.path = str(path)
