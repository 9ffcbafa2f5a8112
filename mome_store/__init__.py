"""mome_store: a memory of trained facts for a frozen language model.

What the package exports, and from where. Every name is imported when it is first used, so that `import mome_store`
costs next to nothing and loads neither torch nor the extension.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mome_store.errors import (
        AdapterError,
        BaseModelMismatchError,
        CapacityError,
        ClosedError,
        DamagedStoreError,
        DeviceError,
        DeviceMemoryError,
        FactError,
        FormatVersionError,
        MomeError,
        ReadError,
        SchemaError,
        StoreExistsError,
        StoreLockedError,
        StoreNotFoundError,
        StoreReadOnlyError,
        TraceError,
        TransactionError,
        UnknownIdError,
        WriteError,
    )
    from mome_store.modeling import MemoryModel
    from mome_store.routing import Route, Router
    from mome_store.runtime import ExpertCache
    from mome_store.store import ExpertSchema, ExpertStore, Memory
    from mome_store.tuning import MemoryTuner

__all__ = [
    "AdapterError",
    "BaseModelMismatchError",
    "CapacityError",
    "ClosedError",
    "DamagedStoreError",
    "DeviceError",
    "DeviceMemoryError",
    "ExpertCache",
    "ExpertSchema",
    "ExpertStore",
    "FactError",
    "FormatVersionError",
    "Memory",
    "MemoryModel",
    "MemoryTuner",
    "MomeError",
    "ReadError",
    "Route",
    "Router",
    "SchemaError",
    "StoreExistsError",
    "StoreLockedError",
    "StoreNotFoundError",
    "StoreReadOnlyError",
    "TraceError",
    "TransactionError",
    "UnknownIdError",
    "WriteError",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mome_store")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_home(name)), name)
    globals()[name] = value  # the next use is a plain lookup
    return value


def _home(name: str) -> str:
    """The module that defines an exported name."""
    match name:
        case "ExpertSchema" | "ExpertStore" | "Memory":
            return "mome_store.store"
        case "ExpertCache":
            return "mome_store.runtime"
        case "Route" | "Router":
            return "mome_store.routing"
        case "MemoryModel":
            return "mome_store.modeling"
        case "MemoryTuner":
            return "mome_store.tuning"
        case _:
            return "mome_store.errors"


def __dir__() -> list[str]:
    return [*globals(), *__all__]
